"""Events in OTLP, read back with the published definitions: none is lost, and nothing invented."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from agent.events import Chunk, NameTable, Naming
from agent.otlp import encode
from tests.unit.agent.otlp.collector import plain, records
from tests.unit.batches import record
from ztlab.model import logbatch
from ztlab.model.verdict import Hook, Verdict

BATCH = "6f7a8a2e-58f3-4a53-9a3c-0a8f6c1d2e3f"
RESOURCE = {"service.name": "zt-agent", "host.name": "bob"}
CLOCK_NS = 1_769_860_800_000_000_000
TABLE = NameTable({2: "api", 3: "guest"}, {}, ())
FLOW = {
    "at": "2026-01-31T12:00:00.000000Z",
    "kind": "flow",
    "verdict": "no_rule",
    "hook": "ingress",
    "source": "10.0.0.2",
    "destination": "10.0.0.1",
    "protocol": 6,
    "source_port": 43210,
    "destination_port": 8080,
    "source_tag": 3,
    "destination_tag": 2,
    "packets": 1,
    "length": 60,
}


def encoded(packed: bytes, table: NameTable = TABLE, observed_ns: int = 7) -> Any:
    chunk = Chunk(bytearray(packed), Naming(CLOCK_NS, table, ((0, ()),)))
    parts = encode.request(chunk, batch_id=BATCH, resource=RESOURCE, observed_ns=observed_ns)
    return ExportLogsServiceRequest.FromString(b"".join(parts))


def one(event: Mapping[str, Any], table: NameTable = TABLE) -> Any:
    (found,) = records(encoded(record(event, sys.byteorder), table))
    return found


def test_a_request_says_who_sends_and_by_which_conventions() -> None:
    request = encoded(record(FLOW, sys.byteorder) * 3)
    (sender,) = request.resource_logs
    (scope,) = sender.scope_logs
    assert plain(sender.resource.attributes) == RESOURCE
    assert sender.schema_url == scope.schema_url == encode.SCHEMA_URL
    assert scope.scope.name == "agent.otlp" and len(scope.log_records) == 3


def test_a_denial_has_the_names_of_the_conventions_and_those_of_ours() -> None:
    found = one(FLOW)
    assert (found.event_name, found.severity_text) == ("zt.packet.dropped", "WARN")
    assert found.severity_number == 13 and found.body.string_value == "packet dropped: no_rule"
    assert found.observed_time_unix_nano == 7
    assert plain(found.attributes) == {
        "source.address": "10.0.0.2",
        "source.port": 43210,
        "destination.address": "10.0.0.1",
        "destination.port": 8080,
        "network.transport": "tcp",
        "network.type": "ipv4",
        "log.record.uid": f"{BATCH}-00000",
        "zt.batch.id": BATCH,
        "zt.batch.sequence": 0,
        "zt.ip.protocol": 6,
        "zt.kind": "flow",
        "zt.verdict": "no_rule",
        "zt.hook": "ingress",
        "zt.source.identity": "guest",
        "zt.source.tag": 3,
        "zt.destination.identity": "api",
        "zt.destination.tag": 2,
        "zt.packets": 1,
        "zt.bytes": 60,
    }


def test_a_packet_that_could_not_be_parsed_has_no_ends() -> None:
    event = {**FLOW, "verdict": "malformed", "source": "::", "destination": "::", "protocol": 0}
    names = set(plain(one(event).attributes))
    assert "zt.verdict" in names
    assert not [n for n in names if n.startswith(("source.", "destination.", "network."))]


def test_what_passes_is_told_as_information_and_by_what_it_is() -> None:
    passed = {**FLOW, "verdict": "allowed"}
    told = {kind: one({**passed, "kind": kind}) for kind in ("flow", "packet", "update", "end")}
    assert {found.severity_number for found in told.values()} == {9}
    assert {kind: found.event_name for kind, found in told.items()} == {
        "flow": "zt.flow.started",
        "packet": "zt.packet.passed",
        "update": "zt.flow.updated",
        "end": "zt.flow.ended",
    }
    assert "zt.flow.began_at" in plain(told["end"].attributes)
    assert "zt.flow.began_at" not in plain(told["flow"].attributes)


ROWS = st.tuples(
    st.integers(0, 2**60),  # at
    st.integers(0, 2**60),  # began
    st.integers(0, 2**64 - 1),  # packets
    st.integers(0, 2**64 - 1),  # bytes
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 5),
    st.integers(0, 5),
    st.just(0),
    st.just(0),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.sampled_from([0, 4, 6]),
    st.integers(0, 255),
    st.sampled_from([int(v) for v in Verdict]),
    st.sampled_from([int(h) for h in Hook]),
    *[st.integers(0, 255)] * 3,
    st.sampled_from(sorted(logbatch.KINDS)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=30))
def test_any_record_says_in_otlp_what_it_says_as_a_document(rows: list[tuple[Any, ...]]) -> None:
    layout = logbatch._LAYOUTS[sys.byteorder]
    packed = b"".join(layout.pack(*row) for row in rows)
    naming = Naming(CLOCK_NS, TABLE, ((0, ()),))
    found = records(encoded(packed))
    documents = list(logbatch.documents(packed, naming))
    assert len(found) == len(documents) == len(rows)
    for sequence, (got, want, row) in enumerate(zip(found, documents, rows, strict=True)):
        said = plain(got.attributes)
        assert got.time_unix_nano == CLOCK_NS + row[0]
        assert said["zt.batch.sequence"] == sequence
        assert said["log.record.uid"] == f"{BATCH}-{sequence:05d}"
        assert (said["zt.verdict"], said["zt.hook"]) == (want["verdict"], want["hook"])
        assert said["zt.kind"] == want["kind"]
        assert said["zt.source.identity"] == want["source_identity"]
        assert said["zt.destination.tag"] == want["destination_tag"]
        assert said["zt.packets"] == min(want["packets"], 2**63 - 1)
        assert said["zt.bytes"] == min(want["length"], 2**63 - 1)
        family = row[logbatch.FIELDS.index("family")]
        assert ("source.address" in said) == bool(family)
        if family:
            assert (said["source.address"], said["destination.address"]) == (
                want["source"],
                want["destination"],
            )
        assert said.get("zt.flow.began_at") == want["began_at"]


def test_a_peer_and_a_rule_are_named() -> None:
    from ipaddress import ip_address

    table = NameTable({3: "guest"}, {ip_address("10.0.0.2"): ("n-1", "c-1")}, ())
    said = plain(one(FLOW, table).attributes)
    assert (said["zt.peer.node.id"], said["zt.peer.client.id"]) == ("n-1", "c-1")


def test_a_batch_of_the_largest_size_takes_a_moment_and_one_megabyte() -> None:
    """Of a thousand senders: a test for what would be fifty times too slow, or too large."""
    flows = [
        record({**FLOW, "source": f"10.1.{i // 250}.{i % 250}", "source_port": 1024 + i}, "little")
        for i in range(encode.BATCH_EVENTS)
    ]
    chunk = Chunk(bytearray(b"".join(flows)), Naming(CLOCK_NS, TABLE, ((0, ()),)))
    began = time.process_time()
    parts = encode.request(chunk, batch_id=BATCH, resource=RESOURCE, observed_ns=7)
    took_s = time.process_time() - began
    assert sum(map(len, parts)) < 2**20 and took_s < 1
