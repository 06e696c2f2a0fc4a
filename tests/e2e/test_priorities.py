"""A LAN behind two gateways is reached through one of them, and through the other on demand.

                ╔═ gate1 ─┐
    laptop, guest         ├─ files: where its answers go is its own matter, so it is told here
                ╚═ gate2 ─┘

What a gateway counted of a client's packets says whose way was taken.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.waiting import wait_until
from ztlab.lab import build, metrics, state, teardown
from ztlab.lab.lab import Lab
from ztlab.lab.pace import scaled
from ztlab.model.management import ANY_TAG, Offer
from ztlab.scenario.loading import from_data
from ztlab.scenario.model import Scenario
from ztlab.scenario.run import run

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.wireguard, pytest.mark.bpf]

PREFIXES = {"v4": "192.168.50.0/24", "v6": "fd50::/64"}
SWITCHED_WITHIN_S = 5.0  # what it takes where nothing else runs: tenths of a second


NETWORK: dict[str, Any] = {  # laptop may reach `files` on 8080, guest nothing; gate1 goes first
    "name": "priorities",
    "nodes": {
        "laptop": {"role": "client"},
        "guest": {"role": "client"},
        "gate1": {"role": "gateway", "lan": "office"},
        "gate2": {"role": "gateway", "lan": "office"},
        "files": {"kind": "host", "lan": "office", "listen": ["tcp/8080"]},
    },
    "lans": {"office": {"gateway": "gate1", "prefixes": list(PREFIXES.values())}},
    "resources": {
        f"lan-{family}": {
            "cidr": cidr,
            "gateway": "gate1",
            "alternatives": [{"gateway": "gate2", "priority": 200}],
        }
        for family, cidr in PREFIXES.items()
    },
    "policy": {
        "rules": [
            {
                "id": f"laptop-{family}",
                "from": "laptop",
                "to": f"lan-{family}",
                "proto": "tcp",
                "ports": [8080],
                "action": "allow",
            }
            for family in PREFIXES
        ]
    },
}


def scenario(*steps: dict[str, Any]) -> Scenario:
    return from_data({**NETWORK, "steps": list(steps)})


@dataclass(frozen=True)
class Office:
    """The lab, and what its LAN does."""

    lab: Lab

    def answers_through(self, gate: str) -> None:
        """`files` sends its answers to GATE from now on."""
        for address in self.lab.lan_addresses(gate):
            route = ["ip", "route", "replace", "default", "via", address]
            self.lab.run("files", route, check=True)

    def is_answered(self, client: str, *, timeout_s: float) -> list[bool]:
        """Does `files` answer CLIENT, over IPv4 and over IPv6?"""
        return [
            self._answer(client, address, timeout_s) for address in self.lab.lan_addresses("files")
        ]

    def _answer(self, client: str, address: str, timeout_s: float) -> bool:
        try:
            with self.lab.connect(client, (address, 8080), scaled(timeout_s)) as connection:
                return bool(connection.recv(100))
        except OSError:
            return False

    def let_in(self, gate: str) -> float:
        """Packets of laptop's that began a flow at GATE."""
        labels = {"identity": "laptop", "direction": "in", "verdict": "allowed"}
        return metrics.total(self.lab.metrics(gate), "zt_packets_total", labels) or 0

    def turned_away(self, gate: str) -> float:
        """Packets of guest's that GATE dropped because no rule let them through."""
        labels = {"identity": "guest", "reason": "no_rule", "hook": "ingress"}
        return metrics.total(self.lab.metrics(gate), "zt_drops_total", labels) or 0

    def in_use(self) -> list[str | None]:
        return [resource.in_use for resource in self.lab.admin().resources()]

    def goes_through(self, gate: str, other: str) -> None:
        """Fails unless laptop is let in at GATE, and guest turned away there; nobody at OTHER."""
        wait_until(lambda: self.lab.admin().network().has_converged)
        assert self.in_use() == [gate, gate]
        here, there = self.let_in(gate), self.let_in(other)
        dropped_here, dropped_there = self.turned_away(gate), self.turned_away(other)
        assert self.is_answered("laptop", timeout_s=10) == [True, True]  # the control
        assert self.is_answered("guest", timeout_s=0.5) == [False, False]
        assert self.let_in(gate) >= here + 2
        assert self.turned_away(gate) >= dropped_here + 2
        assert (self.let_in(other), self.turned_away(other)) == (there, dropped_there)
        for node in (gate, other, "laptop"):
            assert metrics.total(self.lab.metrics(node), "zt_identity_drift") == 0

    def moves(self, change: Callable[[], Any], gate: str) -> float:
        """CHANGE, after which GATE has the LAN: how many seconds it took laptop to get there."""
        began = time.monotonic()
        change()
        self.answers_through(gate)
        wait_until(lambda: all(self.is_answered("laptop", timeout_s=0.3)), SWITCHED_WITHIN_S)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ZTLAB_STATE_DIR", str(tmp_path_factory.mktemp("ztlab")))
        try:
            yield build.up(scenario().plan(f"prio{os.getpid()}"))
        finally:
            for name in state.names():
                teardown.down(name)


