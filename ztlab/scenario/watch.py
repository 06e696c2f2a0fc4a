"""What runs beside the steps: a node's event stream, and streams of echoes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ztlab.errors import DeadlineExceeded, Unreachable, ZtError
from ztlab.lab.pace import scaled
from ztlab.scenario import echo
from ztlab.scenario.samples import Echo, Event, FlowKey
from ztlab.scenario.steps import Stream

if TYPE_CHECKING:
    from ztlab.lab.lab import Lab

_START_S = 10.0
_CONTROL_SOCKET = "/run/zt-agent/agent.sock"


def script(module_file: str | None) -> tuple[str, ...]:
    """How to run one of our standard-library programs inside a node: isolated, no site-packages."""
    assert module_file is not None
    return (sys.executable, "-I", "-S", str(Path(module_file)))


class Child:
    """A program in a node whose lines are read as they come. Ends with `close`."""

    def __init__(self, lab: Lab, node: str, argv: Sequence[str]) -> None:
        self.node = node
        self._argv = argv
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] = lab.popen(
            node,
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, name=f"{node} {argv[-1]}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def lines(self, first: int = 0) -> list[str]:
        """What it printed so far, from line FIRST on."""
        with self._changed:
            return self._lines[first:]

    def line(self, number: int, *, timeout_s: float) -> str:
        """Line NUMBER; ZtError if it ends before, DeadlineExceeded if it says nothing."""
        deadline = time.monotonic() + scaled(timeout_s)
        with self._changed:
            while len(self._lines) <= number:
                if not self._reader.is_alive():
                    said = "".join(self._lines).strip() or "nothing"
                    raise ZtError(f"{self.node}: {' '.join(self._argv)} ended and said: {said}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DeadlineExceeded(
                        f"{self.node}: {' '.join(self._argv)} said nothing in {timeout_s:g} s"
                    )
                self._changed.wait(min(left, 0.1))
            return self._lines[number]

    def close(self) -> None:
        """End it, by closing its standard input, then by signal, and wait until it is gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended by itself
        self._process.terminate()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


class EventWatch:
    """The event stream of one node's agent, from the moment it is made.

    What `zt-agent observe --json` prints, read where it reads it: the control socket
    (docs/CONFIGURATION.md), whose first answer says that nothing is missed from then on.
    """

    def __init__(self, lab: Lab, node: str) -> None:
        self._node = node
        self._events: list[Event] = []
        self._lock = threading.Lock()
        self._fault = ""
        self._socket = lab.call(node, _connected)
        self._answers = self._socket.makefile("rb")
        self._socket.sendall(b'{"do": "observe"}\n')
        answer = json.loads(self._answers.readline() or b'{"error": "it hung up"}')
        if not answer.get("ok"):
            self.close()
            raise ZtError(f"{node}: its agent cannot be observed: {answer.get('error')}")
        self._socket.settimeout(None)
        self._reader = threading.Thread(target=self._read, name=f"events {node}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            for line in self._answers:
                event = json.loads(line)
                with self._lock:
                    if "lost" in event:
                        self._fault = f"{event['lost']} events were lost on the way here"
                    else:
                        self._events.append(event)
        except (OSError, ValueError):
            pass  # closed under our feet, which is how it ends
        with self._lock:
            self._fault = self._fault or "its event stream ended: the agent is gone"

    def events(self, since: float = 0.0) -> tuple[Event, ...]:
        """Every event so far that happened at or after Unix time SINCE."""
        with self._lock:
            if self._fault:
                raise ZtError(f"{self._node}: {self._fault}")
            return tuple(e for e in self._events if happened_at(e) >= since)

    def close(self) -> None:
        """Stop watching."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the agent was first
        if hasattr(self, "_reader"):
            self._reader.join()
        self._answers.close()
        self._socket.close()


def _connected() -> socket.socket:
    """A connection to the agent's control socket; to be called inside the node."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(scaled(_START_S))
    try:
        connection.connect(_CONTROL_SOCKET)
    except OSError as error:
        connection.close()
        raise Unreachable(f"no agent answers on {_CONTROL_SOCKET}: {error}") from None
    return connection


def happened_at(event: Event) -> float:
    """When EVENT happened, as Unix time."""
    return datetime.fromisoformat(str(event["at"])).astimezone(UTC).timestamp()


class EchoStream:
    """A running stream of the scenario, from its first connection on."""

    def __init__(self, lab: Lab, spec: Stream) -> None:
        target = spec.target
        argv = (
            *script(echo.__file__),
            *("--to", target.to, "--family", str(target.family)),
            *(f"--{target.proto}", str(target.port)),
        )
        self._child = Child(lab, spec.source_node, argv)
        try:
            first = self._child.line(0, timeout_s=_START_S)
            if not first.startswith("{"):
                raise ZtError(f"{spec.source_node}: stream {spec.id}: {first.strip()}")
        except ZtError:
            self._child.close()
            raise
        ends = json.loads(first)
        self.flow = FlowKey(
            source=ends["local"][0],
            destination=ends["remote"][0],
            protocol=ends["protocol"],
            source_port=ends["local"][1],
            destination_port=ends["remote"][1],
        )

    def echoes(self) -> tuple[Echo, ...]:
        """Every echo so far."""
        found = []
        for line in self._child.lines(1):
            if line.strip() != "closed":
                _, sent_at, received_at = line.split()
                found.append(Echo(sent_at=float(sent_at), received_at=float(received_at)))
        return tuple(found)

    def close(self) -> None:
        """Stop it."""
        self._child.close()
