"""Records of flows say what the real programs counted, and flows that are over leave the table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from agent.abi import Event, EventFlag
from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from agent.datapath.sweep import FlowSweep, KernelFlows
from agent.events import Names
from agent.feed import DatapathFeed
from agent.flowlog import EventBuffer, FlowLog
from agent.ledger import Ledger
from tests.kernel import packets as p
from tests.kernel import testrun
from tests.kernel.conftest import MARKS, Node
from tests.kernel.device import until
from tests.unit.agent.datapath.configs import TAGS, node_config, rule
from ztlab.model.logbatch import SIZE
from ztlab.model.verdict import AuthzMode, Hook, Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

WEB_TO_API = rule("web-to-api", "web", "api", "allow")
QUESTION, ANSWER = (
    p.udp(p.WEB, p.API, 1000, 53, b"?" * 10),
    p.udp(p.API, p.WEB, 53, 1000, b"!" * 20),
)
SYN = p.tcp(p.WEB, p.API, 40000, 8080, "S")
OVER_S = 3602  # beyond every idle time


class Told:
    """What a pass after the other tells of NODE's flows."""

    def __init__(self, datapath: Datapath) -> None:
        self._sweep = FlowSweep(KernelFlows(datapath.flows))

    def next(self) -> list[Event]:
        told = b"".join(self._sweep.records(lambda: sys.maxsize))
        events = list((Event * (len(told) // SIZE)).from_buffer_copy(told))
        return sorted(events, key=lambda e: (e.flags, e.source_port))


def sums(events: list[Event]) -> list[tuple[EventFlag, int, int, int]]:
    return [(EventFlag(e.flags), e.source_port, e.packets, e.bytes) for e in events]


def test_a_flow_of_n_packets_ends_with_n_packets_and_their_bytes(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    told = Told(node.datapath)
    first = node.ingress(QUESTION).event
    assert told.next() == []  # the programs told of it
    for _ in range(16):
        node.ingress(QUESTION)
    for _ in range(5):
        node.egress(ANSWER)
    assert sums(told.next()) == [
        (EventFlag.UPDATE, 53, 5, 5 * 48),
        (EventFlag.UPDATE, 1000, 17, 17 * 38),
    ]
    node.ingress(QUESTION)
    assert sums(told.next()) == [(EventFlag.UPDATE, 1000, 18, 18 * 38)]
    node.ingress(QUESTION)  # after the last update
    node.age_flows(182)
    back, there = told.next()
    assert sums([back, there]) == [
        (EventFlag.END, 53, 5, 5 * 48),
        (EventFlag.END, 1000, 19, 19 * 38),
    ]
    assert (there.source_tag, there.destination_tag) == (TAGS["web"], TAGS["api"])
    assert (back.source_tag, back.destination_tag) == (TAGS["api"], TAGS["web"])
    for event in (there, back):
        assert (event.verdict, event.hook, event.rule) == (Verdict.ALLOWED, Hook.INGRESS, 1)
        assert event.epoch == node.datapath.epoch and event.began_ns > 0
    assert node.flows() == {} and told.next() == []
    # What was taken out was none to the programs already: the next packet begins a flow.
    again = node.ingress(QUESTION)
    assert (again.verdict, again.event.is_first) == (first.verdict, True)


@pytest.mark.parametrize(
    ("packets", "idle_s"),
    [
        ((SYN,), 3600),
        ((SYN, p.tcp(p.WEB, p.API, 40000, 8080, "FA")), 3600),
        ((SYN, p.tcp(p.WEB, p.API, 40000, 8080, "R")), 10),
        ((QUESTION,), 180),
        ((p.echo_request(p.WEB, p.API, id=77),), 30),
    ],
    ids=["TCP", "half closed", "reset", "UDP", "ICMP"],
)
def test_a_flow_is_kept_as_long_as_the_programs_know_it(
    node: Node, packets: tuple[bytes, ...], idle_s: int
) -> None:
    node.configure(node_config(WEB_TO_API))
    told = Told(node.datapath)
    for packet in packets:
        node.ingress(packet)
    told.next()
    node.age_flows(idle_s - 1)
    assert told.next() == [] and len(node.flows()) == 1
    node.age_flows(2.5)
    assert [EventFlag(event.flags) for event in told.next()] == [EventFlag.END]
    assert node.flows() == {}


def test_a_connection_that_both_ends_finished_ends_after_its_last_acknowledgement(
    node: Node,
) -> None:
    node.configure(node_config(WEB_TO_API))
    told = Told(node.datapath)
    node.ingress(SYN)
    node.egress(p.tcp(p.API, p.WEB, 8080, 40000, "SA"))
    node.ingress(p.tcp(p.WEB, p.API, 40000, 8080, "FA"))
    node.egress(p.tcp(p.API, p.WEB, 8080, 40000, "FA"))
    assert {event.flags for event in told.next()} == {EventFlag.UPDATE}
    node.ingress(p.tcp(p.WEB, p.API, 40000, 8080, "A"))
    node.age_flows(12)
    assert sums(told.next()) == [(EventFlag.END, 8080, 2, 80), (EventFlag.END, 40000, 3, 120)]


def test_a_super_packet_is_as_many_as_its_segments(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    told = Told(node.datapath)
    packet = p.tcp(p.WEB, p.API, 1, 8080, "A", b"x" * 2000)
    for _ in range(3):
        node.ingress(packet, gso=(4, 500))
    node.age_flows(OVER_S)
    assert sums(told.next()) == [(EventFlag.END, 1, 12, 3 * (2000 + 4 * 40))]


def test_in_observe_and_where_the_far_end_judges_a_flow_is_observed(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    told = Told(node.datapath)
    node.egress(p.udp(p.API, p.GUEST, 5000, 53))
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    node.ingress(p.udp(p.GUEST, p.API, 6000, 53))
    node.age_flows(OVER_S)
    sent, met = told.next()
    assert (sent.verdict, sent.hook, sent.source_port) == (Verdict.OBSERVED, Hook.EGRESS, 5000)
    assert (met.verdict, met.hook, met.source_port) == (Verdict.OBSERVED, Hook.INGRESS, 6000)
    assert sent.rule == met.rule == 0


def test_of_a_flow_that_was_cut_only_what_went_on_is_counted(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    told = Told(node.datapath)
    for _ in range(3):
        node.ingress(QUESTION)
    node.configure(node_config())
    for _ in range(4):
        assert node.ingress(QUESTION).verdict is Verdict.NO_RULE
    node.age_flows(OVER_S)
    (only,) = told.next()
    assert (only.packets, only.verdict, only.rule) == (3, Verdict.ESTABLISHED, 0)


def test_a_new_connection_in_the_place_of_a_finished_one_ends_that_one(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    told = Told(node.datapath)
    for packet in (SYN, p.tcp(p.WEB, p.API, 40000, 8080, "R")):
        node.ingress(packet)
    told.next()
    node.ingress(SYN)
    (ended,) = told.next()
    assert (ended.flags, ended.packets) == (EventFlag.END, 2)
    node.ingress(p.tcp(p.WEB, p.API, 40000, 8080, "A"))
    (live,) = told.next()
    assert (live.flags, live.packets) == (EventFlag.UPDATE, 2)
    assert live.began_ns > ended.at_ns >= ended.began_ns


def test_an_entry_is_put_back_as_it_was_but_never_over_another(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    node.ingress(QUESTION)
    table = KernelFlows(node.datapath.flows)
    ((key, value),) = node.datapath.flows.items().items()
    assert table.take(key) == value and table.take(key) is None
    assert table.put_back(key, value) and node.datapath.flows.items() == {key: value}
    node.ingress(QUESTION)
    assert not table.put_back(key, value)
    ((_, newer),) = node.datapath.flows.items().items()
    assert newer != value


# --- through the agent's own consumer ---


@pytest.fixture
def small() -> Iterator[Datapath]:
    """Room for 128 flows."""
    made = Datapath.load(
        marks=MARKS, limits=Limits(flows=128), l3_offset=testrun.ETHERNET, loader="libbpf"
    )
    made.set_authz_mode(AuthzMode.OBSERVE)
    yield made
    made.close()


def open_flows(datapath: Datapath, ports: range, packets: int) -> None:
    for port in ports:
        packet = p.udp(p.WEB, p.API, port, 53)
        testrun.run(datapath.programs[Hook.INGRESS], packet, repeat=packets)


def test_flows_that_a_full_table_forgot_end_with_what_was_seen_of_them(small: Datapath) -> None:
    told = Told(small)
    open_flows(small, range(100, 164), 3)
    assert {(e.flags, e.packets) for e in told.next()} == {(EventFlag.UPDATE, 3)}
    open_flows(small, range(1000, 2000), 2)
    events = told.next()
    ended = {e.source_port: e.packets for e in events if e.flags == EventFlag.END}
    left = {e.source_port for e in events if e.flags == EventFlag.UPDATE}
    there = {key.low_port ^ key.high_port ^ 53 for key in Node(small).flows()}
    assert ended and set(ended.values()) == {3}
    assert set(ended) == set(range(100, 164)) - there
    assert left == there - set(range(100, 164)) and 0 < len(left) <= 128


@pytest.mark.parametrize(
    ("switch", "records"),
    [
        (lambda datapath: datapath.set_logging(True, "flow"), 2),
        (lambda datapath: datapath.set_logging(True, "packet"), 0),
        (lambda datapath: datapath.set_logging(False), 0),
    ],
    ids=["flow", "packet", "off"],
)
def test_only_where_flows_are_logged_are_they_told_of_and_all_leave_the_table(
    node: Node, switch: Callable[[Datapath], None], records: int
) -> None:
    node.configure(node_config(WEB_TO_API))
    node.ingress(QUESTION)
    node.egress(ANSWER)
    switch(node.datapath)
    feed = DatapathFeed(node.datapath, Names())
    node.age_flows(OVER_S)
    assert sum(len(chunk) for chunk in feed.flow_records(lambda: sys.maxsize)) == records
    assert node.flows() == {}


def test_the_account_has_what_programs_and_agent_made_of_a_flow(
    small: Datapath, tmp_path_factory: pytest.TempPathFactory
) -> None:
    small.set_logging(True, "flow")
    ledger = Ledger(tmp_path_factory.mktemp("account") / "log.counts")
    ledger.begin(account=small.log_account, consumed=small.consumed_events)
    buffer = EventBuffer(ledger, capacity=1000 * SIZE, flush_at=SIZE, flush_after_s=0.01)
    feed = DatapathFeed(small, Names())
    log = FlowLog(
        ledger,
        buffer,
        read=feed.read,
        emitted=feed.emitted,
        push=len,
        is_ready=lambda: True,
        sweep=feed.flow_records,
        sweep_s=0.02,
    )
    log.start()
    open_flows(small, range(1, 41), 7)
    node = Node(small)
    until(lambda: log.counts().flow_records >= 40, "updates")
    node.age_flows(OVER_S)
    until(lambda: log.counts().flow_records >= 80, "ends")
    log.stop()
    counts = log.counts()
    assert counts.in_flight == 0
    assert counts.emitted == counts.delivered == 40 + counts.flow_records
    assert node.flows() == {}
