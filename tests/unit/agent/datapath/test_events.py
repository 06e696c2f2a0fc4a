from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from agent import abi
from agent.datapath.events import decode
from ztlab.model.verdict import Hook, Verdict


def record(**fields: object) -> bytes:
    values = {"verdict": Verdict.NO_RULE, "hook": Hook.INGRESS, "family": 4} | fields
    return bytes(abi.Event(**values))


def name(epoch: int, rule: int) -> str:
    return f"rule {rule} of epoch {epoch}"


def test_an_event_is_read_field_by_field() -> None:
    event = decode(
        record(
            at_ns=5,
            source=(*abi.pack_address(IPv6Address("fd00::1")),),
            destination=(*abi.pack_address(IPv6Address("fd00::2")),),
            source_tag=4,
            destination_tag=3,
            rule=2,
            epoch=9,
            packets=1,
            bytes=60,
            source_port=40000,
            destination_port=8080,
            family=6,
            protocol=6,
            tcp_flags=2,
            flags=1,
        ),
        boot_ns=1000,
        rule_name=name,
    )
    assert event.unix_ns == 1005
    assert (event.source, event.destination) == (IPv6Address("fd00::1"), IPv6Address("fd00::2"))
    assert (event.source_tag, event.destination_tag, event.rule) == (4, 3, "rule 2 of epoch 9")
    assert (event.source_port, event.destination_port, event.protocol) == (40000, 8080, 6)
    assert (event.packets, event.length, event.tcp_flags, event.is_first) == (1, 60, 2, True)
    assert (event.verdict, event.hook) == (Verdict.NO_RULE, Hook.INGRESS)


def test_no_rule_and_no_address_are_none() -> None:
    event = decode(record(family=0), boot_ns=0, rule_name=name)
    assert event.rule is None and event.source is None and event.destination is None


def test_an_ipv4_address_has_four_bytes() -> None:
    source = (*abi.pack_address(IPv4Address("10.0.0.1")),)
    assert decode(record(source=source), boot_ns=0, rule_name=name).source == IPv4Address(
        "10.0.0.1"
    )


@pytest.mark.parametrize("broken", [b"", record() + b"\0", record(verdict=99), record(hook=7)])
def test_what_is_no_event_is_refused(broken: bytes) -> None:
    with pytest.raises(ValueError):
        decode(broken, boot_ns=0, rule_name=name)
