"""A node is revoked: how long its traffic still comes through, at the other nodes of a real lab."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.report import Figure, at_most, beside
from tests.e2e import revoked
from ztlab.lab import build, teardown
from ztlab.lab.lab import Lab

SENDERS, RECEIVERS = 25, 4
FLOWS = SENDERS * RECEIVERS
BAR_S = 1.0


def measure() -> list[Figure]:
    """From asking the coordinator to the last datagram of each flow."""
    with _lab() as lab:
        taken = revoked.revoke_each(lab, SENDERS, RECEIVERS)
    p50, p99 = taken[FLOWS // 2 - 1], taken[FLOWS * 99 // 100 - 1]
    return [
        beside(f"a node is revoked, {FLOWS} flows to {RECEIVERS} nodes: p50", [p50], "s"),
        at_most("  p99", [p99], "s", BAR_S),
        beside("  slowest", [taken[-1]], "s"),
    ]


@contextmanager
def _lab() -> Iterator[Lab]:
    name = f"revoked-{os.getpid()}"
    lab = build.up(revoked.plan(name, SENDERS, RECEIVERS))
    try:
        yield lab
    finally:
        teardown.down(name)
