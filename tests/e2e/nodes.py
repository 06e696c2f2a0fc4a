"""Standalone nodes by hand: a namespace each, one cable between two, a real agent in each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from agent.keys import NodeKey, load_or_make
from agent.state import private_directory
from ztlab.lab.pace import scaled

BIN = Path(sys.executable).parent
READY_S = 30.0
SETUP = (
    "mount --make-rprivate / && mount -t tmpfs run /run && mount -t bpf bpf /sys/fs/bpf"
    " && ip link set lo up && echo ready && exec sleep infinity"
)
SERVER = """
import socket, threading
def serve(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    held = []
    while True:
        connection, _ = listener.accept()
        held.append(connection)
        def echo(connection=connection):
            while data := connection.recv(4096):
                connection.sendall(data)
        threading.Thread(target=echo, daemon=True).start()
for port in PORTS:
    threading.Thread(target=serve, args=(port,), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""


def wait_for(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """What CONDITION gives once it is true; fails after SECONDS."""
    deadline = time.monotonic() + scaled(seconds)
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not come to that: {what}"
        time.sleep(0.02)
    return found


@dataclass
class Node:
    """A namespace with an agent in it. `pid` is its first process, seen from outside."""

    name: str
    directory: Path
    addresses: tuple[str, ...]
    underlay: str
    pid: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    _agent: subprocess.Popen[bytes] | None = None

    @property
    def key(self) -> NodeKey:
        return load_or_make(private_directory(self.directory / "state") / "private.key")

    @property
    def log(self) -> str:
        return (self.directory / "agent.log").read_text()

    def command(self, *words: str) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "--net", "--mount", "--pid", *words]

    def run(self, *words: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            errors="replace",  # some of what is looked into for secrets is no text
            timeout=scaled(timeout_s),
        )

    def output(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def zt(self, *words: str) -> str:
        """`zt-agent WORDS...`, which must succeed."""
        return self.output(str(BIN / "zt-agent"), *words)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.zt("status", "--json"))
        return found

    def metrics(self) -> dict[str, float]:
        """Each sample's line without its value, to its value."""
        limit = str(scaled(5))
        text = self.output("curl", "-sS", "--max-time", limit, "http://127.0.0.1:9464/metrics")
        pairs = (line.rpartition(" ") for line in text.splitlines() if line[:1] != "#")
        return {name: float(value) for name, _, value in pairs}

    def connects(self, address: str, port: int, timeout_s: float = 1.0) -> bool:
        code = (
            "import socket, sys\n"
            "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))\n"
            "except OSError: sys.exit(1)"
        )
        arguments = [sys.executable, "-c", code, address, str(port), str(scaled(timeout_s))]
        return self.run(*arguments).returncode == 0

    def syns_in_vain(self, address: str, port: int, timeout_s: float = 1.0) -> int:
        """With how many SYNs it did not get through: on a slow machine it sends some again."""
        before = self._syns_again()
        assert not self.connects(address, port, timeout_s)
        return 1 + self._syns_again() - before

    def _syns_again(self) -> int:
        # Documentation/networking/snmp_counter.rst
        lines = self.output("grep", "^TcpExt:", "/proc/net/netstat").splitlines()
        names, values = (line.split() for line in lines)
        return int(values[names.index("TCPSynRetrans")])

    def pings(self, address: str) -> bool:
        return self.run("ping", "-c1", f"-W{scaled(1)}", address).returncode == 0

    def write(self, config: Mapping[str, Any]) -> Path:
        path = self.directory / "network.yaml"
        path.write_text(yaml.safe_dump(dict(config)))
        return path

    def start_agent(
        self,
        config: Mapping[str, Any],
        *,
        wait: bool = True,
        verbose: bool = False,
        remove_on_exit: bool = False,
    ) -> None:
        values = {
            "name": self.name,
            "state_dir": str(self.directory / "state"),
            "authz_mode": "enforce",
            "logging_enabled": True,
            **self.settings,
        }
        tables = {k: v for k, v in values.items() if isinstance(v, dict)}
        lines = [f"{k} = {json.dumps(v)}" for k, v in values.items() if k not in tables]
        for table, entries in tables.items():
            lines += [f"[{table}]", *(f"{k} = {json.dumps(v)}" for k, v in entries.items())]
        toml = self.directory / "agent.toml"
        toml.write_text("\n".join(lines) + "\n")
        program = [str(BIN / "zt-agent"), "run", "--config", str(toml)]
        program += ["--standalone", str(self.write(config))]
        program += ["--verbose"] if verbose else []
        program += ["--remove-on-exit"] if remove_on_exit else []
        with open(self.directory / "agent.log", "ab") as log:
            self._agent = subprocess.Popen(self.command(*program), stdout=log, stderr=log)
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        assert self._agent is not None
        agent = self._agent

        def is_ready() -> bool:
            assert agent.poll() is None, self.log
            return self.run(str(BIN / "zt-agent"), "status").returncode == 0

        wait_for(is_ready, READY_S, "the agent answers")

    def agent_pid(self) -> int:
        """Of the agent itself, seen from outside (nsenter is its parent)."""
        assert self._agent is not None
        return _only_child(self._agent.pid)

    @contextlib.contextmanager
    def agent_held(self) -> Iterator[None]:
        """The agent's process stands still while the block runs."""
        pid = self.agent_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)
            assert self._agent is not None
            self._agent.send_signal(signal.SIGCONT)  # nsenter stops itself with its child

    def stop_agent(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """(exit code, seconds it took)."""
        assert self._agent is not None
        began = time.monotonic()
        os.kill(self.agent_pid(), number)
        code = self._agent.wait(10)
        return code, time.monotonic() - began

    def remove(self) -> subprocess.CompletedProcess[str]:
        """`zt-agent remove`, by the settings of the last start."""
        toml = self.directory / "agent.toml"
        return self.run(str(BIN / "zt-agent"), "remove", "--config", str(toml))

    def reap(self) -> None:
        """Take note of the agent's end: its namespaces are gone."""
        if self._agent is not None:
            self._agent.wait(10)

    @contextlib.contextmanager
    def serving(self, *ports: int) -> Iterator[None]:
        """TCP echo servers on PORTS, both families."""
        code = SERVER.replace("PORTS", repr(ports))
        server = subprocess.Popen(
            self.command(sys.executable, "-c", code), stdout=subprocess.PIPE, text=True
        )
        with server:
            assert server.stdout is not None and server.stdout.readline() == "ready\n"
            try:
                yield
            finally:
                server.kill()


@contextlib.contextmanager
def namespaces(*nodes: Node) -> Iterator[None]:
    """Give each node its namespaces; with the block every process in them ends."""
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.callback(node.reap)
            node.directory.mkdir(parents=True, exist_ok=True)
            unshare = ["unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork"]
            holder = subprocess.Popen(
                [*unshare, "--kill-child", "sh", "-c", SETUP], stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(holder)
            stack.callback(holder.kill)
            assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
            node.pid = _only_child(holder.pid)
        yield


def _only_child(pid: int) -> int:
    command = ["ps", "-o", "pid=", "--ppid", str(pid)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def cable(a: Node, b: Node, *addresses: str) -> None:
    """A veth pair between two nodes, each with its underlay address, or with those given."""
    names = {a.name: f"to-{b.name}", b.name: f"to-{a.name}"}
    command = ["ip", "link", "add", names[a.name], "netns", str(a.pid), "type", "veth"]
    command += ["peer", "name", names[b.name], "netns", str(b.pid)]
    subprocess.run(command, check=True)
    for node, address in zip((a, b), addresses or (a.underlay, b.underlay), strict=True):
        node.output("ip", "address", "add", f"{address}/24", "dev", names[node.name])
        node.output("ip", "link", "set", names[node.name], "up")
    for node in (a, b):
        wait_for(partial(_has_carrier, node, names[node.name]), what="carrier")


def _has_carrier(node: Node, interface: str) -> bool:
    return "LOWER_UP" in node.output("ip", "link", "show", interface)
