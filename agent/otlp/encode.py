"""A batch of log events as an OTLP ExportLogsServiceRequest, in the published protobuf definitions.

A log record is a concatenation of parts, each a LogRecord of its own that the published classes
serialize: messages that lie behind one another are read as one whose repeated fields are appended
(protobuf.dev, "Encoding", last one wins). Parts that come again, as most do, are kept, so an event
costs a few look-ups and not twenty objects.

Attributes have the names of OpenTelemetry's semantic conventions where these have one; what begins
with `zt.` is ours.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import (
    SEVERITY_NUMBER_INFO,
    SEVERITY_NUMBER_WARN,
    LogRecord,
    ResourceLogs,
    ScopeLogs,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from agent.events import Chunk
from ztlab.model import logbatch
from ztlab.model.verdict import Hook, Verdict

SCHEMA_URL = "https://opentelemetry.io/schemas/1.37.0"
SCOPE = "agent.otlp"
BATCH_EVENTS = 500  # of one request: under half a megabyte uncompressed; collectors take 4 or more

_TRANSPORTS = {6: "tcp", 17: "udp"}  # what the conventions have a word for
_TYPES = {4: "ipv4", 6: "ipv6"}
_LENGTH_DELIMITED, _FIXED64 = 2, 1  # wire types
_DIGITS = 5  # of a sequence number in a unique id

Value = str | int


def request(
    chunk: Chunk, *, batch_id: str, resource: Mapping[str, str], observed_ns: int
) -> tuple[bytes, bytearray]:
    """The body that tells a collector of CHUNK, in two parts: a copy less of what is large.

    batch_id     same for each try: with the number of the event in it, it makes an event's id
    resource     attributes of who sends
    observed_ns  Unix time of now, in nanoseconds
    """
    scope = ScopeLogs(scope=InstrumentationScope(name=SCOPE), schema_url=SCHEMA_URL)
    sender = ResourceLogs(
        resource=Resource(attributes=[_pair(name, value) for name, value in resource.items()]),
        schema_url=SCHEMA_URL,
    )
    records = bytearray()
    key = _key(ScopeLogs, "log_records", _LENGTH_DELIMITED)
    for record in _records(chunk, batch_id, observed_ns):
        records += key + _varint(len(record))
        records += record
    before = b""
    for message, name, begin in (
        (ResourceLogs, "scope_logs", scope),
        (ExportLogsServiceRequest, "resource_logs", sender),
    ):
        before = begin.SerializeToString() + before
        length = _varint(len(before) + len(records))
        before = _key(message, name, _LENGTH_DELIMITED) + length + before
    return before, records


def _records(chunk: Chunk, batch_id: str, observed_ns: int) -> Iterator[bytes]:
    naming = chunk.naming
    rows = logbatch.rows(chunk.records)
    begin = _key(LogRecord, "time_unix_nano", _FIXED64)
    middle = _key(LogRecord, "observed_time_unix_nano", _FIXED64)
    times = struct.Struct(f"<{len(begin)}sQ{len(middle)}sQ")
    last_digits = _attribute("log.record.uid", f"{batch_id}-{0:0{_DIGITS}}")[:-_DIGITS]
    batch = _attribute("zt.batch.id", batch_id)
    for sequence, row in enumerate(rows):
        event = dict(zip(logbatch.FIELDS, row, strict=True))
        family, protocol = event["family"], event["protocol"]
        source = logbatch.address_text(family, event["source"])
        target = logbatch.address_text(family, event["destination"])
        peer = naming.peer(source) if family else None
        kind = event["flags"]
        rule = naming.rule(event["epoch"], event["rule"]) if event["rule"] else None
        parts = [
            times.pack(begin, naming.clock_ns + event["at_ns"], middle, observed_ns),
            _context(kind, event["verdict"], event["hook"], family, protocol),
            _who("source", naming.identity(event["source_tag"]), event["source_tag"]),
            _who(
                "destination",
                naming.identity(event["destination_tag"]),
                event["destination_tag"],
            ),
            _amount(event["packets"], event["bytes"]),
            batch,
            _number("zt.batch.sequence", sequence),
            last_digits,
            b"%0*d" % (_DIGITS, sequence),
        ]
        if family:
            has_ports = protocol in _TRANSPORTS
            parts.append(_end("source", source, event["source_port"] if has_ports else None))
            ports = event["destination_port"] if has_ports else None
            parts.append(_end("destination", target, ports))
        if rule is not None:
            parts.append(_text("zt.rule.id", rule))
        if peer is not None:
            parts.append(_peer(*peer))
        if kind > 1:
            parts.append(_attribute("zt.flow.began_at", _time(naming.clock_ns, event["began_ns"])))
        yield b"".join(parts)


def _time(clock_ns: int, at_ns: int) -> str:
    return logbatch.rfc3339(clock_ns + at_ns)


def _event_name(kind: int, verdict: Verdict) -> str:
    if verdict.is_drop:
        return "zt.packet.dropped"
    return {
        "packet": "zt.packet.passed",
        "flow": "zt.flow.started",
        "update": "zt.flow.updated",
        "end": "zt.flow.ended",
    }[logbatch.KINDS[kind]]


@lru_cache(maxsize=256)
def _context(kind: int, number: int, hook: int, family: int, protocol: int) -> bytes:
    """What there are few kinds of: name, severity, text, and the attributes that go with them."""
    verdict = Verdict(number)
    name = _event_name(kind, verdict)
    level = SEVERITY_NUMBER_WARN if verdict.is_drop else SEVERITY_NUMBER_INFO
    attributes: dict[str, Value] = {
        "zt.verdict": verdict.word,
        "zt.hook": Hook(hook).word,
        "zt.kind": logbatch.KINDS[kind],
    }
    if family:
        attributes |= {"network.type": _TYPES[family], "zt.ip.protocol": protocol}
    if protocol in _TRANSPORTS:
        attributes["network.transport"] = _TRANSPORTS[protocol]
    record = LogRecord(
        event_name=name,
        severity_number=level,
        severity_text="WARN" if verdict.is_drop else "INFO",
        body=AnyValue(string_value=f"{name.removeprefix('zt.').replace('.', ' ')}: {verdict.word}"),
        attributes=[_pair(name, value) for name, value in attributes.items()],
    )
    return bytes(record.SerializeToString())


@lru_cache(maxsize=1024)
def _end(end: str, address: str, port: int | None) -> bytes:
    found: dict[str, Value] = {f"{end}.address": address}
    if port is not None:
        found[f"{end}.port"] = port
    return _part(found)


@lru_cache(maxsize=1024)
def _who(end: str, identity: str, tag: int) -> bytes:
    return _part({f"zt.{end}.identity": identity, f"zt.{end}.tag": tag})


@lru_cache(maxsize=256)
def _amount(packets: int, octets: int) -> bytes:
    return _part({"zt.packets": packets, "zt.bytes": octets})


@lru_cache(maxsize=256)
def _peer(node_id: str, client_id: str) -> bytes:
    return _part({"zt.peer.node.id": node_id, "zt.peer.client.id": client_id})


@lru_cache(maxsize=256)
def _text(name: str, value: str) -> bytes:
    return _attribute(name, value)


@lru_cache(maxsize=BATCH_EVENTS)
def _number(name: str, value: int) -> bytes:
    return _attribute(name, value)


def _attribute(name: str, value: Value) -> bytes:
    return _part({name: value})


def _part(attributes: Mapping[str, Value]) -> bytes:
    found = [_pair(name, value) for name, value in attributes.items()]
    return bytes(LogRecord(attributes=found).SerializeToString())


def _pair(name: str, value: Value) -> KeyValue:
    if isinstance(value, int):
        return KeyValue(key=name, value=AnyValue(int_value=_signed(value)))
    return KeyValue(key=name, value=AnyValue(string_value=value))


def _signed(value: int) -> int:
    return min(value, 2**63 - 1)  # OTLP has no larger integers


def _key(message: type[Message], name: str, wire_type: int) -> bytes:
    """What stands before a value of the field NAME."""
    return _varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | wire_type)


def _varint(number: int) -> bytes:
    """NUMBER, seven bits in a byte, the lowest first."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
