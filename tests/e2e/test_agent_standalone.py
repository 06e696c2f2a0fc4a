"""Two agents without a coordinator, on real tunnels: what an operator sees of one node."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest

from tests.e2e.nodes import BIN, Node, cable, namespaces, wait_for
from ztlab.lab.pace import scaled

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

ALICE, BOB = "10.77.0.2", "10.77.0.3"
BOB_6 = "fd77::3"
RULES: list[dict[str, Any]] = [
    {"id": "web", "from": "alice", "to": "bob", "proto": "tcp", "ports": [8080], "action": "allow"},
    {"id": "ping", "from": "*", "to": "*", "proto": "icmp", "action": "allow"},
]
DROPS = 'zt_drops_total{hook="ingress",identity="alice",reason="no_rule"}'
EVENT_KEYS = {
    "at", "kind", "verdict", "hook", "source", "destination", "protocol", "source_port",
    "destination_port", "source_identity", "destination_identity", "source_tag",
    "destination_tag", "rule", "packets", "length", "began_at", "peer_node_id", "peer_client_id",
}  # fmt: skip


def config(node: Node, other: Node, rules: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The whole state of NODE, whose only peer is OTHER."""
    identities = [
        {"name": "alice", "tag": 2, "prefixes": [f"{ALICE}/32", "fd77::2/128"]},
        {"name": "bob", "tag": 3, "prefixes": [f"{BOB}/32", f"{BOB_6}/128"]},
    ]
    peer = {
        "node_id": f"id-{other.name}",
        "name": other.name,
        "role": "mesh",
        "public_key": other.key.public_key,
        "endpoint": f"{other.underlay}:51820",
        "allowed_ips": list(other.addresses),
        "keepalive_s": 25,
    }
    return {
        "version": 1,
        "network_id": "test",
        "node": {
            "node_id": f"id-{node.name}",
            "name": node.name,
            "role": "mesh",
            "identity": node.name,
            "addresses": list(node.addresses),
        },
        "peers": [peer],
        "identities": identities,
        "policy": {"default": "deny", "rules": RULES if rules is None else rules},
    }


def pair(directory: Path) -> tuple[Node, Node]:
    alice = Node("alice", directory / "alice", (f"{ALICE}/32", "fd77::2/128"), "198.18.0.2")
    bob = Node("bob", directory / "bob", (f"{BOB}/32", f"{BOB_6}/128"), "198.18.0.3")
    return alice, bob


def has_shaken_hands(node: Node) -> bool:
    return all(peer["last_handshake_at"] for peer in node.status()["peers"])


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    alice, bob = pair(tmp_path_factory.mktemp("nodes"))
    with namespaces(alice, bob):
        cable(alice, bob)
        alice.start_agent(config(alice, bob), wait=False)
        bob.start_agent(config(bob, alice), wait=False)
        for node in (alice, bob):
            node.wait_ready()
            wait_for(partial(has_shaken_hands, node), 10, "a handshake")
        with bob.serving(8080, 9090):
            yield alice, bob


@pytest.fixture
def nodes(standing: tuple[Node, Node]) -> Iterator[tuple[Node, Node]]:
    """The standing pair, put back to enforce, logging on, and the first policy afterwards."""
    yield standing
    alice, bob = standing
    bob.zt("set", "authz-mode", "enforce")
    bob.zt("set", "logging", "on")
    bob.zt("apply", str(bob.write(config(bob, alice))))


def test_what_policy_allows_gets_through_in_both_families(nodes: tuple[Node, Node]) -> None:
    alice, _ = nodes
    for address in (BOB, BOB_6):
        assert alice.connects(address, 8080)
        assert alice.pings(address)


def test_what_policy_does_not_allow_is_dropped_counted_and_named(
    nodes: tuple[Node, Node],
) -> None:
    alice, bob = nodes
    assert alice.connects(BOB, 8080)  # control
    before = bob.metrics().get(DROPS, 0)

    syns = alice.syns_in_vain(BOB, 9090, timeout_s=0.5)

    assert bob.metrics()[DROPS] == before + syns


