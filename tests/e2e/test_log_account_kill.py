"""`kill -9` of a real agent with events in every place they can be: its account is what the real
coordinator has, to the last one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gate import Batch, Gate, Mode, gate
from tests.e2e.plans import mesh
from tests.e2e.test_rotation import agent_pid, kill_agent, start_agent
from tests.e2e.waiting import wait_until
from ztlab.lab import build, metrics, state
from ztlab.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.wireguard, pytest.mark.bpf]

TERMS = ("ring_full", "undecodable", "buffer_full", "push_failed", "agent_died", "delivered")
PINGS = 60
EAGER = {"flush_after_s": 0.1}
LAZY = {"flush_after_s": 3600, "flush_share": 1.0}
FLOOD = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(int(sys.argv[2])):
    try: s.sendto(b"x", (sys.argv[1], 9))
    except OSError: pass
"""


@dataclass
class Logging:
    """A lab of which bob logs every packet, and reaches the coordinator through a gate."""

    lab: Lab
    gate: Gate
    _toml: str = ""

    def start(self, **log: Any) -> None:
        """Start bob's agent with these settings of its log."""
        path = state.node_dir(self.lab.name, "bob") / "agent.toml"
        if not self._toml:
            assert self.lab.record.coordinator_url is not None
            text = path.read_text().replace(self.lab.record.coordinator_url, self.gate.url)
            self._toml = text.replace('granularity = "flow"', 'granularity = "packet"')
            assert self.gate.url in self._toml and '"packet"' in self._toml
        path.write_text(self._toml + "\n[log]\n" + "".join(f"{k} = {v}\n" for k, v in log.items()))
        start_agent(self.lab, "bob")
        wait_until(lambda: self._answers(), 30)

    def kill(self) -> None:
        kill_agent(self.lab, "bob")

    def stop(self) -> None:
        """The agent's process stands still, and takes nothing out of the rings any more."""
        pid = agent_pid(self.lab, "bob")
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)

    def _answers(self) -> bool:
        return self.lab.run("bob", ["zt-agent", "status"]).returncode == 0

    def pings(self, count: int = PINGS) -> None:
        """As many packets to bob, and as many answers."""
        address = self.lab.tunnel_addresses("bob")[0]
        command = ["ping", "-q", "-i", "0.005", "-c", str(count), address]
        done = self.lab.run("alice", command, timeout_s=60)
        assert done.returncode == 0, done.stdout

    def flood(self, count: int) -> None:
        """About so many packets to bob, as fast as they go."""
        address = self.lab.tunnel_addresses("bob")[0]
        command = [sys.executable, "-c", FLOOD, address, str(count)]
        assert self.lab.run("alice", command, timeout_s=60).returncode == 0

    def account(self) -> dict[str, int]:
        """Each term of it, from the metrics, and `in_flight`, which is what is left."""
        text = self.lab.metrics("bob")
        found = {
            sample.labels["outcome"]: int(sample.value)
            for sample in metrics.parse(text)
            if sample.name == "zt_log_events_total"
        }
        found["in_flight"] = int(metrics.total(text, "zt_log_events_in_flight") or 0)
        assert found["emitted"] == sum(found[t] for t in TERMS) + found["in_flight"]
        return found

    def is_settled(self) -> bool:
        return self.account()["in_flight"] == 0

    def packets(self) -> int:
        """All that bob's programs ever counted."""
        names = ("zt_packets_total", "zt_drops_total")
        samples = metrics.parse(self.lab.metrics("bob"))
        return int(sum(sample.value for sample in samples if sample.name in names))

    def stored(self) -> int:
        """How many events of bob's the coordinator has."""
        found, cursor = 0, 0
        while items := (page := self.lab.admin().logs(node="bob", after=cursor, limit=5000)).items:
            found, cursor = found + len(items), page.next
        return found


@dataclass(frozen=True)
class Before:
    """How things stood with nothing under way."""

    account: dict[str, int]
    packets: int
    stored: int


@pytest.fixture
def logging(lab_name: str, tmp_path: Path) -> Iterator[Logging]:
    plan = mesh(lab_name)
    policy = dict(plan.document["policy"])
    more = [
        {"id": proto, "from": "web", "to": "api", "proto": proto, "action": "allow"}
        for proto in ("icmp", "udp")
    ]
    policy["rules"] = [*policy["rules"], *more]
    made = build.up(replace(plan, document={**plan.document, "policy": policy}))
    with gate(made, "bob", tmp_path / "gate") as before_it:
        kill_agent(made, "bob")
        found = Logging(made, before_it)
        yield found
        found.gate.mode = "up"


def settled(node: Logging) -> Before:
    """Once nothing is under way; each event of it a packet from now on."""

    def look() -> Before:
        return Before(node.account(), node.packets(), node.stored())

    wait_until(node.is_settled, 30)
    before = look()
    while (now := look()) != before or now.account["in_flight"]:  # a packet came meanwhile
        before = now
    return before