@pytest.fixture
def office(standing: Lab) -> Office:
    """As it was at first: gate1 has the LAN."""
    made = Office(standing)
    standing.admin().put_document(scenario().plan().document, etag=ANY_TAG)
    for gate in ("gate1", "gate2"):
        standing.admin().drain_gateway(gate, is_drained=False)
    made.answers_through("gate1")
    wait_until(lambda: standing.admin().network().has_converged)
    assert made.is_answered("laptop", timeout_s=10) == [True, True]
    return made


def test_the_lan_of_a_drained_gateway_is_reached_through_the_other_until_it_is_back(
    office: Office,
) -> None:
    admin = office.lab.admin()
    office.goes_through("gate1", "gate2")
    office.moves(lambda: admin.drain_gateway("gate1", is_drained=True), "gate2")
    office.goes_through("gate2", "gate1")

    office.moves(lambda: admin.drain_gateway("gate1", is_drained=False), "gate1")
    office.goes_through("gate1", "gate2")


def test_another_priority_moves_the_lan_and_so_does_an_offer_that_is_taken_back(
    office: Office,
) -> None:
    admin = office.lab.admin()

    def offer(gateway: str, *alternatives: Offer) -> None:
        for family, cidr in PREFIXES.items():
            admin.put_resource(
                f"lan-{family}", cidr=cidr, gateway=gateway, alternatives=alternatives, etag=ANY_TAG
            )

    office.moves(lambda: offer("gate1", Offer(gateway="gate2", priority=50)), "gate2")
    office.goes_through("gate2", "gate1")

    office.moves(lambda: offer("gate1"), "gate1")
    office.goes_through("gate1", "gate2")


def test_a_client_loses_no_packet_at_a_switch(office: Office) -> None:
    admin, to = office.lab.admin(), (office.lab.lan_addresses("files")[0], 9999)
    labels = {"identity": "laptop", "reason": "no_rule"}  # nothing listens: who judges it counts it

    def came() -> float:
        texts = (office.lab.metrics(gate) for gate in ("gate1", "gate2"))
        return sum(metrics.total(text, "zt_drops_total", labels) or 0 for text in texts)

    before, sent, over = came(), 0, threading.Event()

    def send(sender: socket.socket) -> None:
        nonlocal sent
        while not over.wait(0.002):
            sender.sendto(b"x", to)
            sent += 1

    made = office.lab.call("laptop", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with made, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, made)
        try:
            for is_drained in (True, False) * 5:
                admin.drain_gateway("gate1", is_drained=is_drained)
                wait_until(lambda: admin.network().has_converged)
        finally:
            over.set()
        sending.result()
    wait_until(lambda: came() == before + sent)
    assert sent > 10


def test_an_open_connection_goes_on_through_the_other_gateway(office: Office) -> None:
    with ExitStack() as stack:
        open_ = [
            stack.enter_context(office.lab.connect("laptop", (address, 8080), scaled(10)))
            for address in office.lab.lan_addresses("files")
        ]
        for connection in open_:
            assert connection.recv(1000)
            connection.sendall(b"before")
            assert connection.recv(1000) == b"before"
        begun = office.let_in("gate2")

        office.lab.admin().drain_gateway("gate1", is_drained=True)
        office.answers_through("gate2")
        wait_until(lambda: office.lab.admin().network().has_converged)
        for connection in open_:
            connection.sendall(b"after")
            assert connection.recv(1000) == b"after"
    assert office.let_in("gate2") >= begun + 2  # policy was asked there


def test_a_scenario_drains_a_gateway_and_a_standing_lab_gets_it_back(office: Office) -> None:
    through = {
        "name": "zt_packets_total",
        "labels": {"identity": "laptop", "direction": "in", "verdict": "allowed"},
    }

    def taking(gate: str, other: str) -> dict[str, Any]:
        seen = [
            {**through, "at": gate, "increases_by": 1},
            {**through, "at": other, "unchanged": True},
        ]
        return {
            "name": f"through {gate}",
            "probe": {"from": "laptop", "to": "files", "tcp": 8080},
            "expect": {"answered": True, "metric": seen},
        }

    address = office.lab.lan_addresses("gate2")[0]
    steps = [
        taking("gate1", "gate2"),
        {"name": "drain", "drain": {"gateway": "gate1"}, "expect": {"converged_within_s": 10}},
        {
            "name": "answers follow",
            "run": {"node": "files", "command": f"ip route replace default via {address}"},
            "expect": {"exit_code": 0},
        },
        taking("gate2", "gate1"),
    ]
    report = run(scenario(*steps), lab=office.lab)

    assert report.passed, report.as_text()
    assert office.lab.admin().gateways(is_drained=True) == ()
    office.answers_through("gate1")
    office.goes_through("gate1", "gate2")


def test_a_revoked_gateway_leaves_the_lan_to_the_other(office: Office) -> None:
    # The last of these tests: gate1 does not come back.
    office.moves(lambda: office.lab.admin().revoke_node("gate1"), "gate2")
    assert office.in_use() == ["gate2", "gate2"]
    turned_away = office.turned_away("gate2")
    assert office.is_answered("laptop", timeout_s=10) == [True, True]
    assert office.is_answered("guest", timeout_s=0.5) == [False, False]
    assert office.turned_away("gate2") >= turned_away + 2
