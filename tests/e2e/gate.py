"""A gate before a lab's coordinator, through which one node reaches it: it can treat log batches
badly, and knows what became of each."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import shutil
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from coordinator import tls
from ztlab.lab import state
from ztlab.lab.lab import Lab
from ztlab.lab.pace import scaled
from ztlab.model import logbatch

HOST = "127.0.0.1"
SLOW_S = 1.5
Mode = Literal["up", "slow", "refuses", "hangs", "mute", "gone"]


@dataclass
class Batch:
    """A batch that came to the gate.

    is_stored    the coordinator has it
    is_answered  with anything; an answer may still not have been read
    """

    id: str
    events: int
    is_stored: bool = False
    is_answered: bool = False


@dataclass
class Gate:
    """What befalls a batch depends on `mode`, as it was when the batch came.

    slow     passed on after SLOW_S
    refuses  500
    hangs    neither passed on nor answered
    mute     passed on, and its answer kept back
    gone     the connection ends

    connections: those that are open, without the ones that read a stream
    """

    url: str
    mode: Mode = "up"
    batches: list[Batch] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)

    def holds(self) -> Batch | None:
        """The batch that was not answered yet, if the last one was not."""
        last = self.batches[-1] if self.batches else None
        return last if last is not None and not last.is_answered else None


@contextlib.contextmanager
def gate(lab: Lab, node: str, directory: Path) -> Iterator[Gate]:
    """Stands in NODE's namespace, with a certificate of the coordinator's authority."""
    kept = tls.TlsFiles(state.coordinator_dir(lab.name) / "state")
    directory.mkdir()
    for file in (kept.authority, kept.authority_key):
        shutil.copy(file, directory)
    tls.prepare(directory, (HOST,))
    own = tls.TlsFiles(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.server, own.server_key)
    # Made in the node's namespace, a socket stays there.
    server = lab.call(node, lambda: _Server(lab, node, own))
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.gate
    finally:
        server.gate.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True  # the stream of the agent ends with the agent, not with us
    block_on_close = False

    def __init__(self, lab: Lab, node: str, files: tls.TlsFiles) -> None:
        super().__init__((HOST, 0), _Handler)
        self.gate = Gate(f"https://{HOST}:{self.server_address[1]}")
        self._lab, self._node = lab, node
        assert lab.record.coordinator_url is not None
        parts = urlsplit(lab.record.coordinator_url)
        assert parts.hostname is not None and parts.port is not None
        self._address = parts.hostname, parts.port
        self._context = ssl.create_default_context(cafile=str(files.authority))

    def upstream(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(*self._address)
        plain = self._lab.connect(self._node, self._address, scaled(20.0))
        connection.sock = self._context.wrap_socket(plain, server_hostname=self._address[0])
        return connection

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is killed is what this is for."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.gate.connections.add(self)

    def finish(self) -> None:
        self.server.gate.connections.discard(self)
        super().finish()

    def do_GET(self) -> None:
        self.server.gate.connections.discard(self)
        self._pass_on(b"")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path.endswith("/node/logs"):
            head, _ = logbatch.unpack(content)
            self._treat(content, Batch(head.batch_id, head.count))
        else:
            self._pass_on(content)

    def _treat(self, content: bytes, batch: Batch) -> None:
        gate, mode = self.server.gate, self.server.gate.mode
        gate.batches.append(batch)
        if mode == "hangs":
            gate.over.wait(60)
        elif mode == "gone":
            self.close_connection = batch.is_answered = True
        elif mode == "refuses":
            batch.is_answered = True
            self.send_response(500)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
        else:
            if mode == "slow":
                gate.over.wait(SLOW_S)
            self._pass_on(content, batch, is_mute=mode == "mute")

    def _pass_on(self, content: bytes, batch: Batch | None = None, is_mute: bool = False) -> None:
        """To the coordinator, and its answer back as it comes."""
        with contextlib.closing(self.server.upstream()) as upstream:
            headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
            headers["Connection"] = "close"
            upstream.request(self.command, self.path, content or None, headers)
            answer = upstream.getresponse()
            if batch is not None:
                batch.is_stored = answer.status == 200
                if is_mute:
                    self.server.gate.over.wait(60)
                batch.is_answered = True
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            if answer.fp is not None:
                while part := answer.read1(65536):
                    self.wfile.write(part)
                    self.wfile.flush()
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass
