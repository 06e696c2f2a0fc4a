"""What stands between node and coordinator may fall silent, hoard, or hang up: a node notices."""

from __future__ import annotations

import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest

from tests.control.process import Coordinator, running
from tests.control.served import until
from ztlab.client.node import EventStream, NodeClient
from ztlab.errors import Unreachable

HEARTBEAT_S = 0.5
NOTICED_S = 10.0  # 2.5 heartbeats, and a busy machine
# As an operator runs it, but that it speaks more often.
_TALKATIVE = f"""
from gevent import monkey
monkey.patch_all()
import sys
from pathlib import Path
from coordinator import server, settings, stream
stream.events.__kwdefaults__["heartbeat_s"] = {HEARTBEAT_S}
server.serve(settings.load(Path(sys.argv[-1])))
"""
HOARD = 1 << 16  # bytes


class Proxy:
    """A TCP proxy on loopback. `mode`: relay, silent (all is read, nothing goes on), hoard (what
    comes from the coordinator goes on in pieces of HOARD bytes)."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.mode = "relay"
        self._target = target
        self._is_over = False
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._hoard = b""
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def hang_up(self) -> None:
        """End every connection."""
        for one in tuple(self._pairs):
            self._end(one)

    def close(self) -> None:
        self._is_over = True
        self._thread.join(5)
        self.hang_up()
        self._listener.close()

    def _run(self) -> None:
        while not self._is_over:
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._pass_on(key.fileobj, key.data)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._target)
        for one, other, comes_from in ((client, server, "node"), (server, client, "coordinator")):
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ, comes_from)

    def _pass_on(self, one: socket.socket, comes_from: str) -> None:
        try:
            data = one.recv(1 << 16)
            if self.mode == "hoard" and comes_from == "coordinator":
                self._hoard += data
                size = len(self._hoard) // HOARD * HOARD
                passed, self._hoard = self._hoard[:size], self._hoard[size:]
            else:
                passed = b"" if self.mode == "silent" else data
            if not data:
                self._end(one)
            elif passed:
                self._pairs[one].sendall(passed)
        except (OSError, KeyError):
            self._end(one)

    def _end(self, one: socket.socket) -> None:
        other = self._pairs.pop(one, None)
        for each in (one, other):
            if each is not None:
                self._pairs.pop(each, None)
                if each.fileno() >= 0:
                    self._selector.unregister(each)
                    each.close()


@contextmanager
def proxied(coordinator: Coordinator) -> Iterator[Proxy]:
    parts = urlsplit(coordinator.url)
    assert parts.hostname is not None and parts.port is not None
    with closing(Proxy((parts.hostname, parts.port))) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def coordinator() -> Iterator[Coordinator]:
    with running(program=(sys.executable, "-c", _TALKATIVE)) as here:
        yield here


def kinds(stream: EventStream, count: int) -> list[str]:
    return [event.kind for _, event in zip(range(count), stream, strict=False)]


def seconds_until_it_breaks(stream: EventStream) -> float:
    begun = time.monotonic()
    with pytest.raises(Unreachable):
        for _ in stream:
            assert time.monotonic() - begun < NOTICED_S, "it goes on"
    return time.monotonic() - begun


@pytest.mark.parametrize("fault", ["silent", "hoard", "hang up"])
def test_a_stream_through_a_proxy_that_fails_is_left_and_the_next_one_works(
    coordinator: Coordinator, fault: str
) -> None:
    there, _ = coordinator.enrol(f"behind-{fault.replace(' ', '-')}", endpoint=None)
    with (
        proxied(coordinator) as proxy,
        closing(
            NodeClient(proxy.url, coordinator.authority, there.token, heartbeat_s=HEARTBEAT_S)
        ) as client,
    ):
        with client.stream() as stream:
            # The proxy itself is no reason to leave: it lives for longer than the silence allowed.
            assert kinds(stream, 5) == ["config", *["heartbeat"] * 4]
            if fault == "hang up":
                proxy.hang_up()
            else:
                proxy.mode = fault
            assert seconds_until_it_breaks(stream) < NOTICED_S
        proxy.mode = "relay"

        def works() -> bool:
            try:
                with client.stream() as again:
                    return kinds(again, 2) == ["config", "heartbeat"]
            except Unreachable:
                return False

        until(works, "the next stream works")
