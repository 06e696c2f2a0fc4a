"""The account of log events across the death of an agent."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.nodes import Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import BOB, config, has_shaken_hands, pair

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

TERMS = ("ring_full", "undecodable", "buffer_full", "push_failed", "agent_died", "delivered")


@pytest.fixture
def logging_nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """Bob logs every packet."""
    alice, bob = pair(tmp_path)
    bob.settings["log_granularity"] = "packet"
    with namespaces(alice, bob):
        cable(alice, bob)
        for node, other in ((alice, bob), (bob, alice)):
            node.start_agent(config(node, other), wait=False)
        for node in (alice, bob):
            node.wait_ready()
        wait_for(lambda: has_shaken_hands(bob), what="a handshake")
        yield alice, bob


def account(node: Node) -> dict[str, int]:
    found: dict[str, int] = node.status()["log_events"]
    return found


def packets(node: Node) -> int:
    """All that its programs ever counted."""
    counters = ("zt_packets_total", "zt_drops_total")
    return int(sum(value for name, value in node.metrics().items() if name.startswith(counters)))


def settled(node: Node) -> dict[str, int]:
    wait_for(lambda: account(node)["in_flight"] == 0, what="nothing is under way")
    return account(node)


def pings(node: Node, count: int) -> None:
    done = node.run("ping", "-q", "-i", "0.01", "-c", str(count), BOB)
    assert done.returncode == 0, done.stdout


def test_every_packet_is_accounted_for_across_a_kill_and_what_came_meanwhile_is_delivered(
    logging_nodes: tuple[Node, Node],
) -> None:
    alice, bob = logging_nodes
    pings(alice, 20)
    before = settled(bob)
    assert before["emitted"] == packets(bob) >= 40

    flood = alice.command("ping", "-q", "-i", "0.002", "-c", "500", BOB)
    with subprocess_of(flood) as pinging:
        wait_for(lambda: account(bob)["emitted"] > before["emitted"] + 100, what="packets")
        bob.stop_agent(signal.SIGKILL)
        pings(alice, 50)  # nobody is there
        assert pinging.wait(30) == 0  # and none was lost
    bob.start_agent(config(bob, alice))

    now = settled(bob)
    assert now["emitted"] == packets(bob) >= before["emitted"] + 1100
    assert now["emitted"] == sum(now[term] for term in TERMS)
    # Only what the dead agent had taken out of the rings can be lost: not what came afterwards.
    assert now["agent_died"] < 500
    assert now["delivered"] >= before["delivered"] + 600


def test_no_event_is_forgotten_where_a_successor_makes_maps_of_its_own(
    logging_nodes: tuple[Node, Node],
) -> None:
    alice, bob = logging_nodes
    pings(alice, 20)
    before = settled(bob)
    bob.stop_agent(signal.SIGKILL)
    pings(alice, 50)  # into rings that nobody will read
    bob.settings["datapath"] = {"loader": "bcc"}
    bob.start_agent(config(bob, alice))
    assert bob.status()["loader"] == "bcc"
    pings(alice, 20)

    now = settled(bob)
    assert now["emitted"] == packets(bob) >= before["emitted"] + 140
    assert now["emitted"] == sum(now[term] for term in TERMS)
    assert now["agent_died"] >= 100 and now["delivered"] >= before["delivered"] + 40


def subprocess_of(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)
