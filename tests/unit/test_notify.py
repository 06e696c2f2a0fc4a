"""What the service manager hears: real datagrams on a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ztlab.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket at `tmp_path/notify`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def heard(manager: socket.socket) -> str:
    return manager.recv(4096).decode()


def is_silent(manager: socket.socket) -> bool:
    manager.setblocking(False)
    try:
        manager.recv(4096)
    except BlockingIOError:
        return True
    return False


def test_ready_status_and_stopping_reach_the_manager(
    manager: socket.socket, tmp_path: Path
) -> None:
    notifier = Notifier(str(tmp_path / "notify"))
    notifier.ready("listening")
    notifier.status("busy")
    notifier.stopping()
    assert heard(manager) == "READY=1\nSTATUS=listening"
    assert heard(manager) == "STATUS=busy"
    assert heard(manager) == "STOPPING=1"


def test_a_status_is_sent_only_when_it_changes(manager: socket.socket, tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "notify"))
    notifier.ready("at ease")
    notifier.status("at ease")
    assert heard(manager) == "READY=1\nSTATUS=at ease"
    assert is_silent(manager)


@pytest.mark.parametrize("watched", [True, False])
def test_a_sign_of_life_is_sent_only_where_there_is_a_watchdog(
    manager: socket.socket, tmp_path: Path, watched: bool
) -> None:
    notifier = Notifier(str(tmp_path / "notify"), has_watchdog=watched)
    notifier.alive()
    notifier.status("end")
    first = heard(manager)
    assert first == ("WATCHDOG=1" if watched else "STATUS=end")


def test_an_abstract_socket_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")  # the kernel chooses an abstract name: unix(7), autobind
        listener.settimeout(5)
        name = listener.getsockname()
        Notifier("@" + name[1:].decode()).ready("here")
        assert listener.recv(4096) == b"READY=1\nSTATUS=here"


def test_what_the_program_starts_cannot_speak_in_its_name(
    manager: socket.socket, tmp_path: Path
) -> None:
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "1000000",
        "WATCHDOG_PID": "1",
        "HOME": "/",
    }
    notifier = Notifier.from_environment(environment)
    assert environment == {"HOME": "/"}
    notifier.alive()
    assert heard(manager) == "WATCHDOG=1"


def test_without_a_manager_nobody_is_told_and_nothing_fails() -> None:
    notifier = Notifier.from_environment({})
    notifier.ready("alone")
    notifier.stopping()


def test_a_manager_that_is_gone_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier(str(tmp_path / "nobody")).ready("here")
    assert "cannot tell the service manager" in caplog.text
