"""The end of an agent is nobody's business but its own; what others take away comes back."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.nodes import BIN, Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import BOB, BOB_6, config, pair
from ztlab.lab.pace import scaled

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

PINGS = 400
# One connection, a byte each 5 ms and back, until told to stop; then how many went and came back.
TALK = """
import select, socket, sys
s = socket.create_connection((sys.argv[1], 8080), 5)
sent = back = 0
print("open", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    s.sendall(b"x"); sent += 1
    s.settimeout(5); back += len(s.recv(1))
print(sent, back, flush=True)
"""
FOREIGN_FILTER = (
    "tc filter add dev wg0 ingress prio 7 protocol all bpf bytecode".split(),
    "1,6 0 0 4294967295",  # classic BPF: take every packet
    "flowid 1:7".split(),
)
REPAIRED = 'zt_repairs_total{what="%s"}'


@pytest.fixture
def tunnel(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """alice and bob with a tunnel between them, and bob's servers."""
    alice, bob = pair(tmp_path)
    with namespaces(alice, bob):
        cable(alice, bob)
        alice.start_agent(config(alice, bob))
        bob.start_agent(config(bob, alice))
        with bob.serving(8080, 9090):
            wait_for(lambda: alice.connects(BOB, 8080, timeout_s=0.5), 10, "the tunnel")
            yield alice, bob


def traffic(node: Node) -> dict[str, float]:
    """Packets by identity, direction and verdict, and the drops."""
    names = ("zt_packets_total", "zt_drops_total")
    return {k: v for k, v in node.metrics().items() if k.startswith(names)}


def interface_of(node: Node) -> str:
    """Index, state and flags of wg0, and the process behind it where there is one."""
    link = node.output("ip", "-o", "link", "show", "wg0").split("qdisc")[0]
    return link + node.run("pgrep", "-x", "wireguard-go").stdout


def up_and_down(node: Node) -> str:
    """How often wg0's carrier came and went since the interface was made."""
    code = (
        "from pyroute2 import IPRoute\n"
        "with IPRoute() as ip:\n"
        "    (link,) = ip.link('get', ifname='wg0')\n"
        "    print(link.get_attr('IFLA_CARRIER_CHANGES'))\n"
    )
    return node.output(sys.executable, "-c", code)


@pytest.mark.parametrize("address", [BOB, BOB_6])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_while_an_agent_ends_and_another_starts_no_packet_is_lost_and_none_judged_otherwise(
    tunnel: tuple[Node, Node], end: signal.Signals, address: str
) -> None:
    alice, bob = tunnel
    assert not alice.connects(address, 9090, timeout_s=0.3)
    link, before, changes = interface_of(bob), traffic(bob), up_and_down(bob)
    ping = subprocess.Popen(
        alice.command("ping", "-q", "-i0.01", f"-c{PINGS}", "-W2", address),
        stdout=subprocess.PIPE,
        text=True,
    )
    talk = subprocess.Popen(
        alice.command(sys.executable, "-c", TALK, address),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with ping, talk:
        assert talk.stdout is not None and talk.stdout.readline() == "open\n"

        bob.stop_agent(end)
        syns = alice.syns_in_vain(address, 9090, timeout_s=0.3)  # nobody is there, and it is judged
        assert alice.connects(address, 8080)
        bob.start_agent(config(bob, alice))

        said, _ = ping.communicate(timeout=scaled(60))
        count, _ = talk.communicate("stop\n", timeout=scaled(20))
    assert f"{PINGS} packets transmitted, {PINGS} received, 0% packet loss" in said
    sent, back = map(int, count.split())
    assert sent == back > 0
    syns += alice.syns_in_vain(address, 9090, timeout_s=0.3)
    assert alice.connects(address, 8080)
    assert (interface_of(bob), up_and_down(bob)) == (link, changes)
    assert bob.status()["origin"] == "adopted"
    after = traffic(bob)
    denied = 'zt_drops_total{hook="ingress",identity="alice",reason="no_rule"}'
    replies = 'zt_packets_total{direction="out",identity="alice",verdict="established"}'
    assert after[denied] == before[denied] + syns
    assert after[replies] >= before[replies] + PINGS
    assert all(after[name] >= value for name, value in before.items())


def break_clsact(node: Node) -> None:
    node.output("tc", "qdisc", "del", "dev", "wg0", "clsact")


def break_filter(node: Node) -> None:
    node.output("tc", "filter", "del", "dev", "wg0", "egress")


def flush_nftables(node: Node) -> None:
    node.output("nft", "flush", "ruleset")


def take_down(node: Node) -> None:
    node.output("ip", "link", "set", "wg0", "down")


def delete_interface(node: Node) -> None:
    node.output("ip", "link", "delete", "wg0")


def is_whole(node: Node) -> bool:
    hooks = ("ingress", "egress")
    filters = [node.run("tc", "filter", "show", "dev", "wg0", hook).stdout for hook in hooks]
    return (
        all(f"zt_{hook}" in shown for hook, shown in zip(hooks, filters, strict=True))
        and "drop" in node.run("nft", "list", "table", "inet", "zt_wg0").stdout
        and ",UP" in node.run("ip", "link", "show", "wg0").stdout
    )


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (break_clsact, "programs"),
        (break_filter, "programs"),
        (flush_nftables, "belt"),
        (take_down, "link"),
        (delete_interface, "interface"),
    ],
)
def test_what_somebody_takes_away_is_noticed_at_once_put_back_and_counted(
    tunnel: tuple[Node, Node], damage: Callable[[Node], None], what: str
) -> None:
    alice, bob = tunnel
    assert is_whole(bob)

    damage(bob)
    began = time.monotonic()
    wait_for(lambda: is_whole(bob), 5, "repair")
    seconds = time.monotonic() - began

    print(f"{what}: whole {seconds:.2f} s after the removal")
    wait_for(lambda: bob.metrics().get(REPAIRED % what) == 1, 5, "the count")
    assert seconds < 5
    for address in (BOB, BOB_6):
        wait_for(partial(alice.connects, address, 8080, 0.5), 10, "the tunnel")
        assert not alice.connects(address, 9090, timeout_s=0.3)
    assert bob.metrics()["zt_identity_drift"] == 0


