"""Nodes that send to others without a pause, revoked one by one: when their traffic stops."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from tests.e2e.waiting import wait_until
from ztlab.lab.lab import Lab
from ztlab.lab.plan import LabPlan, NodePlan
from ztlab.model.config import Role

PORT = 9000
EVERY_S = 0.01
QUIET_S = 1.5  # a flow that is silent for so long has stopped


def plan(
    name: str, senders: int, receivers: int, roles: tuple[Role, Role] = ("mesh", "mesh")
) -> LabPlan:
    """web0… and api0…, where each web may send to each api; ROLES are theirs."""
    names = [(f"web{i}", "web", roles[0]) for i in range(senders)]
    names += [(f"api{i}", "api", roles[1]) for i in range(receivers)]
    rule = {
        "id": "web-to-api",
        "from": "web",
        "to": "api",
        "proto": "udp",
        "ports": [PORT],
        "action": "allow",
    }
    return LabPlan(
        name=name,
        nodes=tuple(NodePlan(name=node, role=role, identity=of) for node, of, role in names),
        document={
            "identities": ["web", "api"],
            "groups": {},
            "resources": [],
            "policy": {"default": "deny", "rules": [rule], "tests": []},
        },
    )


class Traffic:
    """A datagram every 10 ms from each sender to each receiver, and when the last one came."""

    def __init__(self, lab: Lab, senders: int, receivers: int, stack: ExitStack) -> None:
        self.names = [f"web{i}" for i in range(senders)]
        self._at = [f"api{i}" for i in range(receivers)]
        self.last: dict[tuple[str, str], float] = {}
        self._over = threading.Event()
        self._owner: dict[str, str] = {}
        self._senders: list[socket.socket] = []
        self._receivers: dict[socket.socket, str] = {}
        self._targets: list[tuple[str, int]] = []
        for node in self._at:
            address = lab.tunnel_addresses(node)[0].partition("/")[0]
            self._targets.append((address, PORT))
            self._receivers[stack.enter_context(bound(lab, node, address, PORT))] = node
        for node in self.names:
            address = lab.tunnel_addresses(node)[0].partition("/")[0]
            self._owner[address] = node
            self._senders.append(stack.enter_context(bound(lab, node, address, 0)))
        for work in (self._send, self._take):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            stack.callback(thread.join, timeout=10)
        stack.callback(self._over.set)  # the last to come is the first to be called

    def _send(self) -> None:
        while not self._over.wait(EVERY_S):
            for sender in self._senders:
                for target in self._targets:
                    try:
                        sender.sendto(b"x", target)
                    except OSError:
                        # What a revoked node's own kernel says of its packets is no matter here.
                        continue

    def _take(self) -> None:
        while not self._over.is_set():
            for ready in select.select(list(self._receivers), [], [], 0.1)[0]:
                while True:
                    try:
                        _, source = ready.recvfrom(16)
                    except BlockingIOError:
                        break
                    now = time.monotonic()
                    self.last[self._owner[source[0]], self._receivers[ready]] = now

    def flows(self, sender: str) -> list[float]:
        """When the last datagram of SENDER came, at each receiver."""
        return [self.last.get((sender, node), 0.0) for node in self._at]

    def goes_on(self, sender: str, since: float) -> bool:
        """Did each receiver get something from SENDER after SINCE?"""
        return all(at > since for at in self.flows(sender))

    def has_stopped(self, sender: str) -> bool:
        """Has nobody got anything from SENDER for a while?"""
        return time.monotonic() - max(self.flows(sender)) > QUIET_S


@contextmanager
def bound(lab: Lab, node: str, address: str, port: int) -> Iterator[socket.socket]:
    """A UDP socket of NODE's at ADDRESS and PORT (0: any), which does not wait."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, port))
        made.setblocking(False)
        return made

    made: socket.socket = lab.call(node, make)  # a socket stays where it was made
    with made:
        yield made


def revoke_each(lab: Lab, senders: int, receivers: int) -> list[float]:
    """Revoke every sender in turn, while nobody else's traffic suffers.

    Returns: for each of the senders' flows, the seconds from asking the coordinator to the last
    datagram that came, sorted.
    """
    admin = lab.admin()
    taken: list[float] = []
    with ExitStack() as stack:
        traffic = Traffic(lab, senders, receivers, stack)
        for sender in traffic.names:
            wait_until(partial(traffic.goes_on, sender, 0.0), 30)
        for i, sender in enumerate(traffic.names):
            wait_until(partial(traffic.goes_on, sender, time.monotonic()))
            asked = time.monotonic()
            admin.revoke_node(sender)
            wait_until(partial(traffic.has_stopped, sender), 15)
            taken += [max(0.0, last - asked) for last in traffic.flows(sender)]
            for other in traffic.names[i + 1 :]:
                wait_until(partial(traffic.goes_on, other, time.monotonic()))
    assert len(taken) == senders * receivers
    return sorted(taken)
