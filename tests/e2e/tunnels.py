"""Two agents with a tunnel between them: alice may do to bob what his rules say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e.nodes import Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import BOB, config, has_shaken_hands, pair

Rules = list[dict[str, Any]]


@contextmanager
def tunnel(
    directory: Path, rules: Rules, *, settings: Mapping[str, Any] | None = None
) -> Iterator[tuple[Node, Node]]:
    """Up, with a handshake; bob has these RULES, and SETTINGS besides a node's own."""
    alice, bob = pair(directory)
    bob.settings.update(settings or {})
    with namespaces(alice, bob):
        cable(alice, bob)
        alice.start_agent(config(alice, bob, []), wait=False)
        bob.start_agent(config(bob, alice, rules), wait=False)
        for node in (alice, bob):
            node.wait_ready()
            wait_for(partial(has_shaken_hands, node), 10, "a handshake")
        yield alice, bob


@contextmanager
def quiet_tunnel(directory: Path, rules: Rules) -> Iterator[tuple[Node, Node]]:
    """The same with RULES at both ends and without keepalives: nothing passes but what is sent."""
    alice, bob = pair(directory)
    with namespaces(alice, bob):
        cable(alice, bob)
        for node, other in ((alice, bob), (bob, alice)):
            whole = config(node, other, rules)
            whole["peers"][0]["keepalive_s"] = 0
            node.start_agent(whole)
        # A first packet brings about the handshake.
        wait_for(partial(alice.pings, BOB), 10, "the tunnel")
        yield alice, bob


def overflown(node: Node) -> int:
    """What a tunnel in user space lost before or behind our programs, too busy to take it."""
    lines = [
        x.split() for x in node.output("cat", "/proc/net/snmp").splitlines() if x[:4] == "Udp:"
    ]
    udp = dict(zip(*lines, strict=True))
    queue = int(node.output("awk", "/wg0:/ {print $13}", "/proc/net/dev"))
    both = node.output("awk", "/Udp6RcvbufErrors/ {print $2}", "/proc/net/snmp6")
    return int(udp["RcvbufErrors"]) + int(both) + queue
