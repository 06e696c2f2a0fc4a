"""Log events as they travel from a node to its coordinator: packed records behind a small head.

A record is bpf/zt_abi.h's `struct zt_event` (a contract test compares), in the byte order of the
machine that wrote it. Numbers stay numbers in it: the head says what the tags, the rules and the
sources' peers that occur in the batch are called, and where the records' clock begins. So a batch
costs its sender next to nothing for each event; `documents` makes the Events of docs/PROTOCOL.md.
"""

from __future__ import annotations

import json
import struct
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Literal, Protocol

from ztlab.errors import SchemaError
from ztlab.model import codec
from ztlab.model.codec import field
from ztlab.model.identity import TAG_MAX
from ztlab.model.verdict import Hook, Verdict

CONTENT_TYPE = "application/vnd.ztlab.log-batch"
LAYOUT = 1  # of a record; another one gets another number
MAX_EVENTS = 5000
HEAD_MAX = 4 * 2**20  # bytes

Buffer = bytes | bytearray | memoryview

FIELDS = (
    *("at_ns", "began_ns", "packets", "bytes"),
    *("source", "destination"),
    *("source_tag", "destination_tag", "rule", "epoch"),
    *("source_port", "destination_port"),
    *("family", "protocol", "verdict", "hook", "tcp_flags", "icmp_type", "icmp_code", "flags"),
)
_FORMAT = "4Q16s16s4I2H8B4x"
_PREFIX = {"little": "<", "big": ">"}
_LAYOUTS = {order: struct.Struct(prefix + _FORMAT) for order, prefix in _PREFIX.items()}
SIZE = _LAYOUTS["little"].size
OFFSETS: Mapping[str, int] = {
    name: struct.calcsize(f"<{prefix}")
    for name, prefix in zip(
        FIELDS,
        [
            *("", "Q", "QQ", "3Q", "4Q", "4Q16s"),
            *(f"4Q32s{n}I" for n in range(4)),
            *("4Q32s4I", "4Q32s4IH"),
            *(f"4Q32s4I2H{n}B" for n in range(8)),
        ],
        strict=True,
    )
}

KINDS = {0: "packet", 1: "flow", 2: "update", 4: "end"}  # enum zt_event_flag
NO_ADDRESS = "::"  # of a packet that could not be parsed
_YEAR_10000_NS = 253_402_300_800 * 10**9


def _check_batch_id(text: str) -> None:
    try:
        canonical = str(uuid.UUID(text))
    except ValueError:
        canonical = ""
    if canonical != text:
        raise ValueError(f"want a UUID in lower case, got {text!r}")


def _check_layout(number: int) -> None:
    if number != LAYOUT:
        raise ValueError(f"want layout {LAYOUT}, got {number}")


def _check_count(count: int) -> None:
    if not 0 <= count <= MAX_EVENTS:
        raise ValueError(f"want at most {MAX_EVENTS} events, got {count}")


def _check_clock(at_ns: int) -> None:
    if not 0 <= at_ns < _YEAR_10000_NS:
        raise ValueError(f"want nanoseconds since 1970, got {at_ns}")


def _check_word(text: str) -> None:
    if not 0 < len(text) <= 64:
        raise ValueError(f"want 1 to 64 characters, got {len(text)}")


def _check_tag(tag: int) -> None:
    if not 0 <= tag <= TAG_MAX:
        raise ValueError(f"want a tag up to {TAG_MAX}, got {tag}")


