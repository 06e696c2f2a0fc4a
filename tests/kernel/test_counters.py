"""Counters and events: exact numbers, and logging that never changes a verdict."""

from __future__ import annotations

import struct
import time
from typing import Literal

import pytest

from agent import abi
from agent.datapath.libbpf import possible_cpus
from agent.datapath.parts import identity_counts
from tests.kernel import packets as p
from tests.kernel import testrun
from tests.kernel.conftest import Node
from tests.unit.agent.datapath.configs import TAGS, node_config, rule
from ztlab.model.verdict import AuthzMode, Hook, Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

WEB_TO_API = rule("web-to-api", "web", "api", "allow", proto="tcp", ports=(8080,))


def test_packets_and_bytes_are_counted_to_the_last_one(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    for payload in (b"", b"x" * 100, b"x" * 1000):
        node.ingress(p.tcp(p.WEB, p.API, 1, 8080, "A", payload))
    node.egress(p.tcp(p.API, p.WEB, 8080, 1, "A", b"x" * 10))
    for _ in range(5):
        node.ingress(p.udp(p.GUEST, p.API, 1, 2, b"x" * 22))
    node.ingress(p.udp(p.STRANGER6, p.API6, 1, 2, b"x" * 22))
    assert node.counted() == {
        (TAGS["web"], Hook.INGRESS, Verdict.ALLOWED): (1, 40),
        (TAGS["web"], Hook.INGRESS, Verdict.ESTABLISHED): (2, 140 + 1040),
        (TAGS["web"], Hook.EGRESS, Verdict.ESTABLISHED): (1, 50),
        (TAGS["guest"], Hook.INGRESS, Verdict.NO_RULE): (5, 250),
        (0, Hook.INGRESS, Verdict.UNKNOWN_SOURCE): (1, 70),
    }
    assert node.datapath.uncounted_packets() == 0


@pytest.mark.parametrize("gso", [(4, 500), (0, 500), (0, 510)], ids=["GRO", "tun", "tun, uneven"])
@pytest.mark.parametrize(
    ("packet", "header"),
    [
        (p.tcp(p.WEB, p.API, 1, 8080, "A", b"x" * 2000), 40),
        (p.udp(p.WEB6, p.API6, 1, 2, b"x" * 2000), 48),
    ],
    ids=["TCP", "UDP"],
)
def test_a_gso_packet_counts_as_its_segments(
    node: Node, packet: bytes, header: int, gso: tuple[int, int]
) -> None:
    node.configure(node_config(default="allow"))
    node.ingress(packet, gso=gso)
    counted = {(TAGS["web"], Hook.INGRESS, Verdict.ALLOWED): (4, 2000 + 4 * header)}
    assert node.counted() == counted


def test_a_drop_is_counted_under_its_source_also_at_egress(node: Node) -> None:
    node.configure(node_config(role="gateway"))
    node.from_lan(p.udp(p.LAN_HOST, p.WEB, 1, 2))
    node.from_lan(p.udp(p.GUEST, p.WEB, 1, 2))
    node.egress(p.udp(p.API, p.WEB, 1, 2))
    assert node.counted() == {
        (TAGS["lan"], Hook.EGRESS, Verdict.NO_RULE): (1, 28),
        (TAGS["guest"], Hook.EGRESS, Verdict.SPOOFED_SOURCE): (1, 28),
        (TAGS["web"], Hook.EGRESS, Verdict.OBSERVED): (1, 28),
    }


def test_an_event_tells_when_and_how_long(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    before = time.time_ns()
    event = node.ingress(p.tcp(p.WEB, p.API, 1, 8080, "S", b"x" * 60)).event
    # The two clocks are read one after the other, on a machine that may be busy.
    assert before - 1_000_000_000 < event.unix_ns < time.time_ns() + 1_000_000_000
    assert (event.packets, event.length) == (1, 100)


def test_an_event_of_a_packet_without_ports_has_none(node: Node) -> None:
    node.configure(node_config())
    event = node.ingress(p.echo_request(p.WEB, p.API, id=77)).event
    assert (event.source_port, event.destination_port, event.icmp_type) == (0, 0, 8)
    nobody = node.ingress(b"\x00" * 40).event
    assert nobody.source is None and nobody.verdict is Verdict.MALFORMED


def test_an_old_flows_rule_keeps_its_name_after_the_policy_changed(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    datapath = node.datapath
    packet = p.tcp(p.WEB, p.API, 1, 8080)
    testrun.run(datapath.programs[Hook.INGRESS], packet)
    node.configure(node_config(rule("first", "guest", "api", "allow"), WEB_TO_API))
    testrun.run(datapath.programs[Hook.INGRESS], packet)
    testrun.run(datapath.programs[Hook.INGRESS], p.udp(p.GUEST, p.API, 1, 2))
    assert [e.rule for e in datapath.read_events(0)] == ["web-to-api", "web-to-api", "first"]


@pytest.mark.parametrize("mode", AuthzMode, ids=lambda mode: mode.word)
def test_logging_changes_no_verdict(node: Node, mode: AuthzMode) -> None:
    node.configure(node_config(WEB_TO_API))
    node.datapath.set_authz_mode(mode)
    sent = [
        p.tcp(p.WEB, p.API, 1, 8080),
        p.tcp(p.WEB, p.API, 1, 8080, "A"),
        p.udp(p.GUEST, p.API, 1, 2),
        p.udp(p.STRANGER, p.API, 1, 2),
        b"\x00" * 40,
    ]
    seen = []
    settings: tuple[tuple[bool, Literal["flow", "packet"]], ...]
    settings = ((False, "flow"), (True, "flow"), (True, "packet"))
    for enabled, granularity in settings:
        node.datapath.set_logging(enabled, granularity)
        program = node.datapath.programs[Hook.INGRESS]
        seen.append([testrun.run(program, packet).retval for packet in sent])
        node.datapath._maps["zt_flows"].delete(node.datapath._maps["zt_flows"].items())
    assert seen[0] == seen[1] == seen[2]
    dropped = [retval == testrun.DROPPED for retval in seen[0]]
    assert dropped == (
        [False] * 5 if mode is AuthzMode.OBSERVE else [False, False, True, True, True]
    )


def test_flow_granularity_logs_first_packets_and_every_denial(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    node.datapath.set_logging(True, "flow")
    program = node.datapath.programs[Hook.INGRESS]
    for packet in (p.tcp(p.WEB, p.API, 1, 8080), p.udp(p.GUEST, p.API, 1, 2)):
        for _ in range(3):
            testrun.run(program, packet)
    verdicts = [event.verdict for event in node.datapath.read_events(0)]
    assert verdicts == [Verdict.ALLOWED, Verdict.NO_RULE, Verdict.NO_RULE, Verdict.NO_RULE]


def test_denials_beyond_the_rate_become_no_events_and_are_counted(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    program = node.datapath.programs[Hook.INGRESS]
    node.datapath.set_logging(True, "flow", denials_per_s=5)
    before = node.datapath.log_counters()

    testrun.run(program, p.udp(p.GUEST, p.API, 1, 2), repeat=1000)
    testrun.run(program, p.tcp(p.WEB, p.API, 1, 8080))

    events = node.datapath.read_events(0)
    denials = [event for event in events if event.verdict is Verdict.NO_RULE]
    after = node.datapath.log_counters()
    # A second may have ended meanwhile, and the CPU have been another.
    assert 5 <= len(denials) <= 5 * 2 * possible_cpus()
    assert after.suppressed - before.suppressed == 1000 - len(denials)
    assert after.emitted - before.emitted == len(events) == len(denials) + 1
    assert sum(packets for packets, _ in node.counted().values()) == 1001

    node.datapath.set_logging(True, "packet", denials_per_s=5)
    testrun.run(program, p.udp(p.GUEST, p.API, 1, 2), repeat=100)
    assert len(node.datapath.read_events(0)) == 100
    assert node.datapath.log_counters().suppressed == after.suppressed


def test_without_logging_there_are_no_events(node: Node) -> None:
    node.configure(node_config())
    node.datapath.set_logging(False)
    before = node.datapath.log_counters()
    testrun.run(node.datapath.programs[Hook.INGRESS], p.udp(p.GUEST, p.API, 1, 2))
    assert node.datapath.read_events(0) == []
    assert node.datapath.log_counters() == before


def test_a_full_ring_loses_events_counts_them_and_drops_no_packet(node: Node) -> None:
    node.configure(node_config(default="allow"))
    before = node.datapath.log_counters()
    program, packet = node.datapath.programs[Hook.INGRESS], p.udp(p.WEB, p.API, 1, 2)
    sent = 40_000  # more than a ring holds, also where one CPU has all of the room
    assert testrun.run(program, packet, repeat=sent).retval == testrun.PASSED
    after = node.datapath.log_counters()
    emitted, lost = after.emitted - before.emitted, after.ring_full - before.ring_full
    assert emitted + lost == sent and lost > 0
    read = 0
    while events := node.datapath.read_events(0):
        read += len(events)
    assert read == emitted and node.datapath.undecodable_events == 0
    assert sum(packets for packets, _ in node.counted().values()) == sent


def test_what_went_on_is_read_as_it_lay_in_schema_3_too(node: Node) -> None:
    """Before, the verdicts of one tag lay together; now the tags of one verdict."""
    through = node.datapath._maps["zt_through"]
    tags = through.max_entries // (8 * possible_cpus())
    tag, verdict = 5, int(Verdict.ESTABLISHED)
    key = bytes(abi.StatsKey(tag=tag, hook=Hook.EGRESS, verdict=verdict))
    for by_tag, index in ((True, tag << 2 | verdict), (False, verdict * tags + tag)):
        place = struct.pack("=I", 4 * tags + index)  # of the first CPU, at egress
        through.put({place: bytes(abi.Stats(packets=7, bytes=700))})

        assert identity_counts(node.datapath._maps["zt_stats"], through, by_tag=by_tag) == {
            key: (7, 700)
        }
        through.put({place: bytes(abi.Stats())})
