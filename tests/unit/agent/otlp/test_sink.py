"""A collector that answers, or does not: what is tried again, what is lost, and what is counted."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

import agent.otlp.sink as subject
from agent.otlp.sink import OtlpSink, retry_after_s
from agent.settings import OtlpSettings
from coordinator import tls
from tests.unit.agent.chunks import chunk
from tests.unit.agent.otlp.collector import (
    PROTOBUF,
    Collector,
    Reply,
    collecting,
    partly,
    plain,
    records,
)
from tests.unit.agent.test_flowlog import wait_for
from ztlab.errors import Refused, SchemaError, Unreachable, ZtError

WHO = {"service.name": "zt-agent"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as server:
        yield server


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(subject, "LONGEST_PAUSE_S", 0.05)


def settings(collector: Collector) -> OtlpSettings:
    return OtlpSettings(endpoint=f"http://127.0.0.1:{collector.port}", timeout_s=10, retry_s=20)


def sink(collector: Collector) -> OtlpSink:
    return OtlpSink(settings(collector), lambda: WHO, dice=lambda: 0.0)


def batch_ids(collector: Collector) -> list[str]:
    """Of each request, in their order."""
    found: list[str] = []
    for received in collector.received:
        ids = {str(plain(r.attributes)["zt.batch.id"]) for r in records(received.request)}
        assert len(ids) == 1
        found += ids
    return found


def test_a_batch_is_taken_once_as_the_specification_has_it(collector: Collector) -> None:
    assert sink(collector).push(chunk(3)) == 3
    (received,) = collector.received
    assert received.path == "/v1/logs"
    assert received.headers["content-type"] == PROTOBUF
    assert received.headers["content-encoding"] == "gzip"
    assert plain(received.request.resource_logs[0].resource.attributes) == WHO
    assert len(records(received.request)) == 3


def test_a_batch_may_go_as_it_is_and_to_another_path(collector: Collector) -> None:
    given = settings(collector)
    given = replace(given, endpoint=given.endpoint + "/in?tenant=a", compression="none")
    assert OtlpSink(given, lambda: WHO).push(chunk(1)) == 1
    (received,) = collector.received
    assert received.path == "/in?tenant=a" and "content-encoding" not in received.headers


def test_two_batches_share_a_connection_and_no_id(collector: Collector) -> None:
    pushing = sink(collector)
    assert [pushing.push(chunk(1)), pushing.push(chunk(2))] == [1, 2]
    first, second = batch_ids(collector)
    assert first != second
    assert len({received.port for received in collector.received}) == 1


def test_an_endless_answer_is_left(collector: Collector) -> None:
    endless = Reply(status=400, body=b"x" * 2**20, headers={"Content-Type": "text/plain"})
    collector.replies.put(endless)
    pushing = sink(collector)
    with pytest.raises(Refused, match="HTTP 400: x{200}$"):
        pushing.push(chunk(1))
    assert pushing.push(chunk(1)) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504, 0])
def test_what_may_come_right_is_tried_again_as_the_same_batch(
    collector: Collector, status: int
) -> None:
    for _ in range(3):
        collector.replies.put(Reply(status=status))
    pushing = sink(collector)
    assert pushing.push(chunk(3)) == 3
    assert len(set(batch_ids(collector))) == 1 and len(collector.received) == 4
    assert len({received.body for received in collector.received}) == 1
    assert pushing.retries == 3


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413, 500, 501])
def test_what_does_not_come_right_is_not_tried_again(collector: Collector, status: int) -> None:
    location = {"Location": f"http://127.0.0.1:{collector.port}/elsewhere"}
    collector.replies.put(Reply(status=status, headers=location))
    with pytest.raises(Refused, match=f"HTTP {status}"):
        sink(collector).push(chunk(3))
    assert len(collector.received) == 1


def test_nothing_is_tried_before_the_moment_that_was_asked_for(collector: Collector) -> None:
    collector.replies.put(Reply(status=503, headers={"Retry-After": "1"}))
    assert sink(collector).push(chunk(1)) == 1
    first, second = collector.received
    assert 1 <= second.at - first.at < 10


def test_the_next_batch_waits_as_well(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is given up does not make the collector's wish void."""
    collector.replies.put(Reply(status=429, headers={"Retry-After": "1"}))
    pushing = OtlpSink(replace(settings(collector), retry_s=1e-9), lambda: WHO, dice=lambda: 0.0)
    with pytest.raises(Refused, match="HTTP 429"):
        pushing.push(chunk(1))
    assert pushing.push(chunk(1)) == 1
    first, second = collector.received
    assert second.at - first.at >= 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("17", 17), ("-1", None), ("soon", None), ("1e3", None), (None, None)],
)
def test_a_retry_after_is_a_number_of_seconds(text: str | None, seconds: float | None) -> None:
    assert retry_after_s(text) == seconds


