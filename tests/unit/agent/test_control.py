"""The control socket, over a real unix socket."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent import control
from agent.cli import main
from agent.control_server import CONNECTIONS, ControlServer
from agent.flowlog import Observer
from tests.unit.agent.chunks import chunk
from ztlab.errors import HostUnfit, NotFound, Unreachable

(EVENT,) = chunk(1).documents()


class Daemon:
    """A control server with handlers that remember."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[Mapping[str, Any]] = []
        self.observers: list[Observer] = []
        self.subscribed = threading.Event()
        self.server = ControlServer(
            path,
            {"set-logging": self.remember, "fail": self.fail},
            subscribe=self.subscribe,
            unsubscribe=self.observers_remove,
        )

    def remember(self, request: Mapping[str, Any]) -> Any:
        self.asked.append(request)
        return {"got": request.get("enabled")}

    def fail(self, _request: Mapping[str, Any]) -> Any:
        raise HostUnfit("no such thing here", hint="get one")

    def subscribe(self) -> Observer:
        observer = Observer()
        self.observers.append(observer)
        self.subscribed.set()
        return observer

    def observers_remove(self, observer: Observer) -> None:
        self.observers.remove(observer)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "agent.sock")
    daemon.server.start()
    yield daemon
    daemon.server.stop()


def test_a_request_is_answered_and_the_socket_is_private(daemon: Daemon) -> None:
    assert control.ask(daemon.path, {"do": "set-logging", "enabled": True}) == {"got": True}
    assert daemon.path.stat().st_mode & 0o777 == 0o600


def test_an_error_of_the_daemon_is_the_commands_error(daemon: Daemon) -> None:
    with pytest.raises(control.ControlError) as caught:
        control.ask(daemon.path, {"do": "fail"})
    assert (str(caught.value), caught.value.hint) == ("no such thing here", "get one")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("line", [b"[]\n", b"nonsense\n", b'{"do": "dance"}\n', b"\n"])
def test_nonsense_is_refused_and_does_no_harm(daemon: Daemon, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.path))
        connection.sendall(line)
        with connection.makefile() as answers:
            assert json.loads(answers.readline())["ok"] is False
    assert control.ask(daemon.path, {"do": "set-logging", "enabled": False}) == {"got": False}


def test_a_request_without_end_is_cut_off(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.control_server.REQUEST_BYTES", 1000)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.path))
        connection.sendall(b"x" * 1001)
        with connection.makefile() as answers:
            assert "at most 1000 bytes" in json.loads(answers.readline())["error"]


def test_observers_see_events_live_and_a_slow_one_is_told_what_it_lost(daemon: Daemon) -> None:
    stream = control.observe(daemon.path)
    seen: list[Any] = []
    reader = threading.Thread(target=lambda: seen.extend(next(stream) for _ in range(2)))
    reader.start()
    assert daemon.subscribed.wait(5)
    daemon.observers[0].lost = 7
    daemon.observers[0].offer(chunk(1))
    reader.join(5)
    assert EVENT in seen and {"lost": 7} in seen


def test_a_subscriber_that_hangs_up_is_forgotten(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.path))
        connection.sendall(b'{"do": "observe"}\n')
        assert daemon.subscribed.wait(5)
    deadline = time.monotonic() + 5
    while daemon.observers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert daemon.observers == []


def test_a_socket_left_by_a_dead_predecessor_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(Unreachable):
        control.ask(path, {"do": "status"})
    daemon = Daemon(path)
    daemon.server.start()
    assert control.ask(path, {"do": "set-logging"}) == {"got": None}
    daemon.server.stop()
    assert not path.exists()


def test_without_an_agent_a_command_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        control.ask(tmp_path / "none.sock", {"do": "status"})
    result = CliRunner().invoke(main, ["status", "--socket", str(tmp_path / "none.sock")])
    assert result.exit_code == 1
    assert result.output.startswith("error: no agent listens on")
    assert " hint: " in result.output


def test_set_speaks_to_the_daemon_of_the_socket_named(daemon: Daemon) -> None:
    result = CliRunner().invoke(main, ["set", "logging", "off", "--socket", str(daemon.path)])
    assert result.output == "logging is off\n"
    assert daemon.asked == [{"do": "set-logging", "enabled": False}]


def test_the_socket_of_the_environment_is_used(daemon: Daemon) -> None:
    result = CliRunner().invoke(
        main, ["set", "logging", "on"], env={"ZT_AGENT_SOCKET": str(daemon.path)}
    )
    assert result.exit_code == 0
    assert daemon.asked == [{"do": "set-logging", "enabled": True}]


def test_the_commands_do_not_import_what_only_the_daemon_needs() -> None:
    import subprocess
    import sys

    heavy = "pyroute2 bcc cryptography prometheus_client urllib3 yaml"
    code = f"import sys, agent.cli; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_request_nested_too_deep_is_refused_in_words(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.path))
        client.sendall(b"[" * 100_000 + b"\n")
        answer = json.loads(client.makefile("rb").readline())
    assert "one JSON object" in answer["error"]


def test_however_many_watch_an_operator_gets_through(daemon: Daemon) -> None:
    watching = []
    try:
        for _ in range(CONNECTIONS + 1):
            client = socket.socket(socket.AF_UNIX)
            watching.append(client)
            client.connect(str(daemon.path))
            client.sendall(b'{"do": "observe"}\n')
            answer = json.loads(client.makefile("rb").readline())
        assert "observers watch already" in answer["error"]
        assert control.ask(daemon.path, {"do": "set-logging", "enabled": True}) == {"got": True}
    finally:
        for client in watching:
            client.close()