def foreign_things(node: Node) -> list[str]:
    """Somebody else's filter on wg0, and their WireGuard interface (but for its counters)."""
    filters = node.output("tc", "filter", "show", "dev", "wg0", "ingress")
    theirs = [line for line in filters.splitlines() if "pref 7 " in line]
    link = node.output("ip", "-o", "link", "show", "wgx").split("qdisc")[0]
    tables = node.output("nft", "list", "table", "inet", "theirs")
    return [*theirs, link, node.output("wg", "showconf", "wgx"), tables]


def test_foreign_filters_interfaces_and_tables_are_never_touched(
    tmp_path: Path,
) -> None:
    alice, bob = pair(tmp_path)
    with namespaces(alice, bob):
        cable(alice, bob)
        made = bob.run("ip", "link", "add", "wgx", "type", "wireguard").returncode == 0
        if not made:
            bob.output("wireguard-go", "wgx")
        key = bob.output("wg", "genkey")
        bob.output(
            "sh", "-c", f"echo {key.strip()} | wg set wgx listen-port 999 private-key /dev/stdin"
        )
        bob.output("ip", "link", "set", "wgx", "up")
        bob.output("nft", "add table inet theirs; add chain inet theirs c")
        alice.start_agent(config(alice, bob))
        bob.start_agent(config(bob, alice))
        wait_for(lambda: alice.pings(BOB), 10, "the tunnel")
        command, program, rest = FOREIGN_FILTER
        bob.output(*command, program, *rest)
        before = foreign_things(bob)
        assert len(before) == 5, before  # a filter is two lines

        bob.zt("apply", str(bob.write(config(bob, alice, []))))
        assert foreign_things(bob) == before
        bob.output("tc", "filter", "del", "dev", "wg0", "egress")
        wait_for(lambda: is_whole(bob), 5, "repair")
        assert foreign_things(bob) == before
        bob.stop_agent(signal.SIGKILL)
        bob.start_agent(config(bob, alice))
        assert foreign_things(bob) == before and alice.pings(BOB)
        bob.stop_agent()
        assert foreign_things(bob) == before
        bob.output("ip", "link", "set", "wgx", "mtu", "1400")  # control: a change would show
        assert foreign_things(bob) != before
        bob.output("ip", "link", "set", "wgx", "mtu", "1420")
        # wg0 goes, and with it what somebody put on it.
        assert bob.remove().returncode == 0
        assert "wg0" not in re.findall(r"\d+: (\w+):", bob.output("ip", "-o", "link"))
        link = bob.output("ip", "-o", "link", "show", "wgx").split("qdisc")[0]
        assert [link, bob.output("wg", "showconf", "wgx")] == before[2:4]
        assert bob.output("nft", "list", "table", "inet", "theirs") == before[4]


def test_removal_is_refused_while_the_agent_runs(tunnel: tuple[Node, Node]) -> None:
    alice, bob = tunnel
    done = bob.remove()
    assert done.returncode == 1 and "another zt-agent runs" in done.stderr
    assert alice.connects(BOB, 8080)
    assert bob.run(str(BIN / "zt-agent"), "status").returncode == 0
