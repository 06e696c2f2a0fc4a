"""A standing lab, as commands, scenarios and tests use it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from ztlab.errors import DeadlineExceeded, HostUnfit, NotFound, Unreachable, ZtError
from ztlab.lab import execute, processes, state
from ztlab.lab.addressing import bare
from ztlab.lab.namespaces import NETWORK_AND_FILES, call_inside
from ztlab.lab.pace import scaled
from ztlab.lab.plan import COORDINATOR, Listener
from ztlab.lab.state import LabRecord, NodeRecord

if TYPE_CHECKING:
    from ztlab.client.admin import AdminClient

T = TypeVar("T")
Status = Literal["up", "building", "dead"]
METRICS_URL = "http://127.0.0.1:9464/metrics"
_LISTENING, _PAUSED = Path("/run/ztlab/listening"), Path("/run/ztlab/paused")


class Lab:
    """One lab, by its record on disk. Every `node` argument is a node's name; NotFound otherwise.

    The coordinator and the switch are namespaces too: `run("coordinator", [...])` works.
    """

    def __init__(self, record: LabRecord) -> None:
        self.record = record
        self._admin: AdminClient | None = None

    @classmethod
    def open(cls, name: str | None = None) -> Lab:
        """The lab NAME, or the one that is standing; NotFound with the list otherwise."""
        if name is not None:
            return cls(state.read(name))
        known = state.names()
        if not known:
            raise NotFound("no lab is standing", hint="make one: ztlab up FILE")
        if len(known) > 1:
            raise NotFound(
                f"{len(known)} labs are standing: {', '.join(known)}",
                hint="say which one: --lab NAME",
            )
        return cls(state.read(known[0]))

    @staticmethod
    def names() -> tuple[str, ...]:
        """Every lab with anything left of it, sorted."""
        return state.names()

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def nodes(self) -> tuple[NodeRecord, ...]:
        """The nodes and hosts of the plan, in its order; neither coordinator nor switch."""
        return tuple(n for n in self.record.nodes if n.kind in ("node", "host"))

    def node(self, name: str) -> NodeRecord:
        """The record of node NAME."""
        return self.record.node(name)

    @property
    def status(self) -> Status:
        """up; building (also: `up` was killed); dead (its PID 1 is gone)."""
        if self.record.init is None or not processes.is_alive(self.record.init):
            return "building" if self.record.init is None else "dead"
        return self.record.state

    @property
    def directory(self) -> Path:
        """Where the lab's files are."""
        return state.lab_dir(self.name)

    def log_path(self, node: str) -> Path:
        """The log of NODE's agent, or of the coordinator."""
        record = self.node(node)
        if record.kind == "coordinator":
            return state.coordinator_dir(self.name) / "log"
        if record.kind != "node":
            raise NotFound(f"{node!r} runs no agent, so there is no log of one")
        return state.node_dir(self.name, node) / "log"

    # Addresses

    def tunnel_addresses(self, node: str) -> tuple[str, ...]:
        """NODE's addresses inside the tunnel, without prefix lengths, IPv4 first."""
        return tuple(bare(a) for a in self.node(node).tunnel)

    def lan_addresses(self, node: str) -> tuple[str, ...]:
        """NODE's addresses on its LAN, likewise."""
        return tuple(bare(a) for a in self.node(node).lan_addresses)

    def underlay_addresses(self, node: str) -> tuple[str, ...]:
        """NODE's addresses outside the tunnel, likewise."""
        return tuple(bare(a) for a in self.node(node).underlay)

    # Programs

    def run(
        self,
        node: str,
        argv: Sequence[str],
        *,
        timeout_s: float | None = None,
        input: str | None = None,
        check: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """ARGV in NODE to its end, with its output.

        DeadlineExceeded after TIMEOUT_S (it is killed then); with CHECK a ZtError if it fails.
        """
        timeout_s = None if timeout_s is None else scaled(timeout_s)
        command = " ".join(argv)
        try:
            done = execute.run(
                self.record, self.node(node), argv, timeout_s=timeout_s, stdin=input, env=env
            )
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(f"{node}: {command}: not done after {timeout_s} s") from None
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise ZtError(f"{node}: {command}: exit code {done.returncode}: {said}")
        return done

    def popen(
        self,
        node: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        **streams: Any,
    ) -> subprocess.Popen[Any]:
        """ARGV started in NODE; killed when this process ends. STREAMS as for subprocess.Popen."""
        return execute.popen(self.record, self.node(node), argv, env=env, **streams)

    def spawn(
        self, node: str, argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None
    ) -> int:
        """ARGV as a daemon in NODE that ends with the lab; its pid inside the lab."""
        return execute.spawn(self.record, self.node(node), argv, log=log, env=env)

    def exec_interactive(
        self,
        node: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        keep_fds: tuple[int, ...] = (),
    ) -> int:
        """ARGV in NODE on the caller's terminal; its exit code. From the main thread only.

        keep_fds  descriptors it inherits besides its streams
        """
        return execute.run_in_foreground(
            self.record, self.node(node), argv, env=env, keep_fds=keep_fds
        )

    def processes(self, node: str | None = None) -> tuple[processes.Process, ...]:
        """Every process of the lab (of NODE), as the host sees it; zombies left out."""
        init = self.record.init
        inode = processes.namespace_inode(init.pid, "pid") if init else None
        if init is None or inode is None:
            return ()
        found = [p for p in processes.in_pid_namespace(inode) if not p.is_zombie]
        if node is None:
            return tuple(found)
        held = self.node(node).namespaces
        assert held is not None
        return tuple(p for p in found if p.net == processes.held_inode(init, held.net))

    def stopped(self) -> tuple[str, ...]:
        """The nodes whose program (agent or coordinator) is not running. For root to ask."""
        wanted = {"node": "zt-agent", "coordinator": "zt-coordinator"}
        return tuple(
            node.name
            for node in self.record.nodes
            if node.namespaces and node.kind in wanted
            if not any(
                Path(word).name == wanted[node.kind]
                for process in self.processes(node.name)
                for word in process.argv[:2]
            )
        )

    # Sockets

    def call(self, node: str, work: Callable[[], T]) -> T:
        """What WORK returns, called in a thread that is in NODE's network and mount namespace.

        Sockets made there are NODE's; names are looked up in its /etc/hosts.
        """
        return call_inside(self.record, self.node(node), work, kinds=NETWORK_AND_FILES)

    def connect(
        self, node: str, address: tuple[str, int], timeout: float | None = 10.0
    ) -> socket.socket:
        """A TCP connection from NODE to (host, port); OSError (TimeoutError) where it fails.

        The socket keeps TIMEOUT (seconds) for what follows.
        """
        return self.call(node, lambda: socket.create_connection(address, timeout))

    def http_get(self, node: str, url: str, *, timeout_s: float = 5.0) -> str:
        """The body at http:// URL as NODE reads it; Unreachable if it does not answer 200."""
        import http.client  # brings TLS along, which `exec` does without

        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
        connection = http.client.HTTPConnection(host, port)
        try:
            connection.sock = self.connect(node, (host, port), scaled(timeout_s))
            connection.request("GET", parts.path or "/")
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{node}: {url}: {error}") from None
        finally:
            connection.close()
        if response.status != 200:
            raise Unreachable(f"{node}: {url}: HTTP {response.status}")
        return text

    def metrics(self, node: str) -> str:
        """What NODE's agent shows at /metrics."""
        return self.http_get(node, METRICS_URL)

    def admin(self) -> AdminClient:
        """The management API with the owner's token, over sockets of the coordinator's namespace.

        One client per Lab: its connections are kept.
        """
        if self._admin is None:
            from ztlab.lab.control import admin_client  # TLS and HTTP: not needed by `exec`

            if self.record.coordinator_url is None:
                raise NotFound(f"lab {self.name!r} has no coordinator: none of its nodes enrols")
            self._admin = admin_client(self)
        return self._admin

    def coordinator_socket(self, address: tuple[str, int], timeout: float | None) -> socket.socket:
        """A socket factory for ztlab.client: connects from the coordinator's own namespace."""
        return self.connect(COORDINATOR, address, timeout)

    # Listeners

    @contextmanager
    def pause_listener(self, node: str, listener: Listener) -> Iterator[None]:
        """Free LISTENER's port on NODE for something else (iperf3) while the block runs."""
        port = f"{listener.proto}/{listener.port}"
        if port not in self.node(node).listen:
            raise NotFound(f"{node} has no listener on {port}")
        self._adjust_listener(node, lambda paused: paused | {port})
        try:
            yield
        finally:
            self._adjust_listener(node, lambda paused: paused - {port})

    def _adjust_listener(self, node: str, change: Callable[[set[str]], set[str]]) -> None:
        pids = [p.pid for p in self.processes(node) if "ztlab.lab.listener" in p.argv]
        if not pids:
            raise ZtError(f"{node}: its listener is gone", hint="see its listener.log")

        def write() -> set[str]:
            paused = change(set(json.loads(_PAUSED.read_text()) if _PAUSED.exists() else []))
            _PAUSED.write_text(json.dumps(sorted(paused)))
            return paused

        wanted = set(self.node(node).listen) - self.call(node, write)
        os.kill(pids[0], signal.SIGHUP)
        self.wait_for_listener(node, wanted, timeout_s=5.0)

    def wait_for_listener(self, node: str, ports: set[str], *, timeout_s: float) -> None:
        """Return once NODE's listener holds exactly PORTS; DeadlineExceeded otherwise."""

        def held() -> set[str] | None:
            return set(json.loads(_LISTENING.read_text())) if _LISTENING.exists() else None

        deadline = time.monotonic() + scaled(timeout_s)
        while (seen := self.call(node, held)) != ports:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"{node}: its listener holds {sorted(seen or ())}, not {sorted(ports)}",
                    hint=f"see {state.node_dir(self.name, node) / 'listener.log'}",
                )
            time.sleep(0.01)


def require_root() -> None:
    """HostUnfit unless we are root: namespaces, mounts and BPF programs need it."""
    if os.geteuid() != 0:
        raise HostUnfit("ztlab must run as root", hint="sudo ztlab …; `ztlab doctor` tells more")
