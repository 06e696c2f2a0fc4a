"""A batch of packed log events: what goes in comes out, and what is no batch is told why."""

from __future__ import annotations

import ctypes
import json
import struct
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import abi
from tests.unit.batches import head, packed, record
from ztlab.errors import SchemaError
from ztlab.model import codec, logbatch
from ztlab.model.logbatch import MAX_EVENTS, OFFSETS, SIZE
from ztlab.model.verdict import Hook, Verdict

EVENT: dict[str, Any] = {
    "at": "2026-01-31T12:00:00.123456Z",
    "kind": "flow",
    "verdict": "deny_rule",
    "hook": "ingress",
    "source": "10.77.0.3",
    "destination": "fd77::2",
    "protocol": 6,
    "source_port": 43210,
    "destination_port": 8080,
    "source_identity": "guest",
    "destination_identity": "api",
    "source_tag": 4,
    "destination_tag": 2**24 - 1,
    "rule": "web-to-api",
    "packets": 3,
    "length": 2**40,
    "began_at": None,
    "peer_node_id": "carol",
    "peer_client_id": "c",
}
UPDATE = {**EVENT, "kind": "update", "began_at": "2026-01-31T11:59:00.000000Z", "rule": None}
NOBODY = {
    **dict.fromkeys(EVENT),
    **{"at": EVENT["at"], "kind": "packet", "verdict": "malformed", "hook": "egress"},
    **{"source": "::", "destination": "::", "protocol": 0, "source_port": 0},
    **{"destination_port": 0, "source_tag": 0, "destination_tag": 0, "packets": 1, "length": 9},
}
EVENTS = [
    {**EVENT, "source": "fd77::3"},
    {**UPDATE, "source": "fd77::3"},
    {**EVENT, "destination": "10.77.0.2"},
    NOBODY,
]


def same_family(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "destination": "10.77.0.2"}


def faults(body: bytes) -> list[str]:
    with pytest.raises(SchemaError) as caught:
        logbatch.unpack(body)
    return list(caught.value.problems)


@pytest.mark.parametrize("order", ["little", "big"])
def test_what_goes_in_comes_out_whatever_machine_packed_it(order: str) -> None:
    found, records = logbatch.unpack(packed(*EVENTS, byte_order=order))
    assert list(logbatch.documents(records, found, found.byte_order)) == EVENTS


def test_a_record_is_the_kernels_event() -> None:
    assert ctypes.sizeof(abi.Event) == SIZE
    assert {f[0]: getattr(abi.Event, f[0]).offset for f in abi.Event._fields_ if f[0] != "pad"} == (
        OFFSETS
    )
    assert set(logbatch.KINDS) == {0, *map(int, abi.EventFlag)}


def test_a_head_is_written_as_the_codec_would() -> None:
    made = head(same_family(EVENT), UPDATE)
    body = logbatch.pack(made, b"")
    assert json.loads(body[4:]) == codec.encode(made)
    assert made.tags and made.rules and made.peers


def test_times_count_from_where_the_head_says() -> None:
    event = same_family({**EVENT, "at": "1970-01-01T00:00:01.000000Z"})
    body = packed(event, clock_ns=1_769_860_800 * 10**9)
    found, records = logbatch.unpack(body)
    assert next(logbatch.documents(records, found))["at"] == "2026-01-31T12:00:01.000000Z"


def test_what_the_head_does_not_name_has_no_name() -> None:
    found, records = logbatch.unpack(packed(same_family(EVENT), tags=(), rules=(), peers=()))
    (event,) = logbatch.documents(records, found)
    nameless = ("source_identity", "destination_identity", "rule", "peer_node_id", "peer_client_id")
    assert all(event[key] is None for key in nameless)


@pytest.mark.parametrize(
    ("name", "byte", "value"),
    [
        ("verdict", 0, 99),
        ("hook", 0, 2),
        ("family", 0, 5),
        ("flags", 0, 3),
        ("source_tag", 3, 1),
        ("destination_tag", 3, 255),
        ("rule", 3, 1),
    ],
)
def test_a_record_that_cannot_be_is_named(name: str, byte: int, value: int) -> None:
    event = same_family(EVENT)
    body = bytearray(packed(event, event, event, byte_order="little"))
    body[len(body) - SIZE + OFFSETS[name] + byte] = value
    assert faults(bytes(body)) == [f"records[2].{name}: {value} is none that is known"]
    if sys.byteorder == "little":
        assert logbatch.faulty(body[-3 * SIZE :]) == [2]


def test_sound_records_are_sound() -> None:
    records = [
        record({**same_family(EVENT), "verdict": verdict.word, "hook": hook.word, "kind": kind})
        for verdict in Verdict
        for hook in Hook
        for kind in logbatch.KINDS.values()
    ]
    assert logbatch.faulty(b"".join(records)) == []
    assert logbatch.faulty(b"") == []


def test_a_time_that_no_calendar_has_is_refused() -> None:
    event, last_ns = same_family(EVENT), 253_402_300_800 * 10**9 - 1
    assert "year 9999" in faults(packed(event, clock_ns=last_ns))[0]
    logbatch.unpack(packed({**event, "at": "1970-01-01T00:00:00.000000Z"}, clock_ns=last_ns))


@pytest.mark.parametrize(
    "changed",
    [
        {"batch_id": "1"},
        {"batch_id": "0B3B2F6E-0A38-4C58-8B0C-2F3F7A3F8F1A"},
        {"layout": 2},
        {"byte_order": "middle"},
        {"count": 2},
        {"count": -1},
        {"count": MAX_EVENTS + 1},
        {"clock_ns": -1},
        {"clock_ns": 10**21},
        {"tags": [{"tag": 2**24, "name": "x"}]},
        {"tags": [{"tag": 2, "name": ""}]},
        {"rules": [{"epoch": 1, "rule": 1, "id": "x" * 65}]},
        {"peers": [{"address": "fe80::1%eth0", "node_id": "n", "client_id": "c"}]},
        {"peers": [{"address": "10.0.0.256", "node_id": "n", "client_id": "c"}]},
        {"more": 1},
    ],
)
def test_a_head_that_is_wrong_is_refused(changed: dict[str, Any]) -> None:
    good = packed(same_family(EVENT))
    (length,) = struct.unpack_from(">I", good)
    text = json.dumps({**json.loads(good[4 : 4 + length]), **changed}).encode()
    assert faults(struct.pack(">I", len(text)) + text + good[4 + length :])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\2{}",
        b"\0\0\0\2[]",
        b"\0\0\0\1{",
        b"\0\0\0\4\xff\xfe{}",
        struct.pack(">I", 5000) + b"[" * 5000,
    ],
)
def test_what_is_no_batch_is_refused(body: bytes) -> None:
    assert faults(body)


def test_records_that_are_cut_are_refused() -> None:
    assert "records: want 1 records" in faults(packed(same_family(EVENT))[:-1])[0]


@given(st.binary(max_size=300))
def test_nothing_but_a_fault_comes_of_noise(noise: bytes) -> None:
    assert faults(noise)


@given(st.binary(min_size=3 * SIZE, max_size=3 * SIZE))
def test_records_of_noise_are_refused_or_become_documents(noise: bytes) -> None:
    made = head(count=3)
    try:
        found, records = logbatch.unpack(logbatch.pack(made, noise))
    except SchemaError:
        return
    assert len(list(logbatch.documents(records, found))) == 3
