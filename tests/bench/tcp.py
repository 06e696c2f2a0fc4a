"""TCP through one tunnel, with all of the agent's work on both ends and with none of it.

    .venv/bin/python -m tests.bench.tcp [ROUNDS]

Root. Two standalone agents, enforcing and logging flows, on one cable; iperf3 between them.
Without: both agents stand still, their filters and their belts are taken away, and nothing else is
changed. In turns, in pairs whose order alternates; each pair gives one ratio.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.bench import report
from tests.e2e.nodes import Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import BOB, config, has_shaken_hands, pair

ROUNDS = 10
SECONDS = 3
RATIO = 0.97
_PORT = 5201
_RULES = [
    {
        "id": "iperf",
        "from": "alice",
        "to": "bob",
        "proto": "tcp",
        "ports": [_PORT],
        "action": "allow",
    }
]


def main() -> None:
    """Measure and publish."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    ways = {"with": _working, "without": _bare}
    found: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder, _tunnel(Path(folder)) as (alice, bob):
        backend = alice.status()["wireguard"]
        for turn in range(rounds):
            for name in sorted(ways, reverse=turn % 2 == 1):
                with ways[name](alice, bob):
                    found[name].append(_mbit_per_s(alice, bob))
    ratios = [a / b for a, b in zip(found["with"], found["without"], strict=True)]
    report.publish(
        "tcp",
        [
            report.at_least(f"TCP with both agents : without ({backend})", ratios, "x", RATIO),
            report.beside(
                "  enforcing, logging flows", found["with"], "Mbit/s", more_is_better=True
            ),
            report.beside(
                "  no programs, no belt", found["without"], "Mbit/s", more_is_better=True
            ),
        ],
    )


@contextmanager
def _tunnel(folder: Path) -> Iterator[tuple[Node, Node]]:
    """Two agents, their tunnel up, an iperf3 server on the second."""
    alice, bob = pair(folder)
    with namespaces(alice, bob):
        cable(alice, bob)
        bob.start_agent(config(bob, alice, _RULES), wait=False)
        alice.start_agent(config(alice, bob, _RULES), wait=False)
        for node in (alice, bob):
            node.wait_ready()
            wait_for(partial(has_shaken_hands, node), 10, "a handshake")
        server = subprocess.Popen(
            bob.command("iperf3", "--server", "--port", str(_PORT)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with server:
            try:
                wait_for(partial(alice.connects, BOB, _PORT), 10, "iperf3 listens")
                yield alice, bob
            finally:
                server.kill()


@contextmanager
def _working(alice: Node, bob: Node) -> Iterator[None]:
    _repaired(alice, bob)
    before = _passed(bob)
    yield
    assert _passed(bob) > before, "the programs saw nothing of it"


@contextmanager
def _bare(alice: Node, bob: Node) -> Iterator[None]:
    _repaired(alice, bob)
    with ExitStack() as stack:
        for node in (alice, bob):
            stack.enter_context(node.agent_held())
            node.output("tc", "qdisc", "del", "dev", "wg0", "clsact")
            node.output("nft", "delete", "table", "inet", "zt_wg0")
        yield
        for node in (alice, bob):
            assert "clsact" not in node.output("tc", "qdisc", "show", "dev", "wg0")


def _repaired(*nodes: Node) -> None:
    """Wait until the agents have put everything back."""
    for node in nodes:
        wait_for(partial(_is_at_work, node), 30, "programs and belt are there")


def _is_at_work(node: Node) -> bool:
    filters = [node.output("tc", "filter", "show", "dev", "wg0", end) for end in _ENDS]
    return all("zt_" in text for text in filters) and (
        node.run("nft", "list", "table", "inet", "zt_wg0").returncode == 0
    )


_ENDS = ("ingress", "egress")


def _passed(node: Node) -> float:
    key = 'zt_packets_total{direction="in",identity="alice",verdict="established"}'
    return node.metrics().get(key, 0)


def _mbit_per_s(alice: Node, bob: Node) -> float:
    command = ["iperf3", "--client", BOB, "--port", str(_PORT), "--time", str(SECONDS)]
    # The first half second is slow start.
    said = alice.output(*command, "--omit", "1", "--json")
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e6


if __name__ == "__main__":
    main()