def test_a_retry_after_may_be_a_date() -> None:
    at = datetime.now(UTC) + timedelta(seconds=100)
    found = retry_after_s(format_datetime(at, usegmt=True))
    assert found is not None and 90 < found <= 100
    assert retry_after_s("Sat, 31 Jan 2026 12:00:00 GMT") == 0  # long ago


def test_what_the_answer_rejects_is_not_sent_again(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.replies.put(partly(2, "too\nold"))
    assert sink(collector).push(chunk(5)) == 3
    assert len(collector.received) == 1
    assert "rejected 2 log records: too old" in caplog.text


@pytest.mark.parametrize(("rejected", "taken"), [(0, 5), (5, 0), (99, 0), (-1, 5)])
def test_a_count_of_rejected_records_is_believed_within_reason(
    collector: Collector, rejected: int, taken: int
) -> None:
    collector.replies.put(partly(rejected, "because"))
    assert sink(collector).push(chunk(5)) == taken


@pytest.mark.parametrize("reply", [Reply(status=204), Reply(body=b"\xff\xff"), Reply(body=b"")])
def test_success_is_success_whatever_it_says(collector: Collector, reply: Reply) -> None:
    collector.replies.put(reply)
    assert sink(collector).push(chunk(5)) == 5


def test_a_refusal_says_why(collector: Collector) -> None:
    """As a google.rpc.Status: 1 is an integer, 2 a text."""
    collector.replies.put(Reply(status=400, body=b"\x08\x03\x12\x07no logs"))
    with pytest.raises(Refused, match="HTTP 400: no logs"):
        sink(collector).push(chunk(1))
    text = {"Content-Type": "text/plain; charset=utf-8"}
    collector.replies.put(Reply(status=400, body=b"no\nlogs", headers=text))
    with pytest.raises(Refused, match="HTTP 400: no logs"):
        sink(collector).push(chunk(1))


def test_a_batch_is_given_up_after_its_time(collector: Collector) -> None:
    for _ in range(100):
        collector.replies.put(Reply(status=503))
    pushing = OtlpSink(replace(settings(collector), retry_s=0.2), lambda: WHO)
    with pytest.raises(Refused, match="HTTP 503"):
        pushing.push(chunk(1))
    assert 2 <= len(collector.received) < 100


def test_pauses_grow_up_to_a_bound_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "FIRST_PAUSE_S", 1.0)
    monkeypatch.setattr(subject, "LONGEST_PAUSE_S", 30.0)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    for roll, share in ((0.0, 0.5), (1.0, 1.0)):
        dice = iter([roll] * 9).__next__
        pushing = OtlpSink(OtlpSettings(endpoint="https://c.example"), dict, dice=dice)
        pauses = []
        for _ in range(8):
            pushing._pause(None)
            pauses.append(pushing._not_before)
        assert pauses == [share * s for s in (1, 2, 4, 8, 16, 30, 30, 30)]
        pushing._pause(1e9)
        assert pushing._not_before == subject.LONGEST_ASKED_S + roll


