"""What answers on the ports a scenario lists: `python -m ztlab.lab.listener tcp/8080 udp/5353`.

TCP: on accept one line of JSON {"node", "peer", "port"}, then every byte comes back as far as the
other side reads (what it does not take is dropped, never waited for). UDP: that line, then the
datagram. Both families. One process serves every port of a node.

SIGHUP makes it read PAUSED (a JSON list of ports to let go of) anew; LISTENING always says, as a
JSON list, what it holds right now, so that others can wait for it. Both are in the node's own /run.
Standard library only.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

PAUSED = Path("/run/ztlab/paused")
LISTENING = Path("/run/ztlab/listening")
_FAMILIES = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
# Into a connection that policy cut the last echoes would go for minutes, twice a second (TCP takes
# a drop at egress for congestion), long after its client is gone: each a denial in every view.
_UNHEARD_MS = 15_000


class Server:
    """Every listening socket of one node, and the connections they accepted."""

    def __init__(self, ports: list[str]) -> None:
        self._ports = ports
        self._node = os.environ.get("ZTLAB_NODE", "")
        self._selector = selectors.DefaultSelector()
        self._open: dict[str, list[socket.socket]] = {}

    def adjust(self) -> None:
        """Hold exactly the ports that are not paused, and say so."""
        paused = json.loads(PAUSED.read_text()) if PAUSED.exists() else []
        for port in self._ports:
            if port in paused and port in self._open:
                for server in self._open.pop(port):
                    self._selector.unregister(server)
                    server.close()
            elif port not in paused and port not in self._open:
                self._open[port] = [self._listen(port, family) for family in _FAMILIES]
        draft = LISTENING.with_suffix(".new")
        draft.write_text(json.dumps(sorted(self._open)))
        draft.replace(LISTENING)

    def _listen(self, port: str, family: socket.AddressFamily) -> socket.socket:
        proto, _, number = port.partition("/")
        kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
        server = socket.socket(family, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind((_FAMILIES[family], int(number)))
        server.setblocking(False)
        if proto == "tcp":
            # What it accepts inherits this.
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNHEARD_MS)
            server.listen(1024)
        act = self._accept if proto == "tcp" else self._answer
        self._selector.register(server, selectors.EVENT_READ, act)
        return server

    def _greeting(self, peer: str, port: int) -> bytes:
        return json.dumps({"node": self._node, "peer": peer, "port": port}).encode() + b"\n"

    def _accept(self, server: socket.socket) -> None:
        connection, address = server.accept()
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, self._echo)
        connection.send(self._greeting(address[0], server.getsockname()[1]))

    def _echo(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(1 << 16)
            if data:
                connection.send(data)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._selector.unregister(connection)
        connection.close()

    def _answer(self, server: socket.socket) -> None:
        data, address = server.recvfrom(1 << 16)
        line = self._greeting(address[0], server.getsockname()[1])
        server.sendto((line + data)[:65000], address)

    def serve(self, wakeup: socket.socket) -> None:
        """For ever. One broken connection never ends the others."""
        self._selector.register(wakeup, selectors.EVENT_READ, None)
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    wakeup.recv(4096)
                    self.adjust()
                else:
                    self._act(key.data, key.fileobj)

    def _act(self, act: Callable[[object], None], target: object) -> None:
        try:
            act(target)
        except OSError as error:
            print(f"listener: {error}", file=sys.stderr, flush=True)


def main(ports: list[str]) -> None:
    LISTENING.parent.mkdir(exist_ok=True)
    wakeup, alarm = socket.socketpair()
    wakeup.setblocking(False)
    alarm.setblocking(False)
    signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGHUP, lambda *_: None)
    server = Server(ports)
    server.adjust()
    server.serve(wakeup)


if __name__ == "__main__":
    main(sys.argv[1:])
