"""What a verdict costs: 10,000 identities, 100,000 rules, 10,000 flows in random order.

    .venv/bin/python -m tests.bench.verdict

Root, JIT on. Nanoseconds a packet. BPF_PROG_TEST_RUN repeats one packet, so generator.c stands
before the program and makes it another each time. What that costs is measured before a program that
does nothing, and subtracted, except for what doing nothing costs, which every program pays.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agent.datapath.datapath import Datapath
from agent.datapath.marks import MarkLayout
from tests.bench import live, report
from tests.bench.generator import ACK, SYN, Generator, Mode, generator, tcp_packet
from tests.bench.workload import Workload, workload
from tests.kernel import testrun
from ztlab.model.verdict import Hook, Verdict

RULES = 100_000
ROUNDS = 15
REPEAT = 300_000
FRESH = 6_000  # events of these fit into the ring of one CPU
FRESH_RUNS = 4
ESTABLISHED_NS, FIRST_NS = 200, 1000
_MARKS = MarkLayout.from_mask(0xFF002000)
_JIT = Path("/proc/sys/net/core/bpf_jit_enable")

Rounds = dict[str, list[float]]


@contextmanager
def gateway(load: Workload) -> Iterator[Datapath]:
    """LOAD's data plane, enforcing, with flow logging on, with every flow of it established."""
    datapath = Datapath.load(
        marks=_MARKS, limits=load.limits, l3_offset=testrun.ETHERNET, loader="libbpf"
    )
    try:
        state = load.state()
        datapath.apply_policy(state)
        datapath.put_identities(state)
        datapath.set_logging(True, "flow")
        yield datapath
    finally:
        datapath.close()


def counted(datapath: Datapath, verdict: Verdict) -> int:
    """Packets with this verdict so far."""
    return sum(c.packets for c in datapath.counters() if c.verdict is verdict)


def established(datapath: Datapath, packets: Generator) -> float:
    """One round: packets of flows that are known. Raw, with the generator's cost in it."""
    program = datapath.programs[Hook.INGRESS]
    packets.run(program, Mode.IN_ORDER, packets.flows)
    drain(datapath)
    before = counted(datapath, Verdict.ESTABLISHED)
    took = packets.run(program, Mode.RANDOM, REPEAT)
    assert counted(datapath, Verdict.ESTABLISHED) - before == REPEAT, "not all were established"
    return took


def first(datapath: Datapath, packets: Generator) -> float:
    """One round: packets that each begin a flow and make an event. Raw, as above."""
    program = datapath.programs[Hook.INGRESS]
    drain(datapath)
    before, events = counted(datapath, Verdict.ALLOWED), datapath.log_counters()
    took = 0.0
    for _ in range(FRESH_RUNS):
        took += packets.run(program, Mode.FRESH, FRESH, flags=SYN) / FRESH_RUNS
        drain(datapath)
    made = FRESH * FRESH_RUNS
    assert counted(datapath, Verdict.ALLOWED) - before == made, "not all were allowed"
    now = datapath.log_counters()
    assert (now.emitted - events.emitted, now.ring_full) == (made, events.ring_full)
    return took


def first_with_room(datapath: Datapath, packets: Generator) -> float:
    """The same, where nobody has to go for the new flows."""
    flows = datapath._maps["zt_flows"]
    flows.delete(flows.items())
    took = first(datapath, packets)
    assert datapath.flow_count() < 0.75 * flows.max_entries
    return took


def drain(datapath: Datapath) -> None:
    """Take all events out of the rings, as the agent would all the time."""
    while datapath.read_events(0):
        pass


def own_cost(packets: Generator, mode: Mode) -> float:
    """One round: what the generator itself costs, doing nothing apart."""
    return packets.run(packets.nothing, mode, REPEAT) - nothing(packets)


def nothing(packets: Generator) -> float:
    """One round: a program that does nothing, once for each packet."""
    return testrun.run(
        packets.nothing, tcp_packet(packets.template, ACK), repeat=REPEAT
    ).duration_ns


def one_flow(datapath: Datapath, packets: Generator) -> float:
    """One round: the same packet of one flow all the time, without generator."""
    packet = tcp_packet(packets.template, ACK)
    return testrun.run(datapath.programs[Hook.INGRESS], packet, repeat=REPEAT).duration_ns


def measured(cases: Mapping[str, Callable[[], float]], rounds: int) -> Rounds:
    """Every case once in each round, in an order of its own."""
    found: Rounds = {name: [] for name in cases}
    for _ in range(rounds):
        for name in random.sample(list(cases), len(cases)):
            found[name].append(cases[name]())
    return found


def test_runs() -> list[report.Figure]:
    """The programs by BPF_PROG_TEST_RUN."""
    load = workload(RULES)
    with generator() as packets, gateway(load) as full, gateway(load) as room:
        packets.use(load.flows)
        while full.flow_count() < load.limits.flows * 0.95:
            first(full, packets)
        found = measured(
            {
                "nothing": lambda: nothing(packets),
                "generator": lambda: own_cost(packets, Mode.RANDOM),
                "generator fresh": lambda: own_cost(packets, Mode.FRESH),
                "one": lambda: one_flow(full, packets),
                "established": lambda: established(full, packets),
                "full": lambda: first(full, packets),
                "room": lambda: first_with_room(room, packets),
            },
            ROUNDS,
        )
    net = {
        name: [value - min(found[without]) for value in found[name]]
        for name, without in (
            ("established", "generator"),
            ("full", "generator fresh"),
            ("room", "generator fresh"),
        )
    }
    return [
        report.at_most("established, random flow", net["established"], "ns", ESTABLISHED_NS),
        report.at_most("first packet, insert, event", net["room"], "ns", FIRST_NS),
        report.at_most("  the flow table full", net["full"], "ns", FIRST_NS),
        report.beside("established, one flow", found["one"], "ns"),
        report.beside("a program that does nothing", found["nothing"], "ns"),
        report.beside("the generator, subtracted", found["generator"], "ns"),
        report.beside("  with fresh flows", found["generator fresh"], "ns"),
    ]


def main() -> None:
    """Measure and publish."""
    assert _JIT.read_text().strip() != "0", f"the JIT is off: echo 1 > {_JIT}"
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    report.publish("verdict", test_runs() + live.figures())


if __name__ == "__main__":
    main()