def test_a_collector_that_hangs_is_left_after_the_time_limit(collector: Collector) -> None:
    collector.replies.put(Reply(status=-1))
    pushing = OtlpSink(replace(settings(collector), timeout_s=0.2), lambda: WHO)
    assert pushing.push(chunk(1)) == 1
    assert pushing.retries >= 1


def test_a_collector_that_is_gone_costs_the_batch(collector: Collector) -> None:
    gone = OtlpSettings(endpoint="http://127.0.0.1:1", retry_s=0.1)
    with pytest.raises(Unreachable, match="refused"):
        OtlpSink(gone, lambda: WHO).push(chunk(1))


def test_who_stops_waits_for_nothing(collector: Collector) -> None:
    collector.replies.put(Reply(status=503, headers={"Retry-After": "200"}))
    pushing = sink(collector)
    ended: list[ZtError] = []

    def push() -> None:
        with pytest.raises(ZtError) as caught:
            pushing.push(chunk(1))
        ended.append(caught.value)

    thread = threading.Thread(target=push)
    thread.start()
    wait_for(lambda: pushing.retries == 1)
    pushing.stop()
    thread.join(10)
    assert not thread.is_alive() and "this agent stops" in str(ended[0])


def test_headers_come_from_a_private_file_and_follow_it(
    collector: Collector, tmp_path: Path
) -> None:
    path = tmp_path / "otlp.headers"
    path.write_text("# ours\n\nAuthorization: Bearer a b\nX-Tenant:7\n")
    path.chmod(0o600)
    pushing = OtlpSink(
        replace(settings(collector), headers_file=str(path)), lambda: WHO, dice=lambda: 0.0
    )
    pushing.push(chunk(1))
    path.write_text("Authorization: Bearer another one\n")
    pushing.push(chunk(1))
    first, second = (received.headers for received in collector.received)
    assert (first["authorization"], first["x-tenant"]) == ("Bearer a b", "7")
    assert second["authorization"] == "Bearer another one" and "x-tenant" not in second


def test_a_headers_file_that_is_gone_for_a_moment_costs_no_batch(
    collector: Collector, tmp_path: Path
) -> None:
    path = tmp_path / "otlp.headers"
    path.write_text("A: b\n")
    path.chmod(0o600)
    pushing = OtlpSink(replace(settings(collector), headers_file=str(path)), lambda: WHO)
    away = path.rename(tmp_path / "away")
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.append(pushing.push(chunk(1))))
    thread.start()
    wait_for(lambda: pushing.retries > 0)
    away.rename(path)
    thread.join(10)
    assert taken == [1] and len(collector.received) == 1


@pytest.mark.parametrize(
    "line",
    [
        "no colon",
        "Sp ace: x",
        "Empty:",
        "Content-Type: text/plain",
        "A: 1\nA: 2",
        "A: x\x00y",
        ": x",
        "A: \x1b[0m",
    ],
)
def test_a_header_that_is_none_is_refused_and_not_repeated(tmp_path: Path, line: str) -> None:
    path = tmp_path / "otlp.headers"
    path.write_text(f"Good: secret\n{line}\n")
    path.chmod(0o600)
    given = OtlpSettings(endpoint="https://c.example", headers_file=str(path))
    with pytest.raises(SchemaError, match="line [23]") as caught:
        OtlpSink(given, lambda: WHO)
    assert "secret" not in str(caught.value)


def test_a_headers_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "otlp.headers"
    path.write_text("A: secret\n")
    path.chmod(0o644)
    with pytest.raises(SchemaError, match="open to others"):
        OtlpSink(OtlpSettings(endpoint="https://c.example", headers_file=str(path)), dict)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    tls.prepare(directory, ("127.0.0.1",))
    return directory


