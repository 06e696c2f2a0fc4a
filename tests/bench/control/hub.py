"""A gateway and 5,000 clients on one coordinator: what a stream costs, and how quickly who hears
of what."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing

from tests.bench.control.agents import Agents, Told, simulated
from tests.bench.control.served import Owner, Served, serving
from tests.bench.report import Figure, at_most, beside, claim

CLIENTS = int(os.environ.get("ZT_BENCH_CLIENTS", "5000"))
RULES = 1000
ROUNDS = 100
OPEN_S, SETTLE_S = 600.0, 300.0


def measure() -> list[Figure]:
    """Memory, and the time from the request that changes something to the nodes."""
    figures = []
    with serving({"gateway": 1, "client": CLIENTS}, RULES) as served:
        with simulated(served) as agents, closing(Owner(served)) as owner:
            seconds = agents.open(served.nodes, within_s=OPEN_S)
            settled(owner, agents)
            figures.append(beside(f"{CLIENTS:,} streams opened in", [seconds], "s"))
            resident = served.resident_bytes() / 1e6
            figures.append(at_most(f"{CLIENTS:,} streams: resident", [resident], "MB", 600))
            print(f"  {seconds:.0f} s to open, {resident:.0f} MB", flush=True)
            figures += one_rule(served, owner, agents)
            print(f"  a rule: {figures[-4].value:.0f} ms", flush=True)
            figures += one_joins(served, owner, agents)
            print(f"  one joins: {figures[-2].value:.0f} B to the gateway", flush=True)
            figures += one_endpoint(served, owner, agents)
            resident = served.resident_bytes() / 1e6
            figures.append(at_most("  resident after all that", [resident], "MB", 600))
    return figures


def one_rule(served: Served, owner: Owner, agents: Agents) -> list[Figure]:
    """A rule is changed: the gateway is told, and nobody else."""
    waits, sizes, strangers = [], [], 0
    for i in range(ROUNDS):
        rule = {"action": "deny" if i % 2 == 0 else "allow"}
        begun = time.monotonic()
        owner.ask("PATCH", "/policy/rules/r1", rule)
        told = collect(agents, lambda found: any(one.node == "gateway0" for one in found))
        # By the time that the gateway's acknowledgement is stored, whoever else is told was told.
        converge(owner)
        told += agents.told()
        (mine,) = (one for one in told if one.node == "gateway0")
        waits.append((mine.at - begun) * 1000)
        sizes.append(mine.size)
        strangers += len(told) - 1
    time.sleep(1)  # and whoever was later is here by now
    strangers += len(agents.told())
    waits.sort()
    p99 = waits[len(waits) * 99 // 100 - 1]
    return [
        at_most("one rule changed: the gateway has it, p99", [p99], "ms", 1000),
        beside("  median", waits, "ms"),
        beside("  bytes to the gateway", [float(size) for size in sizes], "B"),
        claim("  no other node is sent a configuration", holds=strangers == 0),
    ]


def one_joins(served: Served, owner: Owner, agents: Agents) -> list[Figure]:
    """A client enrols: what the gateway is sent."""
    waits, sizes = [], []
    for i in range(5):
        agents.told()
        begun = time.monotonic()
        served.coordinator.enrol(f"new{i}", role="client", endpoint=None)
        told = collect(agents, lambda found: any(one.node == "gateway0" for one in found))
        mine = [one for one in told if one.node == "gateway0"]
        waits.append((mine[-1].at - begun) * 1000)
        sizes.append(float(sum(one.size for one in mine)))
        owner.ask("DELETE", f"/nodes/new{i}")  # it has no stream, and would never acknowledge
        settled(owner, agents)
    return [
        at_most("one client joins: bytes to the gateway", sizes, "B", 4096),
        beside("  from the first request of its enrolment until the gateway has it", waits, "ms"),
    ]


def one_endpoint(served: Served, owner: Owner, agents: Agents) -> list[Figure]:
    """The gateway's endpoint is changed: every client is told."""
    figures, times = [], []
    for i in range(3):
        begun = time.monotonic()
        owner.ask("PATCH", "/nodes/gateway0", {"endpoint": f"198.51.100.1:{2000 + i}"})
        answered = time.monotonic()
        told = collect(agents, lambda found: len({one.node for one in found}) >= CLIENTS)
        waits = sorted(one.at - begun for one in told)
        times.append(waits[int(len(waits) * 0.99)])
        figures.append(beside(f"  endpoint, round {i}: answered", [answered - begun], "s"))
        settled(owner, agents)
        figures.append(
            beside(f"  endpoint, round {i}: all acknowledged", [time.monotonic() - begun], "s")
        )
    return [at_most("endpoint changed: all clients have it, p99", times, "s", 3), *figures]


def collect(agents: Agents, is_enough: Callable[[list[Told]], bool]) -> list[Told]:
    """What agents are told until it is enough."""
    deadline = time.monotonic() + SETTLE_S
    found: list[Told] = []
    while not is_enough(found):
        if time.monotonic() > deadline:
            raise TimeoutError("they were not told in time")
        time.sleep(0.02)
        found += agents.told()
    return found


def settled(owner: Owner, agents: Agents) -> None:
    """Wait until every node acknowledged what is wanted of it, and forget what it took."""
    converge(owner, every_s=0.5)
    agents.told()


def converge(owner: Owner, every_s: float = 0.05) -> None:
    """Wait until every node acknowledged what is wanted of it; asks EVERY_S seconds."""
    deadline = time.monotonic() + SETTLE_S
    while not owner.ask("GET", "/network")["has_converged"]:
        if time.monotonic() > deadline:
            raise TimeoutError("the network never converged")
        time.sleep(every_s)
