"""Conversations through real tunnels: path MTU discovery, revocations and flips under load."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.nodes import Node, cable, namespaces, wait_for
from tests.e2e.streams import received, stream
from tests.e2e.test_agent_standalone import BOB, BOB_6, config, has_shaken_hands, pair
from tests.e2e.tunnels import tunnel

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

# --- path MTU discovery -----------------------------------------------------------------------
#
#   alice ══ tunnel, 1420 ══ gate ── 1500 ── router ── 1300 ──> server
#   (client)                                        <── 1500 ──

SMALL = 1300
SERVERS = {4: "192.168.60.2", 6: "fd60::2"}
ROUTERS = {4: "192.168.50.9", 6: "fd50::9"}
BIG_TRANSFER = """
import socket, sys, threading
with socket.create_connection((sys.argv[1], 8080), 10) as s:
    s.settimeout(20)
    sender = threading.Thread(target=s.sendall, args=(b"x" * TOTAL,))
    sender.start()
    left = TOTAL
    while left:
        left -= len(s.recv(65536))
    sender.join()
"""


def client_config(alice: Node, gate: Node) -> dict[str, Any]:
    behind = [f"{ROUTERS[4]}/32", f"{SERVERS[4]}/32", f"{SERVERS[6]}/128", f"{ROUTERS[6]}/128"]
    found = config(alice, gate)
    found["node"]["role"] = "client"
    found["peers"][0] |= {"role": "gateway", "allowed_ips": [*gate.addresses, *behind]}
    return {**found, "identities": [], "policy": None}


def gateway_config(gate: Node, alice: Node) -> dict[str, Any]:
    found = config(gate, alice)
    found["node"] |= {"role": "gateway", "identity": "bob"}
    found["peers"][0]["role"] = "client"
    found["resources"] = [
        {"name": f"server-v{family}", "tag": 10 + family, "cidr": f"{address}/{bits}",
         "gateway": gate.name, "via": [f"{ROUTERS[family]}/{bits}"]}
        for (family, address), bits in zip(SERVERS.items(), (32, 128), strict=True)
    ]  # fmt: skip
    rules = [
        {"id": f"only-v{family}", "from": "alice", "to": f"server-v{family}", "proto": "tcp",
         "ports": [8080], "action": "allow"}
        for family in SERVERS
    ]  # fmt: skip
    found["policy"] = {"default": "deny", "rules": rules}
    return found


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node, Node]]:
    """Alice, the gateway and the router; the server behind it echoes what it is sent."""
    directory = tmp_path_factory.mktemp("line")
    alice, gate = pair(directory)
    gate.settings = {"gateway": {"forwarding": True}}
    router = Node("router", directory / "router", (), ROUTERS[4])
    server = Node("server", directory / "server", (), SERVERS[4])
    with namespaces(alice, gate, router, server):
        cable(alice, gate)
        cable(gate, router, "192.168.50.1", ROUTERS[4])
        cable(router, server, "192.168.60.1", SERVERS[4])
        for node, address, where in (
            (gate, "fd50::1", "router"),
            (router, ROUTERS[6], "bob"),
            (router, "fd60::1", "server"),
            (server, SERVERS[6], "router"),
        ):
            node.output("ip", "address", "add", f"{address}/64", "dev", f"to-{where}", "nodad")
        gate.output("ip", "route", "add", "192.168.60.0/24", "via", ROUTERS[4])
        gate.output("ip", "route", "add", "fd60::/64", "via", ROUTERS[6])
        for node, gateways in ((router, ("192.168.50.1", "fd50::1")),
                               (server, ("192.168.60.1", "fd60::1"))):  # fmt: skip
            for gateway in gateways:
                node.output("ip", "route", "add", "default", "via", gateway)
        router.output("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        # Only this way, and by the route: a veth with a small MTU would drop what comes in, too.
        for address in SERVERS.values():
            small = ("dev", "to-server", "mtu", "lock", str(SMALL))
            router.output("ip", "route", "add", address, *small)
        alice.start_agent(client_config(alice, gate), wait=False)
        gate.start_agent(gateway_config(gate, alice), wait=False)
        for node in (alice, gate):
            node.wait_ready()
            wait_for(partial(has_shaken_hands, node), 10, "a handshake")
        with server.serving(8080):
            yield alice, gate, router


def path_mtu(node: Node, address: str) -> int | None:
    """What NODE learnt about the way to ADDRESS."""
    found = re.search(r"\bmtu (\d+)", node.output("ip", "route", "get", address))
    return int(found[1]) if found else None


@pytest.mark.parametrize("family", [4, 6])
def test_a_big_transfer_finds_its_way_through_a_small_hop_under_default_deny(
    line: tuple[Node, Node, Node], family: int
) -> None:
    alice, gate, router = line
    server = SERVERS[family]
    assert path_mtu(alice, server) is None
    before = gate.metrics()
    code = BIG_TRANSFER.replace("TOTAL", str(2_000_000))
    done = alice.run(sys.executable, "-c", code, server, timeout_s=60)
    seen = {name: n for name, n in gate.metrics().items() if "zt_drops" in name or "pack" in name}
    assert done.returncode == 0, (done.stderr, seen)
    assert path_mtu(alice, server) == SMALL
    after = gate.metrics()
    # The router is `world` at the gateway's LAN; no rule speaks of it.
    rule = f'zt_rule_packets_total{{action="allow",rule="only-v{family}"}}'
    assert after[rule] > before[rule]
    # Control: an ICMP packet of the same router that quotes nothing of ours is dropped.
    refused = 'zt_drops_total{hook="egress",identity="world",reason="no_rule"}'
    client, _, _ = alice.addresses[family == 6].partition("/")
    ping = router.run("ping", "-c1", "-W1", "-I", ROUTERS[family], client)
    assert ping.returncode == 1
    assert gate.metrics()[refused] > after.get(refused, 0)


# --- revocations and flips under load ---------------------------------------------------------

RULES: list[dict[str, Any]] = [
    {"id": id, "from": "alice", "to": "bob", "proto": "tcp", "ports": ports, "action": "allow"}
    for id, ports in (("stays", [5201, 5203]), ("goes", [5202]))
]
both_families = pytest.mark.parametrize("address", [BOB, BOB_6])


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    with tunnel(tmp_path, RULES) as both:
        yield both


def written(node: Node, other: Node, rules: list[dict[str, Any]]) -> str:
    """A file with NODE's state under RULES."""
    path = node.directory / f"{len(rules)}-rules.yaml"
    path.write_text(yaml.safe_dump(config(node, other, rules)))
    return str(path)