def test_tls_is_verified_by_the_authority_that_was_named(certificates: Path) -> None:
    files = tls.TlsFiles(certificates)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    with collecting(context) as collector:
        endpoint = f"https://127.0.0.1:{collector.port}"
        named = OtlpSettings(endpoint=endpoint, ca_file=str(files.authority), retry_s=0.1)
        assert OtlpSink(named, lambda: WHO).push(chunk(2)) == 2
        with pytest.raises(Unreachable, match="TLS failed"):
            OtlpSink(replace(named, ca_file=None), lambda: WHO).push(chunk(2))
        assert len(collector.received) == 1


def wanting(certificates: Path, clients: Path) -> ssl.SSLContext:
    """A collector's, which takes whoever shows a certificate that is among CLIENTS' (PEM)."""
    files = tls.TlsFiles(certificates)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    context.load_verify_locations(clients)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client(directory: Path, *names: str) -> Path:
    """Self-signed certificates for clients, one beside the other; who trusts NAMES trusts these."""
    for name in names:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        out = ["-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.pem"]
        about = ["-subj", f"/CN={name}", "-days", "2"]
        subprocess.run(
            ["openssl", "req", "-x509", *key, *out, *about], check=True, stderr=subprocess.DEVNULL
        )
        (directory / f"{name}.key").chmod(0o600)
    both = directory / ("and".join(names) + ".all")
    both.write_text("".join((directory / f"{name}.pem").read_text() for name in names))
    return both


def test_a_collector_that_wants_a_certificate_is_shown_one_and_later_the_renewed_one(
    certificates: Path, tmp_path: Path
) -> None:
    trusted = client(tmp_path, "first", "second")
    client(tmp_path, "stranger")
    with collecting(wanting(certificates, trusted)) as collector:
        named = OtlpSettings(
            endpoint=f"https://127.0.0.1:{collector.port}",
            ca_file=str(tls.TlsFiles(certificates).authority),
            certificate=str(tmp_path / "own.pem"),
            private_key=str(tmp_path / "own.key"),
            retry_s=0.1,
        )

        def put(name: str, *kinds: str) -> None:
            for kind in kinds:
                shutil.copy(tmp_path / f"{name}.{kind}", tmp_path / f"own.{kind}")

        put("stranger", "pem", "key")
        for refused in (named, replace(named, certificate=None, private_key=None)):
            with pytest.raises(Unreachable):
                OtlpSink(refused, lambda: WHO).push(chunk(1))
        assert not collector.received

        put("first", "pem", "key")
        pushing = OtlpSink(named, lambda: WHO)
        assert pushing.push(chunk(2)) == 2
        put("second", "pem")  # half of a change
        assert pushing.push(chunk(2)) == 2
        put("second", "key")
        assert pushing.push(chunk(2)) == 2
        before, between, after = (received.port for received in collector.received)
        assert before == between != after  # the connection that was, and one that is made anew


@pytest.mark.parametrize(
    ("mode", "key", "complaint"),
    [(0o644, "first", "open to others"), (0o600, "second", "cannot be used as a certificate")],
)
def test_a_key_that_others_may_read_or_that_is_of_another_certificate_is_refused(
    tmp_path: Path, mode: int, key: str, complaint: str
) -> None:
    client(tmp_path, "first", "second")
    path = tmp_path / f"{key}.key"
    path.chmod(mode)
    given = OtlpSettings(
        endpoint="https://c.example",
        certificate=str(tmp_path / "first.pem"),
        private_key=str(path),
    )
    with pytest.raises(ZtError, match=complaint):
        OtlpSink(given, dict)
    with pytest.raises(ValueError, match="together"):
        replace(given, private_key=None)


def test_an_authority_that_is_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path / "empty"):
        given = OtlpSettings(endpoint="https://c.example", ca_file=str(path))
        with pytest.raises(ZtError, match="cannot be used as a TLS authority"):
            OtlpSink(given, dict)
        (tmp_path / "empty").write_text("")
