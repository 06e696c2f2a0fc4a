"""A mesh: one node joins, and everybody is told. What is pushed in total grows with the number of
nodes, and not with its square."""

from __future__ import annotations

import time
from contextlib import closing

from tests.bench.control.agents import simulated
from tests.bench.control.hub import OPEN_S, collect, settled
from tests.bench.control.served import Owner, serving
from tests.bench.report import Figure, at_most, beside

SIZES = (250, 500)
RULES = 100


def measure() -> list[Figure]:
    """Bytes and time at half the size and at the whole."""
    found = [_one_joins(count) for count in SIZES]
    (half, _), (whole, seconds) = found
    return [
        beside("mesh of 250, one joins: pushed in total", [half], "B"),
        beside("mesh of 500, one joins: pushed in total", [whole], "B"),
        at_most("  500 to 250: times as much", [whole / half], "", 2.5),
        beside("  all of 500 have it after", [seconds], "s"),
    ]


def _one_joins(count: int) -> tuple[float, float]:
    """Bytes to all who were there, and the seconds until the last had it."""
    with serving({"mesh": count}, RULES) as served:
        with simulated(served) as agents, closing(Owner(served)) as owner:
            agents.open(served.nodes, within_s=OPEN_S)
            settled(owner, agents)
            begun = time.monotonic()
            served.coordinator.enrol("new", role="mesh")
            told = collect(agents, lambda found: len({one.node for one in found}) >= count)
            return float(sum(one.size for one in told)), max(one.at for one in told) - begun
