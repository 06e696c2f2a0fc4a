"""Rows of the flow table become records of the log, and those that are over are found."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import abi
from agent.abi import Event, EventFlag, Flow, FlowFlag, FlowKey, Origin
from agent.datapath import flowrows
from agent.datapath.flowrows import NEWBORN, NOTHING
from tests.contract.tree import ROOT
from tests.unit.agent.datapath.flowtable import JUDGED, NOW_NS, counted, flow, key
from ztlab.model import logbatch
from ztlab.model.verdict import Hook, Verdict

SECOND = 10**9


def said(*rows: tuple[bytes, bytes, bytes], kind: EventFlag = EventFlag.END) -> list[Event]:
    made = flowrows.records(rows, kind)
    assert logbatch.faulty(made) == []
    return list((Event * (len(made) // logbatch.SIZE)).from_buffer_copy(made))


def ends(event: Event) -> tuple[Any, ...]:
    source, destination = (
        abi.unpack_address(event.family, bytes(end)) for end in (event.source, event.destination)
    )
    return str(source), event.source_port, str(destination), event.destination_port


def test_a_flow_is_told_of_in_both_directions() -> None:
    there, back = said((key(), flow(), NOTHING))
    assert ends(there) == ("10.0.0.1", 40000, "10.0.0.2", 8080)
    assert ends(back) == ("10.0.0.2", 8080, "10.0.0.1", 40000)
    assert (there.packets, there.bytes, back.packets, back.bytes) == (3, 300, 2, 2000)
    assert (there.source_tag, there.destination_tag) == (17, 23)
    assert (back.source_tag, back.destination_tag) == (23, 17)
    for event in (there, back):
        assert (event.began_ns, event.at_ns) == (NOW_NS - 5 * SECOND, NOW_NS - SECOND)
        assert (event.rule, event.epoch, event.verdict) == (5, 9, Verdict.ALLOWED)
        assert (event.protocol, event.hook, event.flags) == (6, Hook.INGRESS, EventFlag.END)


def test_the_end_that_began_a_flow_is_its_source_also_where_it_is_the_high_one() -> None:
    high = flow(flags=FlowFlag.FROM_HIGH)
    there, back = said((key("fd00::1", "fd00::2"), high, NOTHING), kind=EventFlag.UPDATE)
    assert ends(there) == ("fd00::2", 8080, "fd00::1", 40000) and there.packets == 3
    assert ends(back) == ("fd00::1", 40000, "fd00::2", 8080) and back.packets == 2
    assert (there.source_tag, back.source_tag) == (17, 23)
    assert there.flags == back.flags == EventFlag.UPDATE


def test_only_a_direction_that_moved_is_told_of() -> None:
    before = flow()
    (only,) = said((key(), counted(before, (0, 4)), before))
    assert (only.packets, only.bytes) == (6, 2400)
    assert ends(only)[0] == "10.0.0.2"
    assert said((key(), counted(before, (0, 0), flags=FlowFlag.RESET), before)) == []


def test_of_a_new_flow_the_first_packet_was_told_already() -> None:
    assert said((key(), flow(packets=(1, 0), bytes=(60, 0)), NEWBORN)) == []
    (answer,) = said((key(), flow(packets=(1, 1)), NEWBORN))
    assert ends(answer)[0] == "10.0.0.2"
    assert len(said((key(), flow(packets=(2, 1)), NEWBORN))) == 2


@pytest.mark.parametrize(
    ("fields", "verdict", "rule", "hook"),
    [
        ({}, Verdict.ALLOWED, (5, 9), Hook.INGRESS),
        ({"origin": Origin.LAN}, Verdict.ALLOWED, (5, 9), Hook.EGRESS),
        # The destination judges it.
        (
            {"origin": Origin.LOCAL, "judged": 9 << 32 | Verdict.ALLOWED},
            Verdict.OBSERVED,
            (0, 9),
            Hook.EGRESS,
        ),
        ({"judged": int(Verdict.ALLOWED)}, Verdict.OBSERVED, (0, 0), Hook.INGRESS),
        # Cut since by a rule that let none of its packets through.
        (
            {"judged": 10 << 32 | 2 << 8 | Verdict.DENY_RULE},
            Verdict.ESTABLISHED,
            (0, 0),
            Hook.INGRESS,
        ),
        (
            {"origin": Origin.LOCAL, "judged": 10 << 32 | Verdict.UNKNOWN_DESTINATION},
            Verdict.ESTABLISHED,
            (0, 0),
            Hook.EGRESS,
        ),
    ],
)
def test_the_verdict_is_that_on_the_packets_that_went_on(
    fields: dict[str, Any], verdict: Verdict, rule: tuple[int, int], hook: Hook
) -> None:
    for event in said((key(), flow(**fields), NOTHING)):
        assert Verdict(event.verdict) is verdict and not Verdict(event.verdict).is_drop
        assert (event.rule, event.epoch) == rule
        assert event.hook == hook


def test_a_flow_without_ports_is_told_of_without_its_echo_identifier() -> None:
    ping = key(low_port=777, high_port=abi.ECHO_PORT, protocol=1)
    events = said((ping, flow(), NOTHING), (key(), flow(), NOTHING))
    ports = {(e.protocol, e.source_port, e.destination_port) for e in events}
    assert ports == {(1, 0, 0), (6, 40000, 8080), (6, 8080, 40000)}


Numbers = st.integers(0, 2**64 - 1)


@given(
    st.lists(
        st.builds(
            lambda low, port, p, b, flags, tags, rule, origin: (
                bytes(FlowKey(low=tuple(low), low_port=port, family=6, protocol=17)),
                flow(
                    packets=p,
                    bytes=b,
                    flags=flags,
                    source_tag=tags[0],
                    destination_tag=tags[1],
                    judged=JUDGED + (rule << 8),
                    origin=origin,
                ),
                NOTHING,
            ),
            st.binary(min_size=16, max_size=16),
            st.integers(0, 65535),
            st.tuples(Numbers, Numbers),
            st.tuples(Numbers, Numbers),
            st.integers(0, 15),
            st.tuples(st.integers(0, 2**24 - 1), st.integers(0, 2**24 - 1)),
            st.integers(0, 9),
            st.sampled_from((Origin.TUNNEL, Origin.LAN)),
        ),
        max_size=20,
    )
)
def test_columns_say_what_rows_one_by_one_would(rows: list[tuple[bytes, bytes, bytes]]) -> None:
    wanted = []
    for raw_key, value, _ in rows:
        k, f = FlowKey.from_buffer_copy(raw_key), Flow.from_buffer_copy(value)
        low, high = (bytes(k.low), k.low_port), (bytes(k.high), k.high_port)
        first, second = (high, low) if f.flags & FlowFlag.FROM_HIGH else (low, high)
        tags = (f.source_tag, f.destination_tag)
        rule = f.judged >> 8 & 0xFFFFFF
        if f.packets[0]:
            wanted.append((*first, *second, f.packets[0], f.bytes[0], *tags, rule))
        if f.packets[1]:
            wanted.append((*second, *first, f.packets[1], f.bytes[1], *tags[::-1], rule))
    found = [
        (
            bytes(e.source),
            e.source_port,
            bytes(e.destination),
            e.destination_port,
            e.packets,
            e.bytes,
            e.source_tag,
            e.destination_tag,
            e.rule,
        )
        for e in said(*rows)
    ]
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize(
    ("protocol", "flags", "idle_s"),
    [
        (6, FlowFlag(0), 3600),
        (6, FlowFlag.FIN_SOURCE, 3600),
        (6, FlowFlag.FIN_SOURCE | FlowFlag.FIN_OTHER, 10),
        (6, FlowFlag.RESET | FlowFlag.FROM_HIGH, 10),
        (17, FlowFlag(0), 180),
        (1, FlowFlag(0), 30),
        (58, FlowFlag(0), 30),
        (132, FlowFlag(0), 30),
    ],
)
def test_a_flow_is_over_a_second_after_the_programs_say_so(
    protocol: int, flags: FlowFlag, idle_s: int
) -> None:
    last = [NOW_NS - (idle_s + 1) * SECOND - 1, NOW_NS - (idle_s + 1) * SECOND, NOW_NS + SECOND]
    values = b"".join(flow(last_ns=at, flags=flags) for at in last)
    assert flowrows.expired(key(protocol=protocol) * 3, values, NOW_NS) == [0]


def test_a_flow_from_before_the_clocks_zero_is_over() -> None:
    assert flowrows.expired(key(), flow(last_ns=-3700 * SECOND), 0) == [0]
    assert flowrows.expired(key(), flow(last_ns=-100 * SECOND), 0) == []


def test_the_idle_times_are_those_of_the_programs() -> None:
    text = (ROOT / "bpf" / "zt_flow.h").read_text()
    found = dict(re.findall(r"#define (ZT_IDLE_\w+) \((\d+) \* ZT_SECOND\)", text))
    assert {name: int(number) for name, number in found.items()} == {
        "ZT_IDLE_TCP": flowrows.IDLE_TCP_S,
        "ZT_IDLE_TCP_CLOSING": flowrows.IDLE_TCP_CLOSING_S,
        "ZT_IDLE_UDP": flowrows.IDLE_UDP_S,
        "ZT_IDLE_OTHER": flowrows.IDLE_OTHER_S,
    }
