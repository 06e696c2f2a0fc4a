from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from agent import abi
from agent.datapath.events import decode, rule_name
from ztlab.model.verdict import Hook, Verdict

GENERATIONS = ((0, ()), (5, ("a", "b")), (9, ("c",)))


def record(**fields: object) -> bytes:
    values = {"verdict": Verdict.NO_RULE, "hook": Hook.INGRESS, "family": 4} | fields
    return bytes(abi.Event(**values))


def test_an_event_is_read_field_by_field() -> None:
    raw = record(
        at_ns=5,
        source=(*abi.pack_address(IPv6Address("fd00::1")),),
        destination=(*abi.pack_address(IPv6Address("fd00::2")),),
        source_tag=4,
        destination_tag=3,
        rule=2,
        epoch=5,
        packets=1,
        bytes=60,
        source_port=40000,
        destination_port=8080,
        family=6,
        protocol=6,
        tcp_flags=2,
        flags=1,
    )
    (event,) = decode(raw, boot_ns=1000, generations=GENERATIONS)
    assert event.unix_ns == 1005
    assert (event.source, event.destination) == (IPv6Address("fd00::1"), IPv6Address("fd00::2"))
    assert (event.source_tag, event.destination_tag, event.rule) == (4, 3, "b")
    assert (event.source_port, event.destination_port, event.protocol) == (40000, 8080, 6)
    assert (event.packets, event.length, event.tcp_flags, event.is_first) == (1, 60, 2, True)
    assert (event.verdict, event.hook) == (Verdict.NO_RULE, Hook.INGRESS)


def test_no_rule_and_no_address_are_none() -> None:
    (event,) = decode(record(family=0), boot_ns=0)
    assert event.rule is None and event.source is None and event.destination is None


def test_an_ipv4_address_has_four_bytes() -> None:
    source = (*abi.pack_address(IPv4Address("10.0.0.1")),)
    assert decode(record(source=source), boot_ns=0)[0].source == IPv4Address("10.0.0.1")


def test_events_of_several_rings_come_by_their_time() -> None:
    events = decode(record(at_ns=3) + record(at_ns=1) + record(at_ns=2), boot_ns=0)
    assert [event.unix_ns for event in events] == [1, 2, 3]


def test_a_rules_number_means_what_it_meant_in_its_epoch() -> None:
    assert [rule_name(GENERATIONS, epoch, 1) for epoch in (4, 5, 8, 9, 10)] == [
        *(None, "a", "a", "c", "c")
    ]
    assert rule_name(GENERATIONS, 9, 2) is None and rule_name(GENERATIONS, 9, 0) is None
