"""A collector that others wrote (Rotel, in Rust) understands what the agent sends.

It is told to hand everything on, to a server that reads with the published definitions: what
arrives there went through somebody else's idea of OTLP.
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from agent.events import Chunk, Naming
from agent.otlp.encode import BATCH_EVENTS
from agent.otlp.sink import OtlpSink
from agent.settings import OtlpSettings
from tests.unit.agent.otlp.collector import Collector, collecting, plain, records
from tests.unit.agent.otlp.test_encode import CLOCK_NS, FLOW, TABLE
from tests.unit.agent.test_flowlog import wait_for
from tests.unit.batches import record
from ztlab.errors import Refused

RESOURCE = {"service.name": "zt-agent", "service.instance.id": "n-1", "host.name": "bob"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def rotel(directory: Path, behind: Collector) -> Iterator[str]:
    """A collector that hands on to BEHIND; its endpoint."""
    found = importlib.util.find_spec("rotel")
    assert found is not None and found.origin is not None
    endpoint = f"127.0.0.1:{free_port()}"
    command = [
        *(str(Path(found.origin).with_name("rotel-agent")), "start"),
        *("--otlp-http-endpoint", endpoint, "--otlp-grpc-endpoint", "127.0.0.1:0"),
        *("--exporter", "otlp", "--otlp-exporter-protocol", "http"),
        *("--otlp-exporter-endpoint", f"http://127.0.0.1:{behind.port}"),
        *("--pid-file", str(directory / "pid"), "--log-file", str(directory / "log")),
        *("--batch-timeout", "50ms"),
    ]
    with open(directory / "said", "wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: _listens(endpoint), 30)
        yield f"http://{endpoint}"
    finally:
        process.terminate()
        process.wait(30)


def _listens(endpoint: str) -> bool:
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Collector]]:
    """A real collector's endpoint, and what lies behind it."""
    with (
        collecting() as behind,
        rotel(tmp_path_factory.mktemp("rotel"), behind) as endpoint,
    ):
        yield endpoint, behind


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_real_collector_hands_on_every_record_as_it_was(
    chain: tuple[str, Collector], compression: Literal["gzip", "none"]
) -> None:
    endpoint, behind = chain
    events = [
        {**FLOW, "source_port": 1024 + i, "kind": kind, "began_at": FLOW["at"], "length": 10**i}
        for i, kind in enumerate(("flow", "packet", "update", "end"))
    ]
    one = b"".join(record(event, sys.byteorder) for event in events)
    batch = Chunk(bytearray(one * (BATCH_EVENTS // 4)), Naming(CLOCK_NS, TABLE, ((0, ()),)))
    sink = OtlpSink(OtlpSettings(endpoint=endpoint, compression=compression), lambda: RESOURCE)
    before = len(behind.received)
    assert sink.push(batch) == BATCH_EVENTS

    def arrived() -> list[dict[str, str | int]]:
        return [
            plain(found.attributes)
            for received in list(behind.received)[before:]
            for found in records(received.request)
        ]

    wait_for(lambda: len(arrived()) >= BATCH_EVENTS, 30)
    found = sorted(arrived(), key=lambda said: said["zt.batch.sequence"])
    assert [said["zt.batch.sequence"] for said in found] == list(range(BATCH_EVENTS))
    assert len({said["log.record.uid"] for said in found}) == BATCH_EVENTS
    for i, said in enumerate(found[:4]):
        assert said["source.address"] == FLOW["source"] and said["source.port"] == 1024 + i
        assert said["zt.verdict"] == "no_rule" and said["zt.bytes"] == 10**i
        assert said["zt.source.identity"] == "guest" and said["network.transport"] == "tcp"
    handed_on = behind.received[-1].request.resource_logs[0]
    assert RESOURCE.items() <= plain(handed_on.resource.attributes).items()
    last = handed_on.scope_logs[0].log_records[0]
    assert last.event_name == "zt.packet.dropped" and last.severity_text == "WARN"
    assert last.time_unix_nano == CLOCK_NS + 1_769_860_800_000_000_000


def test_a_real_collectors_refusal_is_one(chain: tuple[str, Collector]) -> None:
    endpoint, _ = chain
    batch = Chunk(bytearray(record(FLOW, sys.byteorder)), Naming(CLOCK_NS, TABLE, ((0, ()),)))
    wrong = OtlpSink(OtlpSettings(endpoint=endpoint + "/nowhere"), lambda: RESOURCE)
    with pytest.raises(Refused, match="HTTP 4"):
        wrong.push(batch)
