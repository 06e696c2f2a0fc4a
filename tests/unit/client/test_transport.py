"""Whatever goes wrong on the way, what comes out is Refused or Unreachable."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from coordinator import tls
from ztlab.client import transport
from ztlab.client.admin import AdminClient
from ztlab.client.node import NodeClient
from ztlab.client.transport import authority_hash, fetch_authority
from ztlab.errors import Refused, SchemaError, Unreachable, ZtError


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    tls.prepare(directory, ("127.0.0.1",))
    return directory


@contextmanager
def server(certificates: Path, *answers: bytes, hold: bool = False) -> Iterator[str]:
    """A TLS server that gives one of ANSWERS to each connection, then hangs up, or HOLDs on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = tls.TlsFiles(certificates)
    context.load_cert_chain(files.server, files.server_key)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                plain, _ = listener.accept()
                with context.wrap_socket(plain, server_side=True) as connection:
                    _read_request(connection)
                    connection.sendall(answer)
                    if hold:
                        over.wait(10)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join(timeout=10)
            assert not thread.is_alive()


def _read_request(connection: ssl.SSLSocket) -> None:
    """To its end: hanging up on what is still to be read would reset the connection."""
    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(body) < int(length[1]):
        body += connection.recv(65536)


def answer(status: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def chunked(*events: str) -> bytes:
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    return head + b"".join(b"%x\r\n%s\r\n" % (len(e), e.encode()) for e in events)


def admin(url: str, certificates: Path) -> AdminClient:
    return AdminClient(url, tls.read_authority(certificates), "token")


def node(url: str, certificates: Path) -> NodeClient:
    return NodeClient(url, tls.read_authority(certificates), "token", heartbeat_s=0.1)


def test_a_problem_document_becomes_a_refusal_that_says_it_all(certificates: Path) -> None:
    problem = {
        "title": "t",
        "status": 422,
        "detail": "1 fault",
        "errors": [{"path": "policy.rules[0].from", "message": "nobody is called 'wep'"}],
    }
    content = answer("422 X", json.dumps(problem).encode(), "application/problem+json")
    with (
        server(certificates, content) as url,
        closing(admin(url, certificates)) as client,
        pytest.raises(Refused) as caught,
    ):
        client.network()
    assert caught.value.status == 422
    assert str(caught.value) == (
        "GET /network: 1 fault\n  policy.rules[0].from: nobody is called 'wep'"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{",
        b"no http at all\r\n\r\n",
        answer("200 OK", b"<html>"),
    ],
)
def test_an_answer_that_is_none_is_unreachable(certificates: Path, content: bytes) -> None:
    with (
        server(certificates, content) as url,
        closing(admin(url, certificates)) as client,
        pytest.raises(Unreachable),
    ):
        client.network()


def test_nobody_listening_is_unreachable(certificates: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with closing(admin(f"https://127.0.0.1:{port}", certificates)) as client:
        with pytest.raises(Unreachable) as caught:
            client.network()
    assert str(caught.value) == f"https://127.0.0.1:{port}: Connection refused"


def test_a_refusal_that_is_no_json_is_a_refusal_still(certificates: Path) -> None:
    with (
        server(certificates, answer("502 Bad Gateway", b"<html>", "text/html")) as url,
        closing(admin(url, certificates)) as client,
        pytest.raises(Refused, match="HTTP 502"),
    ):
        client.network()


REVISION = '"revision": {"epoch": "e", "number": 7}, "digest": "d"'


def test_events_are_read_as_they_come_also_in_pieces(certificates: Path) -> None:
    event = f"event: current\ndata: {{{REVISION}}}\n\n"
    whole = chunked("event: heart", "beat\ndata: {}\n\n: comment\n\nevent: new\ndata: 1\n\n", event)
    with server(certificates, whole + b"0\r\n\r\n") as url:
        with closing(node(url, certificates)) as client, client.stream() as stream:
            events = list(stream)
    assert [event.kind for event in events] == ["heartbeat", "current"]
    assert events[1].revision is not None and events[1].revision.number == 7


@pytest.mark.parametrize("data", ["{", "[]", '{"digest": "d"}', '{"revision": 5, "digest": "d"}'])
def test_a_malformed_event_is_unreachable(certificates: Path, data: str) -> None:
    content = chunked(f"event: config\ndata: {data}\n\n")
    with server(certificates, content) as url:
        with closing(node(url, certificates)) as client, client.stream() as stream:
            with pytest.raises(Unreachable, match="malformed"):
                next(stream)


def test_a_stream_that_breaks_off_is_unreachable(certificates: Path) -> None:
    with server(certificates, chunked("event: heartbeat\ndata: {}\n\n")) as url:
        with closing(node(url, certificates)) as client, client.stream() as stream:
            assert next(stream).kind == "heartbeat"
            with pytest.raises(Unreachable):
                next(stream)


def test_a_stream_is_closed_from_another_thread(certificates: Path) -> None:
    content = chunked("event: heartbeat\ndata: {}\n\n")
    with server(certificates, content, hold=True) as url:
        client = NodeClient(url, tls.read_authority(certificates), "token", heartbeat_s=60)
        with closing(client), client.stream() as stream:
            next(stream)
            timer = threading.Timer(0.1, stream.close)
            timer.start()
            with pytest.raises(Unreachable):
                next(stream)
            timer.join()


def test_a_push_of_logs_is_tried_again_when_the_connection_broke(certificates: Path) -> None:
    with server(certificates, b"", answer("200 OK", b'{"stored": 3}')) as url:
        with closing(node(url, certificates)) as client:
            assert client.push_logs(b"a batch") == 3


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"stored": "3"}'])
def test_an_answer_to_logs_that_is_none_is_a_fault_that_can_be_told(
    certificates: Path, body: bytes
) -> None:
    with server(certificates, answer("200 OK", body)) as url:
        with closing(node(url, certificates)) as client, pytest.raises(SchemaError):
            client.push_logs(b"a batch")


def test_a_problem_whose_faults_are_none_is_a_refusal_still(certificates: Path) -> None:
    content = answer("422 X", b'{"detail": "no", "errors": 5}', "application/problem+json")
    with server(certificates, content) as url, closing(admin(url, certificates)) as client:
        with pytest.raises(Refused, match="GET /network: no"):
            client.network()


def test_the_configuration_must_be_what_its_digest_says(certificates: Path) -> None:
    config = '"config": {"version": 1}'
    with server(certificates, chunked(f"event: config\ndata: {{{REVISION}, {config}}}\n\n")) as url:
        with closing(node(url, certificates)) as client, client.stream() as stream:
            event = next(stream)
            with pytest.raises(ZtError, match=r"config\.node: missing"):
                event.config()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:1", "https://", "https://h/path"])
def test_a_url_that_is_none_of_ours_is_refused(certificates: Path, url: str) -> None:
    with pytest.raises(ZtError, match="https://HOST:PORT"):
        admin(url, certificates)


def test_an_authority_that_is_no_certificate_is_refused(certificates: Path) -> None:
    for pem in ("", "nonsense", "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ZtError):
            NodeClient("https://127.0.0.1:1", pem)


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"authority": 5}', b'{"authority": "x"}'])
def test_a_health_without_an_authority_is_refused(certificates: Path, body: bytes) -> None:
    with server(certificates, answer("200 OK", body)) as url, pytest.raises(Refused):
        fetch_authority(url, authority_hash(tls.read_authority(certificates)))


def test_a_stranger_cannot_fill_a_nodes_memory(certificates: Path) -> None:
    """Who is not verified yet may say as much as a certificate needs, and no more."""
    pem = tls.read_authority(certificates)
    pinned = authority_hash(pem)
    for size, is_taken in ((0, True), (transport.STRANGERS_BYTES, False)):
        body = json.dumps({"authority": pem, "more": "x" * size}).encode()
        with server(certificates, answer("200 OK", body)) as url:
            if is_taken:
                assert fetch_authority(url, pinned) == pem
            else:
                with pytest.raises(Unreachable, match="has over 65536 bytes"):
                    fetch_authority(url, pinned)


def test_a_certificate_that_comes_with_another_is_no_authority(certificates: Path) -> None:
    """By its hash only the first would be proven, and TLS would be verified against both."""
    pem = tls.read_authority(certificates)
    body = json.dumps({"authority": pem + tls.TlsFiles(certificates).server.read_text()}).encode()
    with server(certificates, answer("200 OK", body)) as url, pytest.raises(Refused):
        fetch_authority(url, authority_hash(pem))


def test_an_answer_has_an_end_whoever_sends_it(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps({"items": ["x" * 5000]}).encode()
    with server(certificates, answer("200 OK", body)) as url:
        transport.Transport(url, tls.read_authority(certificates)).request("GET", "/nodes")
    monkeypatch.setattr(transport, "ANSWER_BYTES", 5000)
    with (
        server(certificates, answer("200 OK", body)) as url,
        pytest.raises(Unreachable, match="has over 5000 bytes"),
    ):
        transport.Transport(url, tls.read_authority(certificates)).request("GET", "/nodes")


def test_importing_the_client_is_light() -> None:
    """The agent pays for it at each start."""
    heavy = "cryptography flask sqlalchemy asyncio click".split()
    code = f"import sys, ztlab.client.node; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_refusal_says_when_to_come_again() -> None:
    def refused(headers: dict[str, str]) -> int:
        with pytest.raises(Refused) as refusal:
            transport._answer(429, b"{}", "GET /node/stream", headers)
        return refusal.value.retry_after_s

    assert refused({"Retry-After": "7"}) == 7
    assert [refused(h) for h in ({}, {"Retry-After": "soon"}, {"Retry-After": "-1"})] == [0, 0, 0]
