"""An agent on a host that does not play along: it says so, harms nobody, and holds what it held."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import exclusive, settings
from agent.daemon import Agent
from agent.loading import Loading
from tests.e2e.isolation import isolated
from tests.e2e.nodes import BIN, Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import ALICE, BOB, BOB_6, config, pair
from ztlab.notify import Notifier

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

HOLD_PORT = """
import socket, time
held = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); held.bind(("::", 51820))
print("held", flush=True); time.sleep(60)
"""


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    alice, bob = pair(tmp_path)
    with namespaces(alice, bob):
        cable(alice, bob)
        yield alice, bob


def port_holder(node: Node) -> tuple[subprocess.Popen[str], int]:
    """A process that holds WireGuard's UDP port; the second is its own id, seen from outside."""
    holder = subprocess.Popen(
        node.command(sys.executable, "-c", HOLD_PORT), stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    command = ["ps", "-o", "pid=", "--ppid", str(holder.pid)]
    pid = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return holder, pid


def uapi(node: Node, request: str) -> str:
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect('/var/run/wireguard/wg0.sock')\n"
        "s.sendall(sys.argv[1].encode() + b'\\n\\n'); print(s.recv(65536).decode())\n"
    )
    return node.output(sys.executable, "-c", code, request)


def test_somebody_elses_wireguard_interface_is_left_as_it_is(fresh: tuple[Node, Node]) -> None:
    alice, bob = fresh
    theirs = subprocess.Popen(
        bob.command("env", "WG_PROCESS_FOREGROUND=1", "wireguard-go", "wg0"),
        stderr=subprocess.DEVNULL,
    )
    with theirs:
        socket = "/var/run/wireguard/wg0.sock"
        wait_for(lambda: bob.run("test", "-S", socket).returncode == 0, what="wireguard-go")
        peer = f"public_key={bytes(range(1, 33)).hex()}\nallowed_ip=10.9.9.9/32"
        uapi(bob, f"set=1\nprivate_key={bytes(range(32)).hex()}\nlisten_port=999\n{peer}")
        before = uapi(bob, "get=1")

        bob.start_agent(config(bob, alice), wait=False)

        assert bob._agent is not None and bob._agent.wait(20) == 3
        assert "error: wg0 has another private key" in bob.log and "Traceback" not in bob.log
        assert uapi(bob, "get=1") == before
        theirs.kill()


def test_a_switch_that_cannot_be_kept_is_not_thrown(fresh: tuple[Node, Node]) -> None:
    alice, bob = fresh
    bob.start_agent(config(bob, alice))
    state = str(bob.directory / "state")
    bob.output("mount", "--bind", state, state)
    bob.output("mount", "-o", "remount,bind,ro", state)
    for words in (("authz-mode", "observe"), ("logging", "off")):
        done = bob.run(str(BIN / "zt-agent"), "set", *words)
        assert done.returncode == 1 and done.stderr.startswith("error: cannot write")
    now = bob.metrics()
    assert (now["zt_authz_enforce"], now["zt_logging_enabled"]) == (1, 1)
    # The belt goes with the mode: what is said is what is done.
    assert bob.run("nft", "list", "table", "inet", "zt_wg0").returncode == 0


def test_a_taken_port_is_named(fresh: tuple[Node, Node]) -> None:
    alice, bob = fresh
    holder, pid = port_holder(bob)
    with holder:
        bob.start_agent(config(bob, alice), wait=False)
        assert bob._agent is not None and bob._agent.wait(20) == 1
        assert "error: wg0 cannot listen on UDP port 51820" in bob.log
        assert " hint: " in bob.log and "Traceback" not in bob.log
        assert "wg0" not in bob.output("ip", "-br", "link")
        os.kill(pid, signal.SIGKILL)