def has_received(node: Node, port: int, count: int) -> bool:
    return received(node, port) >= count


@both_families
def test_a_stream_through_a_rule_that_goes_stops_within_a_second_and_another_goes_on(
    nodes: tuple[Node, Node], address: str
) -> None:
    alice, bob = nodes
    without = written(bob, alice, RULES[:1])
    with stream(alice, bob, address, 5201), stream(alice, bob, address, 5202):
        for port in (5201, 5202):
            wait_for(partial(has_received, bob, port, 500_000), 10, "data flows")
        bob.zt("apply", without)
        applied = time.monotonic()
        last, still = received(bob, 5202), applied
        while time.monotonic() < applied + 2.5:
            now = received(bob, 5202)
            if now != last:
                last, still = now, time.monotonic()
        assert still - applied < 1.0
        before = received(bob, 5201)
        wait_for(partial(has_received, bob, 5201, before + 500_000), 5, "the other goes on")
    cut = 'zt_drops_total{hook="ingress",identity="alice",reason="no_rule"}'
    assert bob.metrics()[cut] > 0


def test_a_stream_that_is_allowed_survives_every_flip_and_change_of_policy(
    nodes: tuple[Node, Node],
) -> None:
    alice, bob = nodes
    files = [written(bob, alice, rules) for rules in (RULES, RULES[:1])]
    ports = {5201: BOB, 5203: BOB_6}
    with ExitStack() as stack:
        streams = [
            stack.enter_context(stream(alice, bob, address, port))
            for port, address in ports.items()
        ]
        for port in ports:
            wait_for(partial(has_received, bob, port, 500_000), 10, "data flows")
        for i in range(6):
            for words in (
                ("set", "authz-mode", "observe"),
                ("set", "authz-mode", "enforce"),
                ("set", "logging", "off" if i % 2 else "on"),
                ("apply", files[i % 2]),
            ):
                before = {port: received(bob, port) for port in ports}
                bob.zt(*words)
                for port, count in before.items():
                    wait_for(partial(has_received, bob, port, count + 1), 2, "data goes on")
        for each in streams:
            each.goes_on()
            assert all(each.seconds()), each.seconds()
    dropped = [name for name, n in bob.metrics().items() if "zt_drops_total{" in name and n]
    assert not dropped
