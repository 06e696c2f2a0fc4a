"""A loopback port of this machine that leads to a lab's coordinator, for a browser.

Bytes are passed on as they are: TLS is between the browser and the coordinator.
"""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from ztlab.errors import HostUnfit, NotFound
from ztlab.lab.lab import Lab

_AT_ONCE = 65536  # bytes


@contextmanager
def coordinator_port(lab: Lab, port: int = 0) -> Iterator[int]:
    """The port on 127.0.0.1 that leads to LAB's coordinator while the block runs; 0: a free one.

    NotFound where the lab has no coordinator, HostUnfit where the port is taken.
    """
    if lab.record.coordinator_url is None:
        raise NotFound(f"lab {lab.name!r} has no coordinator: none of its nodes enrols")
    parts = urlsplit(lab.record.coordinator_url)
    assert parts.hostname is not None and parts.port is not None
    try:
        server = _Server(lab, (parts.hostname, parts.port), port)
    except OSError as error:
        raise HostUnfit(
            f"cannot listen on 127.0.0.1:{port}: {error.strerror}", hint="choose another --port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True  # a connection that a browser keeps open does not hold up the end
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, lab: Lab, address: tuple[str, int], port: int) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.lab, self.address = lab, address


class _Connection(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        try:
            with self.server.lab.coordinator_socket(self.server.address, 10.0) as upstream:
                upstream.settimeout(None)
                _pass_on(self.request, upstream)
        except OSError:
            return  # either end is gone, and the other learns it by the closed connection


def _pass_on(browser: socket.socket, coordinator: socket.socket) -> None:
    """Until one end says no more."""
    other = {browser: coordinator, coordinator: browser}
    while True:
        readable, _, _ = select.select(list(other), [], [])
        for end in readable:
            content = end.recv(_AT_ONCE)
            if not content:
                return
            other[end].sendall(content)
