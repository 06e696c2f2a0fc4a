"""What a test's agent pushes OTLP to: an HTTP server that reads with the published definitions.

It answers as the specification lets a collector answer, or as networks do: see `Reply`.
"""

from __future__ import annotations

import gzip
import http.server
import queue
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """How one request is answered; status 0: not at all, the connection ends; -1: it hangs."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": PROTOBUF})


def partly(rejected: int, why: str) -> Reply:
    """Success, but for some records."""
    partial = ExportLogsPartialSuccess(rejected_log_records=rejected, error_message=why)
    return Reply(body=ExportLogsServiceResponse(partial_success=partial).SerializeToString())


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request: when (monotonic seconds), from which port, with what, its body, read, and how it
    was answered."""

    at: float
    port: int
    path: str
    headers: Mapping[str, str]
    body: bytes
    request: ExportLogsServiceRequest
    reply: Reply


class Collector(http.server.ThreadingHTTPServer):
    """Gives the replies that a test put, in their order, and else success."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self.received: list[Received] = []
        self.released = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Agents are killed in these tests, and leave in the midst of a request."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        plain = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
        request = ExportLogsServiceRequest.FromString(plain)
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            reply = self.server.replies.get_nowait()
        except queue.Empty:
            reply = Reply()
        got = Received(
            at=time.monotonic(),
            port=self.client_address[1],
            path=self.path,
            headers=headers,
            body=body,
            request=request,
            reply=reply,
        )
        self.server.received.append(got)
        if reply.status == -1:
            self.server.released.wait(30)
        if reply.status <= 0:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: Any) -> None:
        """Tests look at what was received."""


@contextmanager
def collecting(context: ssl.SSLContext | None = None) -> Iterator[Collector]:
    """A collector on loopback, over TLS with CONTEXT."""
    server = Collector()
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def plain(pairs: Any) -> dict[str, str | int]:
    """Attributes as a dict; each may be there once."""
    found: dict[str, str | int] = {}
    for pair in pairs:
        assert isinstance(pair, KeyValue) and pair.key not in found, pair
        found[pair.key] = value(pair.value)
    return found


def value(found: AnyValue) -> str | int:
    kind = found.WhichOneof("value")
    assert kind in ("string_value", "int_value"), kind
    content: str | int = getattr(found, kind)
    return content


def records(request: ExportLogsServiceRequest) -> list[Any]:
    """Its log records."""
    return [
        record
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]
