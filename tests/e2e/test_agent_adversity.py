"""An agent on a host that does not play along: it says so, harms nobody, and holds what it held."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.nodes import BIN, Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import BOB, config, pair

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
    bob.output("mount", "-t", "tmpfs", "-o", f"size={page}", "small", "/run/zt-agent")
    bob.output("dd", "if=/dev/zero", "of=/run/zt-agent/filler", f"bs={page}", "count=1")
    bob.start_agent(config(bob, alice), wait=False)
    assert bob._agent is not None and bob._agent.wait(20) == 1
    assert "error: cannot map /run/zt-agent/log.counts: No space left" in bob.log
