"""What a service manager hears of the coordinator, and that it is true when it hears it."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.control.process import cli, place, start, write_settings


@contextmanager
def manager_at(path: Path) -> Iterator[socket.socket]:
    """A manager's socket that the coordinator's user can write to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        path.chmod(0o777)
        listener.settimeout(20)
        yield listener


def assert_serves_tls(directory: Path, port: int) -> None:
    """One try: whoever was told READY does not poll."""
    context = ssl.create_default_context(cafile=str(directory / "state/authority.pem"))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert tls.recv(4096).startswith(b"HTTP/1.1 200")


def test_ready_is_said_once_by_who_serves_and_stopping_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with place() as directory, manager_at(directory / "notify") as manager:
        port = write_settings(directory)
        cli("init", at=directory)
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        process = start(directory)
        try:
            first = manager.recv(4096).decode()
            assert first == f"READY=1\nSTATUS=listening on 127.0.0.1:{port}"
            assert_serves_tls(directory, port)
            assert manager.recv(4096) == b"WATCHDOG=1"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
            rest = _rest(manager)
        finally:
            _end(process)
        assert rest[-1] == "STOPPING=1"
        assert set(rest[:-1]) <= {"WATCHDOG=1"}


def test_a_worker_that_dies_is_replaced_and_the_manager_hears_of_no_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with place() as directory, manager_at(directory / "notify") as manager:
        port = write_settings(directory)
        cli("init", at=directory)
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        process = start(directory)
        try:
            assert manager.recv(4096).startswith(b"READY=1")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGTERM)
            assert manager.recv(4096).startswith(b"READY=1")  # the next one's
            assert_serves_tls(directory, port)
        finally:
            process.terminate()
            _end(process)


def _rest(manager: socket.socket) -> list[str]:
    """Everything that was sent and not read yet."""
    manager.setblocking(False)
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