def test_an_interface_that_could_not_be_made_again_is_tried_until_it_can(
    fresh: tuple[Node, Node],
) -> None:
    alice, bob = fresh
    alice.start_agent(config(alice, bob))
    bob.start_agent(config(bob, alice))
    wait_for(lambda: alice.pings(BOB), 10, "the tunnel")
    agent = bob.agent_pid()
    os.kill(agent, signal.SIGSTOP)  # so that somebody else is quicker
    bob.output("ip", "link", "delete", "wg0")
    holder, pid = port_holder(bob)
    with holder:
        os.kill(agent, signal.SIGCONT)
        assert bob._agent is not None
        bob._agent.send_signal(signal.SIGCONT)  # nsenter stops when its child does
        wait_for(lambda: "cannot listen on UDP port" in bob.log, 10, "a complaint")
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: alice.pings(BOB), 10, "the tunnel is back")
    assert bob.metrics()["zt_identity_drift"] == 0


def test_a_full_run_dir_is_an_error_and_not_a_crash(fresh: tuple[Node, Node]) -> None:
    alice, bob = fresh
    page = os.sysconf("SC_PAGESIZE")
    bob.output("mkdir", "/run/zt-agent")
    bob.output("mount", "-t", "tmpfs", "-o", f"size={page},mode=0700", "small", "/run/zt-agent")
    bob.output("dd", "if=/dev/zero", "of=/run/zt-agent/filler", f"bs={page}", "count=1")
    bob.start_agent(config(bob, alice), wait=False)
    assert bob._agent is not None and bob._agent.wait(20) == 1
    assert "error: cannot map /run/zt-agent/log.counts: No space left" in bob.log


def test_a_second_agent_takes_nothing_from_the_first_nor_does_its_end(
    fresh: tuple[Node, Node],
) -> None:
    alice, bob = fresh
    alice.start_agent(config(alice, bob))
    first = config(bob, alice)
    first["node"]["role"] = "gateway"
    first["peers"][0]["allowed_ips"].append("0.0.0.0/0")
    bob.settings["gateway"] = {"masquerade": True}
    bob.start_agent(first)
    wait_for(lambda: alice.pings(BOB), 10, "the tunnel")
    commands = (("ip", "rule"), ("ip", "-6", "rule"), ("nft", "list", "ruleset"), ("ip", "route"))
    before = [bob.output(*command) for command in commands]

    other = Node("other", bob.directory.parent / "other", ("10.88.0.1/32",), bob.underlay, bob.pid)
    other.directory.mkdir()
    other.settings = {
        "run_dir": "/run/other",
        "wireguard": {"interface": "wg1", "listen_port": 51821},
        "metrics": {"listen": "127.0.0.1:9465"},
        "gateway": {"masquerade": True},
    }
    second = config(other, alice) | {"peers": [], "policy": {"default": "deny"}}
    second["identities"] = [{"name": "other", "tag": 3, "prefixes": ["10.88.0.1/32"]}]
    second["node"]["role"] = "gateway"
    status = [str(BIN / "zt-agent"), "status", "--socket", "/run/other/agent.sock"]
    other.start_agent(second, wait=False, remove_on_exit=True)
    wait_for(lambda: bob.run(*status).returncode == 0, 20, "the second agent")
    assert [bob.output(*c) for c in commands[:2]] == before[:2]
    assert "zt_nat_wg0" in bob.output("nft", "list", "ruleset")
    assert "dev wg0" in bob.output("ip", "route", "get", "203.0.113.1")

    # It cannot have a default route as well, and is told so.
    second["peers"] = [{**first["peers"][0], "allowed_ips": ["0.0.0.0/0"]}]
    apply = [str(BIN / "zt-agent"), "apply", str(other.write(second)), *status[2:]]
    done = bob.run(*apply)
    assert done.returncode == 1 and "another agent's interface has one" in done.stderr

    assert other.stop_agent()[0] == 0
    assert [bob.output(*command) for command in commands] == before
    assert alice.pings(BOB)
    assert bob.stop_agent()[0] == 0
    assert bob.remove().returncode == 0
    assert "zt_" not in bob.output("nft", "list", "ruleset")
    assert "lookup 2676" not in bob.output("ip", "rule")