def _check_address(text: str) -> None:
    if str(ip_address(text)) != text or "%" in text:  # no interface of that machine's
        raise ValueError(f"want an IP address in its one spelling, got {text!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TagName:
    """What an identity's number is called."""

    tag: int = field(check=_check_tag)
    name: str = field(check=_check_word)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleName:
    """The id of the rule that had this number (from 1) in this epoch."""

    epoch: int
    rule: int
    id: str = field(check=_check_word)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerName:
    """The WireGuard peer that a source is behind."""

    address: str = field(check=_check_address)
    node_id: str = field(check=_check_word)
    client_id: str = field(check=_check_word)


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a batch says about its records.

    layout      of a record
    byte_order  of the numbers in it; addresses are in network byte order always
    clock_ns    Unix time of the zero of the records' clock, in nanoseconds
    tags, rules, peers  names of what occurs; what is not named has no name
    """

    batch_id: str = field(check=_check_batch_id)
    layout: int = field(check=_check_layout)
    byte_order: Literal["little", "big"]
    count: int = field(check=_check_count)
    clock_ns: int = field(check=_check_clock)
    tags: tuple[TagName, ...] = field(default=())
    rules: tuple[RuleName, ...] = field(default=())
    peers: tuple[PeerName, ...] = field(default=())

    @cached_property
    def _tags(self) -> Mapping[int, str]:
        return {entry.tag: entry.name for entry in self.tags}

    @cached_property
    def _rules(self) -> Mapping[tuple[int, int], str]:
        return {(entry.epoch, entry.rule): entry.id for entry in self.rules}

    @cached_property
    def _peers(self) -> Mapping[str, tuple[str, str]]:
        return {entry.address: (entry.node_id, entry.client_id) for entry in self.peers}

    def identity(self, tag: int) -> str | None:
        return self._tags.get(tag)

    def rule(self, epoch: int, rule: int) -> str | None:
        return self._rules.get((epoch, rule))

    def peer(self, address: str) -> tuple[str, str] | None:
        return self._peers.get(address)


class Naming(Protocol):
    """What numbers are called: a Head, or who knows it first-hand."""

    @property
    def clock_ns(self) -> int: ...

    def identity(self, tag: int) -> str | None: ...

    def rule(self, epoch: int, rule: int) -> str | None: ...

    def peer(self, address: str) -> tuple[str, str] | None:
        """(node id, client ID) of the peer that ADDRESS is behind."""


def pack(head: Head, records: Buffer) -> bytes:
    """The body: four bytes with the head's length (big endian), the head as JSON, the records."""
    text = json.dumps(_document(head), separators=(",", ":")).encode("ascii")
    return b"".join((struct.pack(">I", len(text)), text, records))


def _document(head: Head) -> dict[str, Any]:
    """What `codec.encode` says as well, which takes longer than all the rest of a batch."""
    tables = {
        "tags": [{"tag": each.tag, "name": each.name} for each in head.tags],
        "rules": [{"epoch": each.epoch, "rule": each.rule, "id": each.id} for each in head.rules],
        "peers": [
            {"address": each.address, "node_id": each.node_id, "client_id": each.client_id}
            for each in head.peers
        ],
    }
    plain = ("batch_id", "layout", "byte_order", "count", "clock_ns")
    return {name: getattr(head, name) for name in plain} | tables


def unpack(body: bytes) -> tuple[Head, memoryview]:
    """Head and records of BODY, both checked; SchemaError with every fault of the head, or the
    first of each kind in the records."""
    if len(body) < 4:
        raise SchemaError(["body: want four bytes of length, a head and records"])
    (length,) = struct.unpack_from(">I", body)
    if length > min(HEAD_MAX, len(body) - 4):
        raise SchemaError([f"head: {length} bytes are more than there may be, or are"])
    head = codec.decode(Head, _json(body[4 : 4 + length]), path="head")
    records = memoryview(body)[4 + length :]
    if len(records) != head.count * SIZE:
        want = f"{head.count} records of {SIZE} bytes"
        raise SchemaError([f"records: want {want}, got {len(records)} bytes"])
    faults = list(_faults(records, head.byte_order))
    faults += _clock_faults(records, head)
    if faults:
        raise SchemaError(faults)
    return head, records


def _json(text: bytes) -> Any:
    try:
        return json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise SchemaError([f"head: no JSON in ASCII: {error}"[:200]]) from None


def _allowed(order: str) -> tuple[tuple[str, int, bytes], ...]:
    """(field, offset of one byte of it, what that byte may be): enough to trust the record."""
    top = 3 if order == "little" else 0  # of four bytes
    return (
        ("family", OFFSETS["family"], bytes((0, 4, 6))),
        ("verdict", OFFSETS["verdict"], bytes(Verdict)),
        ("hook", OFFSETS["hook"], bytes(Hook)),
        ("flags", OFFSETS["flags"], bytes(KINDS)),
        ("source_tag", OFFSETS["source_tag"] + top, b"\0"),  # 24 bits, as the next two
        ("destination_tag", OFFSETS["destination_tag"] + top, b"\0"),
        ("rule", OFFSETS["rule"] + top, b"\0"),
    )


_ALLOWED = {order: _allowed(order) for order in _PREFIX}


def _faults(records: Buffer, order: str) -> Iterator[str]:
    for name, offset, allowed in _ALLOWED[order]:
        wrong = bytes(records[offset::SIZE]).translate(None, allowed)
        if wrong:
            i = bytes(records[offset::SIZE]).index(wrong[0])
            yield f"records[{i}].{name}: {wrong[0]} is none that is known"


def _clock_faults(records: Buffer, head: Head) -> list[str]:
    clocks = struct.iter_unpack(f"{_PREFIX[head.byte_order]}2Q{SIZE - 16}x", records)
    latest = max((max(pair) for pair in clocks), default=0)
    if head.clock_ns + latest < _YEAR_10000_NS:
        return []
    return ["records: a time that is after the year 9999"]


def faulty(records: Buffer) -> list[int]:
    """The indexes of those RECORDS, of this machine's making, that are no events.

    Where all are, which is the rule, that is found out without any work per event in Python.
    """
    found: set[int] = set()
    for _, offset, allowed in _ALLOWED[sys.byteorder]:
        column = bytes(records[offset::SIZE])
        if column.translate(None, allowed):
            found.update(i for i, byte in enumerate(column) if byte not in allowed)
    return sorted(found)


def rows(records: Buffer, order: str = sys.byteorder) -> Iterator[tuple[Any, ...]]:
    """What each of RECORDS holds, in the order of FIELDS."""
    return _LAYOUTS[order].iter_unpack(records)


def documents(
    records: Buffer, naming: Naming, order: str = sys.byteorder
) -> Iterator[dict[str, Any]]:
    """RECORDS, which are checked, as Events of docs/PROTOCOL.md, one after the other."""
    for (
        at_ns,
        began_ns,
        packets,
        octets,
        source_bytes,
        destination_bytes,
        source_tag,
        destination_tag,
        rule,
        epoch,
        source_port,
        destination_port,
        family,
        protocol,
        verdict,
        hook,
        _tcp_flags,
        _icmp_type,
        _icmp_code,
        flags,
    ) in rows(records, order):
        source = address_text(family, source_bytes)
        peer = naming.peer(source) if family else None
        yield {
            "at": rfc3339(naming.clock_ns + at_ns),
            "kind": KINDS[flags],
            "verdict": _VERDICTS[verdict],
            "hook": _HOOKS[hook],
            "source": source,
            "destination": address_text(family, destination_bytes),
            "protocol": protocol,
            "source_port": source_port,
            "destination_port": destination_port,
            "source_identity": naming.identity(source_tag),
            "destination_identity": naming.identity(destination_tag),
            "source_tag": source_tag,
            "destination_tag": destination_tag,
            "rule": naming.rule(epoch, rule) if rule else None,
            "packets": packets,
            "length": octets,
            "began_at": rfc3339(naming.clock_ns + began_ns) if flags > 1 else None,
            "peer_node_id": peer[0] if peer else None,
            "peer_client_id": peer[1] if peer else None,
        }


_VERDICTS = {int(verdict): verdict.word for verdict in Verdict}
_HOOKS = {int(hook): hook.word for hook in Hook}


@lru_cache(maxsize=4096)
def address_text(family: int, data: bytes) -> str:
    """The address in DATA, 16 bytes; `::` of a packet that could not be parsed."""
    if family == 4:
        return str(IPv4Address(data[:4]))
    return str(IPv6Address(data)) if family == 6 else NO_ADDRESS


@lru_cache(maxsize=256)
def _to_the_second(unix_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_s))


def rfc3339(unix_ns: int) -> str:
    """UTC with microseconds: 2026-01-31T12:00:00.000000Z."""
    seconds, rest_ns = divmod(unix_ns, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{rest_ns // 1000:06d}Z"