def test_observe_lets_everything_through_and_still_names_it(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    key = 'zt_packets_total{direction="in",identity="alice",verdict="observed"}'
    before = bob.metrics().get(key, 0)

    bob.zt("set", "authz-mode", "observe")

    assert alice.connects(BOB, 9090)
    now = bob.metrics()
    assert now[key] > before
    assert now["zt_authz_enforce"] == 0 and now["zt_belt_installed"] == 0
    assert bob.run("nft", "list", "table", "inet", "zt_wg0").returncode != 0


def test_back_in_enforce_a_connection_opened_meanwhile_is_cut_and_an_allowed_one_is_not(
    nodes: tuple[Node, Node],
) -> None:
    alice, bob = nodes
    code = (
        "import socket, sys\n"
        "a = socket.create_connection(('10.77.0.3', 8080), 2)\n"
        "b = socket.create_connection(('10.77.0.3', 9090), 2)\n"
        "for s in (a, b): s.sendall(b'x'); assert s.recv(1) == b'x'\n"
        "print('open', flush=True); sys.stdin.readline()\n"
        "def alive(s):\n"
        "    try: s.sendall(b'y'); return s.recv(1) == b'y'\n"
        "    except OSError: return False\n"
        "for s in (a, b): s.settimeout(1)\n"
        "print(alive(a), alive(b), flush=True)\n"
    )
    bob.zt("set", "authz-mode", "observe")
    client = subprocess.Popen(
        alice.command(sys.executable, "-c", code),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with client:
        assert client.stdout is not None and client.stdout.readline() == "open\n"
        bob.zt("set", "authz-mode", "enforce")
        said, _ = client.communicate("go\n", timeout=scaled(10))
    assert said == "True False\n"


def test_observers_see_who_was_denied_as_the_protocol_writes_it(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    watcher = subprocess.Popen(
        bob.command(str(BIN / "zt-agent"), "observe", "--json"), stdout=subprocess.PIPE, text=True
    )
    with watcher:
        try:
            assert watcher.stdout is not None
            # Until the subscription stands nothing is seen, so it is tried until something is.
            wait_for(partial(_is_denied_and_seen, alice, watcher.stdout), 10, "an event")
            event = json.loads(watcher.stdout.readline())
        finally:
            watcher.kill()
    assert event.keys() == EVENT_KEYS
    assert event | {"verdict": "no_rule", "hook": "ingress", "protocol": 6} == event
    assert (event["source"], event["destination"]) == (ALICE, BOB)
    assert (event["source_identity"], event["destination_identity"]) == ("alice", "bob")
    assert (event["source_tag"], event["destination_tag"]) == (2, 3)
    assert event["destination_port"] == 9090 and event["rule"] is None
    assert event["peer_node_id"] == "id-alice"
    assert event["peer_client_id"] == alice.key.client_id


def _is_denied_and_seen(alice: Node, events: IO[str]) -> bool:
    assert not alice.connects(BOB, 9090, timeout_s=0.3)
    return bool(select.select([events], [], [], 0)[0])


def test_logging_off_means_no_events_and_on_means_events_again(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    emitted = 'zt_log_events_total{outcome="emitted"}'
    bob.zt("set", "logging", "off")
    before = bob.metrics()
    assert not alice.connects(BOB, 9090, timeout_s=0.3)
    after = bob.metrics()
    assert after[emitted] == before[emitted]
    assert after[DROPS] > before[DROPS]  # control: the packet came, and was counted
    assert after["zt_logging_enabled"] == 0

    bob.zt("set", "logging", "on")
    assert not alice.connects(BOB, 9090, timeout_s=0.3)
    assert bob.metrics()[emitted] > after[emitted]


def test_the_account_of_events_adds_up(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    alice.pings(BOB)
    now = bob.metrics()
    terms = {
        name.partition('outcome="')[2].rstrip('"}'): value
        for name, value in now.items()
        if name.startswith("zt_log_events_total")
    }
    assert terms["emitted"] > 0
    settled = sum(value for name, value in terms.items() if name != "emitted")
    assert terms["emitted"] == settled + now["zt_log_events_in_flight"]


def test_a_new_state_takes_effect_without_touching_the_tunnel(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    assert not alice.connects(BOB, 9090, timeout_s=0.3)
    before = bob.status()
    more = [*RULES, {**RULES[0], "id": "admin", "ports": [9090]}]

    bob.zt("apply", str(bob.write(config(bob, alice, more))))

    assert alice.connects(BOB, 9090)
    after = bob.status()
    assert after["revision"]["number"] == before["revision"]["number"] + 1
    assert after["peers"][0]["last_handshake_at"] == before["peers"][0]["last_handshake_at"]
    bob.zt("apply", str(bob.write(config(bob, alice, []))))
    assert not alice.connects(BOB, 8080, timeout_s=0.3)


def test_a_state_that_cannot_be_applied_is_refused_and_the_last_good_one_holds(
    nodes: tuple[Node, Node],
) -> None:
    alice, bob = nodes
    bad = config(bob, alice)
    bad["identities"][0]["tag"] = 2**20  # beyond the 8 bits of the default mark_mask

    done = bob.run(str(BIN / "zt-agent"), "apply", str(bob.write(bad)))

    assert done.returncode == 1
    assert done.stderr.startswith("error: identities[0].tag") and "Traceback" not in done.stderr
    assert "1048576" in (bob.status()["last_refusal"] or "")
    assert alice.connects(BOB, 8080) and not alice.connects(BOB, 9090, timeout_s=0.3)


def test_a_removed_program_and_a_removed_belt_come_back(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    with bob.agent_held():  # else it might repair before anybody has looked
        bob.output("tc", "qdisc", "del", "dev", "wg0", "clsact")
        assert not alice.connects(BOB, 8080, timeout_s=0.2)  # the belt holds meanwhile
    bob.output("nft", "delete", "table", "inet", "zt_wg0")

    def is_whole() -> bool:
        filters = bob.output("tc", "filter", "show", "dev", "wg0", "ingress")
        belt = bob.run("nft", "list", "table", "inet", "zt_wg0")
        return "zt_ingress" in filters and belt.returncode == 0

    wait_for(is_whole, 4, "repair")
    assert alice.connects(BOB, 8080)
    assert not alice.connects(BOB, 9090, timeout_s=0.3)


def test_an_interface_that_was_removed_is_made_again(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    bob.output("ip", "link", "delete", "wg0")
    wait_for(lambda: alice.connects(BOB, 8080, timeout_s=0.5), 10, "the tunnel is back")
    assert not alice.connects(BOB, 9090, timeout_s=0.3)
    assert bob.metrics()["zt_identity_drift"] == 0


def test_no_secret_shows_in_status_log_arguments_or_metrics(nodes: tuple[Node, Node]) -> None:
    _, bob = nodes
    secrets = (bob.key.private_key(), bob.key.private_key().rstrip("="))
    processes = bob.output("ps", "-eo", "args")
    status, metrics = json.dumps(bob.status()), str(bob.metrics())
    for secret in secrets:
        for text in (bob.log, processes, status, metrics):
            assert secret not in text


# --- start, crash and end: nodes of their own ---


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    alice, bob = pair(tmp_path)
    with namespaces(alice, bob):
        cable(alice, bob)
        yield alice, bob


def listing(node: Node) -> list[str]:
    """Everything an agent could leave in its namespaces."""
    commands = (
        ("ip", "-br", "link"), ("ip", "rule"), ("ip", "-6", "rule"), ("ip", "route"),
        ("nft", "list", "ruleset"), ("ps", "-eo", "args"), ("ls", "/run", "/run/zt-agent"),
        ("sysctl", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"),
        ("find", "/sys/fs/bpf"),
    )  # fmt: skip
    return [node.run(*command).stdout for command in commands]


@pytest.mark.parametrize("how", ["--remove-on-exit", "zt-agent remove"])
def test_removal_takes_everything_back_within_two_seconds(
    fresh: tuple[Node, Node], how: str
) -> None:
    alice, bob = fresh
    whole = config(bob, alice)
    whole["node"]["role"] = "gateway"
    # The other end also carries a default route, which needs rules and a table of its own.
    whole["peers"][0]["allowed_ips"].append("0.0.0.0/0")
    bob.run("mkdir", "-p", "/run/zt-agent", "/run/wireguard")
    before = listing(bob)
    bob.start_agent(whole, remove_on_exit=how == "--remove-on-exit")
    assert bob.output("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"
    assert "lookup" in bob.output("ip", "rule", "show", "priority", "10742")
    # The way to the other end of the tunnel itself stays outside it.
    assert "dev to-alice" in bob.output("ip", "route", "get", "198.18.0.2", "mark", "0xa74")
    assert "dev wg0" in bob.output("ip", "route", "get", "203.0.113.1")

    code, seconds = bob.stop_agent()
    assert code == 0 and seconds < scaled(2)
    if how == "zt-agent remove":
        assert "wg0" in bob.output("ip", "-br", "link")  # control: stopping alone took nothing
        assert bob.remove().stdout == "removed\n"

    after = listing(bob)
    # The first process of this namespace reaps nobody.
    left = {"agent.lock", "log.counts", "[wireguard-go] <defunct>"}
    assert [
        "\n".join(line for line in text.splitlines() if line not in left) for text in after
    ] == ["\n".join(text.splitlines()) for text in before]


def test_after_a_kill_the_tunnel_goes_on_and_a_successor_takes_it_over(
    fresh: tuple[Node, Node],
) -> None:
    alice, bob = fresh
    alice.start_agent(config(alice, bob))
    bob.start_agent(config(bob, alice))
    wait_for(lambda: alice.pings(BOB), 10, "the tunnel")

    bob.stop_agent(signal.SIGKILL)

    with bob.serving(8080, 9090):
        assert alice.connects(BOB, 8080)  # nobody is there, and policy is still enforced
        assert not alice.connects(BOB, 9090, timeout_s=0.3)
        ping = subprocess.Popen(
            alice.command("ping", "-i0.05", "-c60", "-W1", BOB), stdout=subprocess.PIPE, text=True
        )
        bob.start_agent(config(bob, alice))
        said, _ = ping.communicate(timeout=scaled(20))
        assert " 0% packet loss" in said
        assert alice.connects(BOB, 8080)
        assert not alice.connects(BOB, 9090, timeout_s=0.3)
    assert bob.metrics()["zt_log_events_in_flight"] >= 0
    assert bob.stop_agent()[0] == 0


def test_a_switch_that_was_set_survives_a_restart(fresh: tuple[Node, Node]) -> None:
    alice, bob = fresh
    bob.start_agent(config(bob, alice))
    bob.zt("set", "authz-mode", "observe")
    bob.zt("set", "logging", "off")
    bob.stop_agent()

    bob.start_agent(config(bob, alice))

    status = bob.status()
    assert (status["authz_mode"], status["logging_enabled"]) == ("observe", False)
    assert sorted(status["overridden"]) == ["authz_mode", "logging_enabled"]


def test_the_tunnel_stands_soon_although_one_end_starts_late(fresh: tuple[Node, Node]) -> None:
    alice, bob = fresh
    alice.start_agent(config(alice, bob))
    time.sleep(1)  # initiations are lost meanwhile; by itself WireGuard tries again after 5 s
    bob.start_agent(config(bob, alice))
    began = time.monotonic()
    wait_for(lambda: has_shaken_hands(alice) and has_shaken_hands(bob), 5, "a handshake")
    assert time.monotonic() - began < scaled(2.5)


@pytest.mark.parametrize(
    ("prepare", "complaint"),
    [
        (("ip", "rule", "add", "fwmark", "0x2000/0x2000", "lookup", "5"), "an ip rule looks at"),
        (("ip", "link", "add", "wg0", "type", "bridge"), "already an interface wg0"),
    ],
)
def test_a_host_that_cannot_run_it_is_told_so_in_two_lines(
    fresh: tuple[Node, Node], prepare: tuple[str, ...], complaint: str
) -> None:
    alice, bob = fresh
    bob.output(*prepare)
    bob.start_agent(config(bob, alice), wait=False)
    assert bob._agent is not None and bob._agent.wait(20) == 3
    assert f"error: {complaint}" in bob.log or complaint in bob.log
    assert " hint: " in bob.log and "Traceback" not in bob.log


def test_a_second_agent_on_one_run_dir_is_refused(fresh: tuple[Node, Node]) -> None:
    alice, bob = fresh
    bob.start_agent(config(bob, alice))
    program = [str(BIN / "zt-agent"), "run", "--config", str(bob.directory / "agent.toml")]
    program += ["--standalone", str(bob.directory / "network.yaml")]
    done = bob.run(*program)
    assert done.returncode == 1 and "another zt-agent runs" in done.stderr
    assert bob.status()["name"] == "bob"  # the first one was not disturbed


def test_only_root_may_speak_to_the_agent(fresh: tuple[Node, Node]) -> None:
    alice, bob = fresh
    bob.start_agent(config(bob, alice))
    bob.output("chmod", "755", "/run/zt-agent")
    bob.output("chmod", "666", "/run/zt-agent/agent.sock")  # what the mode says is not trusted
    code = (
        "import os; from pathlib import Path; from agent import control; os.setuid(65534)\n"
        "request = {'do': 'set-authz-mode', 'mode': 'observe'}\n"
        "try: control.ask(Path('/run/zt-agent/agent.sock'), request)\n"
        "except control.ControlError as error: print(error)\n"
    )
    assert "only root" in bob.output(sys.executable, "-c", code)
    assert bob.status()["authz_mode"] == "enforce"


def test_a_foreign_source_never_arrives_as_a_peer(fresh: tuple[Node, Node]) -> None:
    alice, bob = fresh
    alice.start_agent(config(alice, bob))
    bob.start_agent(config(bob, alice))
    wait_for(lambda: alice.pings(BOB), 10, "the tunnel")
    # From outside the tunnel, with an address that only the tunnel may bring.
    alice.output("ip", "address", "add", "10.77.0.99/32", "dev", "wg0")
    before = bob.metrics()
    done = alice.run("ping", "-c2", "-i0.2", "-W1", "-I", "10.77.0.99", BOB)
    assert done.returncode != 0
    # WireGuard itself dropped it: not even a packet of an unknown source was seen.
    assert unknown(bob.metrics()) == unknown(before)


def unknown(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if 'identity="unknown"' in name}


def test_a_gateway_forwards_and_masquerades_where_it_is_asked_to(fresh: tuple[Node, Node]) -> None:
    alice, bob = fresh
    host = Node("host", bob.directory.parent / "host", (), "192.168.50.2")
    client, gateway = config(alice, bob), config(bob, alice)
    client["node"]["role"], gateway["node"]["role"] = "client", "gateway"
    client["peers"][0]["allowed_ips"].append("192.168.50.0/24")
    del client["identities"], client["policy"]
    lan = {"name": "lan", "tag": 4, "cidr": "192.168.50.0/24", "gateway": "bob"}
    gateway["resources"] = [lan]
    gateway["policy"]["rules"] = [{"id": "lan", "from": "alice", "to": "lan", "action": "allow"}]
    with namespaces(host):
        cable(bob, host, "192.168.50.1", "192.168.50.2")
        alice.start_agent(client)
        bob.start_agent(gateway)
        with host.serving(8080):
            wait_for(lambda: has_shaken_hands(alice), 10, "a handshake")
            # The host has no way back to tunnel addresses.
            assert not alice.connects("192.168.50.2", 8080, timeout_s=0.5)
            bob.stop_agent()
            bob.settings["gateway"] = {"masquerade": True}
            bob.start_agent(gateway, remove_on_exit=True)
            wait_for(partial(alice.connects, "192.168.50.2", 8080, 0.5), 10, "masquerading")
            assert bob.metrics()["zt_identity_drift"] == 0
            drops = 'zt_drops_total{hook="ingress",identity="lan",reason="no_rule"}'
            assert drops not in bob.metrics()
            # What somebody turns off is turned on again.
            for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
                bob.output("sysctl", "-w", f"{name}=0")
                wait_for(
                    lambda name=name: bob.output("sysctl", "-n", name).strip() == "1",  # type: ignore[misc]
                    20,
                    f"{name} is set again",
                )
            assert bob.metrics()['zt_repairs_total{what="sysctls"}'] == 2
        # What the gateway lets in, it does not let out by itself: the client opened nothing here.
        with alice.serving(7000):
            assert not bob.connects(ALICE, 7000, timeout_s=0.5)
            alice.zt("set", "authz-mode", "observe")
            assert bob.connects(ALICE, 7000)
    assert bob.stop_agent()[0] == 0
    assert "zt_nat" not in bob.output("nft", "list", "ruleset")