@isolated
def test_an_agent_told_to_stop_while_its_programs_load_leaves_the_last_ones_alone(
    tmp_path: Path,
) -> None:
    alice, bob = pair(tmp_path)
    bob.directory.mkdir()
    whole, file, stop = (
        bob.write(config(bob, alice)),
        bob.directory / "agent.toml",
        threading.Event(),
    )

    def pinned_after_a_start(mark_mask: str) -> list[Path]:
        file.write_text(
            f'name = "bob"\nstate_dir = "{bob.directory / "state"}"\nauthz_mode = "enforce"\n'
            f"logging_enabled = false\n[datapath]\nmark_mask = {mark_mask}\n"
        )
        loaded = settings.load(file)
        with exclusive.lock(loaded.run_path), Loading(loaded) as programs:
            agent = Agent(loaded, whole, Notifier(None), programs)
            agent.start(stop)
            agent.stop()
        return sorted(Path("/sys/fs/bpf").glob("ztlab/*/wg0/*/*/*"))

    in_force = pinned_after_a_start("0xffff0000")
    assert in_force
    stop.set()
    assert pinned_after_a_start("0x00fff000") == in_force  # it would have replaced them


@pytest.fixture
def userspace(fresh: tuple[Node, Node]) -> Iterator[tuple[Node, Node]]:
    """Bob's WireGuard is a process, which can be held, and is asked by a socket."""
    alice, bob = fresh
    bob.settings["wireguard"] = {"backend": "userspace"}
    bob.start_agent(config(bob, alice), wait=False)
    alice.start_agent(config(alice, bob))
    bob.wait_ready()
    with bob.serving(8080):
        wait_for(lambda: alice.connects(BOB, 8080, timeout_s=0.5), 10, "the tunnel")
        yield alice, bob


def applied(node: Node, other: Node, rules: list[dict[str, Any]]) -> bool:
    """Does NODE's agent apply a policy of RULES?"""
    program = str(BIN / "zt-agent")
    return node.run(program, "apply", str(node.write(config(node, other, rules)))).returncode == 0


def test_a_policy_after_which_wireguard_does_not_answer_is_refused_and_the_last_one_holds(
    userspace: tuple[Node, Node],
) -> None:
    alice, bob = userspace
    command = ["pgrep", "--ns", str(bob.pid), "--nslist", "net", "wireguard-go"]
    pid = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert not applied(bob, alice, [])
    finally:
        os.kill(pid, signal.SIGCONT)

    assert alice.connects(BOB, 8080)
    assert applied(bob, alice, []) and not alice.connects(BOB, 8080)  # control


def test_a_policy_beside_which_the_interface_cannot_be_put_right_is_refused_as_a_whole(
    userspace: tuple[Node, Node],
) -> None:
    alice, bob = userspace
    stranger = bytes(range(1, 33)).hex()
    uapi(bob, f"set=1\npublic_key={stranger}\nallowed_ip=10.9.9.9/32")
    bob.output("ip", "route", "replace", f"{ALICE}/32", "dev", "lo")
    assert not applied(bob, alice, [])

    assert alice.connects(BOB_6, 8080)  # whose route nobody took
    bob.output("ip", "route", "del", f"{ALICE}/32", "dev", "lo")
    assert applied(bob, alice, [])  # control
    assert not alice.connects(BOB_6, 8080) and stranger not in uapi(bob, "get=1")


def test_what_the_belt_drops_is_counted(fresh: tuple[Node, Node]) -> None:
    alice, bob = fresh
    alice.start_agent(config(alice, bob))
    bob.start_agent(config(bob, alice))
    wait_for(lambda: alice.pings(BOB), 10, "the tunnel")
    assert bob.metrics()["zt_belt_drops_total"] == 0
    os.kill(bob.agent_pid(), signal.SIGSTOP)  # nobody repairs meanwhile
    bob.output("tc", "qdisc", "del", "dev", "wg0", "clsact")
    assert alice.run("ping", "-c3", "-i0.2", "-W1", BOB).returncode != 0
    os.kill(bob.agent_pid(), signal.SIGCONT)
    assert bob._agent is not None
    bob._agent.send_signal(signal.SIGCONT)
    wait_for(lambda: bob.metrics()["zt_belt_drops_total"] == 3, 5, "the count of three pings")
    assert bob.metrics()["zt_uncounted_packets_total"] == 0
    assert alice.pings(BOB)
