"""The Vagrantfile's production machines as ztlab.scenario sees a lab: reached from outside, by ssh.

`RemoteLab` has what the scenario runner uses of `ztlab.lab.lab.Lab`, so that the steps and the
expectations of scenarios/gateway.yaml run against virtual machines as they stand. What the
Vagrantfile and this module must agree on stands in machines.yaml.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

import ztlab
from ztlab.client.admin import AdminClient
from ztlab.errors import DeadlineExceeded, Unreachable, ZtError
from ztlab.scenario import loading, probe
from ztlab.scenario.model import Scenario

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
_HERE_PACKAGES = str(Path(ztlab.__file__).resolve().parents[1])
_GUEST_TREE = "/ztlab"
_PROGRAMS = "/opt/ztlab/current/bin"
_AGENT_SOCKET = "/run/zt-agent/agent.sock"
# A login to an emulated machine on a busy host; added to each deadline of a command.
_LOGIN_S = 40.0
# How far ahead of ours a machine's clock is set: an event must never seem older than its cause.
AHEAD_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteNode:
    """A node of the scenario and the machine that plays it.

    lan     its address behind the gateway, if it has one there
    listen  as the scenario says, `tcp/8080`
    """

    name: str
    machine: str
    underlay: str | None
    lan: str | None
    listen: tuple[str, ...]


class RemoteLab:
    """The machines, once `vagrant up` has provisioned them. Commands run as root."""

    name = "vagrant"
    status = "up"

    def __init__(self, directory: Path) -> None:
        """DIRECTORY: an existing one, for the ssh configuration and its connections' sockets."""
        self._plan = yaml.safe_load((HERE / "machines.yaml").read_text())
        self._ssh_config = directory / "ssh-config"
        self._write_ssh_config(directory)
        self._relays: list[subprocess.Popen[bytes]] = []

    @cached_property
    def scenario(self) -> Scenario:
        """The scenario that the machines play."""
        return loading.load(ROOT / self._plan["scenario"])

    @cached_property
    def nodes(self) -> tuple[RemoteNode, ...]:
        """Every node and host of the scenario."""
        return tuple(
            RemoteNode(
                name=name,
                machine=spec["machine"],
                underlay=spec.get("underlay"),
                lan=spec.get("lan"),
                listen=self.scenario.nodes[name].listen,
            )
            for name, spec in self._plan["nodes"].items()
        )

    @cached_property
    def agents(self) -> tuple[RemoteNode, ...]:
        """The nodes that run an agent."""
        return tuple(n for n in self.nodes if self.scenario.nodes[n.name].kind == "node")

    @property
    def machines(self) -> tuple[str, ...]:
        """Every machine, the coordinator's first."""
        return tuple(dict.fromkeys(["coordinator", *(node.machine for node in self.nodes)]))

    def node(self, name: str) -> RemoteNode:
        """The node NAME of the scenario."""
        return next(node for node in self.nodes if node.name == name)

    def close(self) -> None:
        """End every connection."""
        for relay in self._relays:
            relay.kill()
            relay.wait()
        for machine in self.machines:
            self._ssh(machine, ["-O", "exit"], check=False)

    # What ztlab.scenario calls

    def run(
        self,
        node: str,
        argv: Sequence[str],
        *,
        timeout_s: float | None = None,
        input: str | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """ARGV on NODE's machine to its end, with its output; with CHECK a ZtError if it fails."""
        words = list(argv)
        if words[0] == sys.executable:
            words[0] = "/usr/bin/python3"
        words = [word.replace(_HERE_PACKAGES, _GUEST_TREE, 1) for word in words]
        if words[0] == "zt-agent":
            words[0] = f"{_PROGRAMS}/zt-agent"
        if probe.__file__.replace(_HERE_PACKAGES, _GUEST_TREE, 1) in words:
            words += self._source_of(node, words)
        return self.on(
            self.node(node).machine, words, timeout_s=timeout_s, input=input, check=check
        )

    def _source_of(self, node: str, words: Sequence[str]) -> list[str]:
        """One machine plays several hosts: each calls from its own address."""
        found = self.node(node)
        is_alone = sum(other.machine == found.machine for other in self.nodes) == 1
        return [] if is_alone or "--source" in words else ["--source", str(found.lan)]

    def http_get(self, node: str, url: str, *, timeout_s: float = 5.0) -> str:
        """The body at URL as NODE's machine reads it."""
        argv = ["curl", "--fail", "--silent", "--show-error", "--max-time", "20", url]
        return self.run(node, argv, timeout_s=timeout_s, check=True).stdout

    def call(self, node: str, work: Callable[[], socket.socket]) -> socket.socket:
        """A connection to the control socket of NODE's agent.

        In a lab WORK runs inside the node; the one that the runner asks for is this connection.
        """
        if work.__name__ != "_connected":
            raise ZtError(f"{work.__name__} cannot run on another machine")
        ours, theirs = socket.socketpair()
        relay = self._command(self.node(node).machine, ["nc", "-U", _AGENT_SOCKET])
        with theirs:
            self._relays.append(
                subprocess.Popen(relay, stdin=theirs.fileno(), stdout=theirs.fileno())
            )
        ours.settimeout(_LOGIN_S)
        return ours

    @cached_property
    def _admin(self) -> AdminClient:
        state = "/var/lib/zt-coordinator"
        authority = self.on("coordinator", ["cat", f"{state}/authority.pem"], check=True).stdout
        token = json.loads(self.on("coordinator", ["cat", "/root/owner-token"], check=True).stdout)
        url = f"https://{self._plan['coordinator']['underlay']}:8443"
        return AdminClient(url, authority, token["token"])

    def admin(self) -> AdminClient:
        """The management API with the owner's token, over the underlay."""
        return self._admin

    # Machines

    def on(
        self,
        machine: str,
        argv: Sequence[str],
        *,
        timeout_s: float | None = None,
        input: str | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """ARGV on MACHINE, likewise."""
        command = " ".join(argv)
        limit_s = None if timeout_s is None else timeout_s + _LOGIN_S
        try:
            done = subprocess.run(
                self._command(machine, argv),
                capture_output=True,
                text=True,
                timeout=limit_s,
                input=input or "",
            )
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(f"{machine}: {command}: not done after {limit_s} s") from None
        if done.returncode == 255:
            raise Unreachable(f"{machine}: {done.stderr.strip()}")
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise ZtError(f"{machine}: {command}: exit code {done.returncode}: {said}")
        return done

    def set_clocks(self) -> None:
        """Every machine's clock by ours, AHEAD_S before it: emulated ones start apart."""
        program = (
            "import sys, time\n"
            "for line in sys.stdin:\n"
            "    time.clock_settime(time.CLOCK_REALTIME, float(line))\n"
            "    print('set', flush=True)\n"
        )
        for machine in self.machines:
            command = self._command(machine, ["python3", "-c", program])
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as setter:
                assert setter.stdin is not None and setter.stdout is not None
                for _ in range(3):  # the first waits for the login and warms the path
                    setter.stdin.write(f"{time.time() + AHEAD_S}\n")
                    setter.stdin.flush()
                    if setter.stdout.readline() != "set\n":
                        raise Unreachable(f"{machine}: its clock cannot be set")
                setter.stdin.close()

    def _command(self, machine: str, argv: Sequence[str]) -> list[str]:
        return [
            *("ssh", "-F", str(self._ssh_config), "-o", "LogLevel=ERROR", machine, "--"),
            "sudo " + shlex.join(argv),
        ]

    def _ssh(self, machine: str, options: Sequence[str], *, check: bool) -> None:
        command = ["ssh", "-F", str(self._ssh_config), *options, machine]
        subprocess.run(command, capture_output=True, check=check)

    def _write_ssh_config(self, directory: Path) -> None:
        names = ["coordinator", *{spec["machine"] for spec in self._plan["nodes"].values()}]
        done = subprocess.run(
            ["vagrant", "ssh-config", *names],
            capture_output=True,
            text=True,
            env={**os.environ, "VAGRANT_CWD": str(HERE)},
        )
        if done.returncode != 0:
            raise ZtError(
                f"vagrant ssh-config: {done.stderr.strip()}",
                hint=f"cd {HERE}; vagrant up {' '.join(names)}",
            )
        shared = (
            f"Host *\n  ControlMaster auto\n  ControlPath {directory}/%n\n  ControlPersist 60\n"
        )
        self._ssh_config.write_text(done.stdout + shared)


def wait_for(what: str, seen: Callable[[], Any], *, timeout_s: float) -> Any:
    """What SEEN returns once it is true; DeadlineExceeded otherwise."""
    deadline = time.monotonic() + timeout_s
    while not (found := seen()):
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{what}: not so after {timeout_s:g} s")
        time.sleep(0.5)
    return found
