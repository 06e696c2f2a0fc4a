"""A rule changes, and of a hundred real agents those enforce it whom it concerns: from the commit
to the packets.

Each node is one of a lab, with an agent and programs of its own. One of them sends a datagram every
10 ms to others; between two rounds the rule that lets them through turns from allow to deny or
back. What counts is when the last one came, or the first one. In two shapes:

gateways  ninety clients of ten gateways, which enforce: each client has a tunnel to each
mesh      each has a tunnel to each, and all but one enforce; twenty are probed
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from tests.bench.report import Figure, at_most, beside
from tests.e2e import revoked
from tests.e2e.revoked import EVERY_S, PORT
from tests.e2e.waiting import wait_until
from ztlab.lab import build, teardown
from ztlab.lab.lab import Lab
from ztlab.model.config import Role
from ztlab.model.policy import Action

# A mesh of n takes a time to come up that grows with its cube: a hundred need ten minutes.
SHAPES = {
    "gateways": int(os.environ.get("ZT_BENCH_AGENTS", "100")),
    "mesh": int(os.environ.get("ZT_BENCH_MESH", "40")),
}
PROBED = 20
ROUNDS = 30
UP_S = 900.0
SILENCE_S = 1.5  # who gets nothing for so long enforces the denial
BAR_P50_MS, BAR_P99_MS = 200.0, 1000.0


@dataclass(frozen=True, slots=True)
class Round:
    """One change of the rule. Milliseconds, of each node that is probed, sorted.

    committed  since the coordinator answered, which it does after the commit
    asked      since it was asked
    """

    committed: list[float]
    asked: list[float]


def measure() -> list[Figure]:
    """From the commit, and (beside) from the request, until packets meet the new rule."""
    return [figure for shape, nodes in SHAPES.items() for figure in _measured(shape, nodes)]


def _measured(shape: str, nodes: int) -> list[Figure]:
    enforcing = max(1, nodes // 10) if shape == "gateways" else nodes - 1
    with _lab(shape, nodes, enforcing) as lab, ExitStack() as stack:
        print(f"  {shape}: {nodes} agents are up", flush=True)
        probes = Probes(lab, stack, min(PROBED, enforcing))
        wait_until(lambda: probes.all_heard_since(0.0), 60)
        found = []
        for i in range(ROUNDS):
            found.append(_change(lab, probes, "deny" if i % 2 == 0 else "allow"))
            if i % 10 == 9:
                print(f"  {shape}: {i + 1} of {ROUNDS} rounds", flush=True)
    committed = sorted(at for one in found for at in one.committed)
    asked = sorted(at for one in found for at in one.asked)
    name = f"commit to enforced, {nodes} agents, {shape}"
    return [
        at_most(f"{name}: p50", [_p(committed, 50)], "ms", BAR_P50_MS),
        at_most("  p99", [_p(committed, 99)], "ms", BAR_P99_MS),
        beside("  slowest", [committed[-1]], "ms"),
        beside("  from the request: p50", [_p(asked, 50)], "ms"),
        beside("  from the request: p99", [_p(asked, 99)], "ms"),
    ]


class Probes:
    """A datagram every 10 ms from one node to each of those that are probed, and when they came."""

    def __init__(self, lab: Lab, stack: ExitStack, count: int) -> None:
        self.last: dict[str, float] = {}
        self.first: dict[str, float] = {}  # since forget()
        self._nodes = [f"api{i}" for i in range(count)]
        self._over = threading.Event()
        self._targets: list[tuple[str, int]] = []
        self._receivers: dict[socket.socket, str] = {}
        for node in self._nodes:
            address = lab.tunnel_addresses(node)[0].partition("/")[0]
            self._targets.append((address, PORT))
            receiver = stack.enter_context(revoked.bound(lab, node, address, PORT))
            self._receivers[receiver] = node
        address = lab.tunnel_addresses("web0")[0].partition("/")[0]
        self._sender = stack.enter_context(revoked.bound(lab, "web0", address, 0))
        for work in (self._send, self._take):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            stack.callback(thread.join, timeout=10)
        stack.callback(self._over.set)  # the last to come is the first to be called

    def all_heard_since(self, when: float) -> bool:
        """Has every node got something after WHEN?"""
        return all(self.last.get(node, 0.0) > when for node in self._nodes)

    def are_silent(self) -> bool:
        """Has no node got anything for a while?"""
        return time.monotonic() - max(self.last.values()) > SILENCE_S

    def forget(self) -> None:
        """What comes next is the first."""
        self.first.clear()

    def firsts(self) -> list[float] | None:
        """When the first one came, at each node; None until each has one."""
        found = dict(self.first)
        return [*found.values()] if len(found) == len(self._nodes) else None

    def _send(self) -> None:
        while not self._over.wait(EVERY_S):
            for target in self._targets:
                self._sender.sendto(b"x", target)

    def _take(self) -> None:
        while not self._over.is_set():
            for ready in select.select(list(self._receivers), [], [], 0.1)[0]:
                node = self._receivers[ready]
                while True:
                    try:
                        ready.recv(16)
                    except BlockingIOError:
                        break
                    self.last[node] = now = time.monotonic()
                    self.first.setdefault(node, now)


def _change(lab: Lab, probes: Probes, action: Action) -> Round:
    """Turn the rule to ACTION, and wait until all that is probed does so."""
    admin = lab.admin()
    if action == "deny":
        wait_until(partial(probes.all_heard_since, time.monotonic()))
    else:
        probes.forget()
    asked = time.monotonic()
    admin.put_rule(_rule(action), etag="*")
    answered = time.monotonic()
    if action == "deny":
        wait_until(probes.are_silent, 60)
        at = [*probes.last.values()]
    else:
        wait_until(lambda: probes.firsts() is not None, 60)
        at = probes.firsts() or []
    wait_until(lambda: admin.network().has_converged, 60)
    return Round(
        [max(0.0, one - answered) * 1000 for one in at],
        [max(0.0, one - asked) * 1000 for one in at],
    )


def _rule(action: Action) -> dict[str, object]:
    """The rule of revoked.plan()."""
    names = {"id": "web-to-api", "from": "web", "to": "api"}
    return {**names, "proto": "udp", "ports": [PORT], "action": action}


def _p(ordered: list[float], percent: int) -> float:
    return ordered[len(ordered) * percent // 100]


@contextmanager
def _lab(shape: str, nodes: int, enforcing: int) -> Iterator[Lab]:
    roles: tuple[Role, Role] = ("client", "gateway") if shape == "gateways" else ("mesh", "mesh")
    name = f"enforced-{os.getpid()}"
    plan = revoked.plan(name, nodes - enforcing, enforcing, roles)
    lab = build.up(plan, timeout_s=UP_S)
    try:
        yield lab
    finally:
        teardown.down(name)