def check(node: Logging, before: Before, *, unacknowledged: int = 0) -> dict[str, int]:
    """All that was emitted since BEFORE ended somewhere, by term; stored is what was delivered, and
    so many that were stored and not acknowledged to whoever lived to hear it."""
    now = settled(node)
    since = {term: count - before.account[term] for term, count in now.account.items()}
    assert since["emitted"] == now.packets - before.packets
    assert since["emitted"] == sum(since[term] for term in TERMS)
    assert since["undecodable"] == 0
    assert now.stored - before.stored == since["delivered"] + unacknowledged, since
    return since


def caught(node: Logging, mode: Mode) -> Batch:
    """The batch that the gate holds, in MODE, once it holds one."""
    node.gate.mode = mode
    node.pings()
    wait_until(lambda: node.gate.holds() is not None, 20)
    held = node.gate.holds()
    assert held is not None
    return held


def test_what_was_in_the_buffer_died_with_the_agent_and_nothing_else(logging: Logging) -> None:
    logging.start(**EAGER)
    logging.pings()
    before = settled(logging)
    logging.kill()
    logging.start(**LAZY)
    logging.pings()
    held = logging.account()
    assert held["delivered"] == before.account["delivered"] and held["in_flight"] >= 2 * PINGS
    logging.kill()
    logging.pings(PINGS // 2)  # nobody is there: they wait in the rings
    logging.start(**EAGER)
    logging.pings()

    since = check(logging, before)
    assert since["emitted"] >= 5 * PINGS
    assert 0 < since["agent_died"] <= held["in_flight"]
    assert since["delivered"] >= 3 * PINGS and since["push_failed"] == 0


@pytest.mark.parametrize("mode", ["hangs", "mute", "slow"])
def test_a_batch_that_is_under_way_dies_with_the_agent_whether_or_not_it_arrives(
    logging: Logging, mode: Mode
) -> None:
    logging.start(**EAGER)
    logging.pings()
    before = settled(logging)
    held = caught(logging, mode)
    if mode == "mute":
        wait_until(lambda: held.is_stored, 20)
    logging.kill()
    assert held is logging.gate.holds(), "it was answered before the agent was killed"
    logging.gate.mode = "up"
    logging.pings(PINGS // 2)
    if mode == "slow":
        wait_until(lambda: held.is_stored, 20)  # the coordinator gets it all the same
    logging.start(**EAGER)
    logging.pings()

    since = check(logging, before, unacknowledged=held.events if held.is_stored else 0)
    assert held.is_stored == (mode != "hangs")
    assert held.events <= since["agent_died"] <= 2 * PINGS + 20
    assert since["delivered"] >= 3 * PINGS and since["push_failed"] == 0


@pytest.mark.parametrize("mode", ["refuses", "gone"])
def test_batches_that_are_given_up_and_those_that_died_are_told_apart(
    logging: Logging, mode: Mode
) -> None:
    logging.start(**EAGER)
    logging.pings()
    before, first = settled(logging), len(logging.gate.batches)
    logging.gate.mode = mode
    address = logging.lab.tunnel_addresses("bob")[0]
    flood = ["ping", "-q", "-i", "0.002", "-c", "1000", address]
    with logging.lab.popen("alice", flood, stdout=subprocess.DEVNULL) as ping:
        wait_until(lambda: len(logging.gate.batches) > first + 8, 20)
        logging.kill()
        # What it had sent is read in the old mode, or the coordinator had it after all.
        wait_until(lambda: not logging.gate.connections, 20)
        refused = {batch.id: batch.events for batch in logging.gate.batches[first:]}
        logging.gate.mode = "up"
        logging.start(**EAGER)
        assert ping.wait(60) == 0

    since = check(logging, before)
    # The last one may have been answered, and the agent killed before it could book that.
    *_, last = refused.values()
    assert sum(refused.values()) - last <= since["push_failed"] <= sum(refused.values())
    assert since["push_failed"] + since["agent_died"] >= sum(refused.values()) > 0
    assert since["delivered"] > 0


def test_with_the_rings_overrun_the_buffer_full_and_a_batch_hanging_every_event_has_its_end(
    logging: Logging,
) -> None:
    logging.start(**EAGER, buffer_bytes=500 * 96)
    logging.pings()
    before = settled(logging)
    held = caught(logging, "hangs")

    def is_full() -> bool:
        logging.flood(3000)  # of which a busy tunnel may lose nearly all
        return logging.account()["buffer_full"] > 0

    wait_until(is_full, 20)
    logging.stop()
    for _ in range(10):
        logging.flood(10_000)
        logging.pings(5)
    logging.kill()
    logging.gate.mode = "up"
    logging.start(**EAGER)
    logging.pings()

    since = check(logging, before)
    assert since["ring_full"] > 0 and since["buffer_full"] > 0
    assert held.events <= since["agent_died"] <= 500
    # What waited in the rings is told: the successor pushes nothing before it can.
    assert since["push_failed"] == 0 and since["delivered"] > 5000
