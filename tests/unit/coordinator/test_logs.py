"""Each field of a log event is checked by name; what the codec would do slowly is done by table."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from coordinator import logs
from coordinator.logs import BatchBody
from ztlab.errors import SchemaError
from ztlab.model import codec
from ztlab.model.verdict import Verdict

LEAST: dict[str, Any] = {
    "at": "2026-01-31T12:00:00.5+01:00",
    "kind": "flow",
    "verdict": "allowed",
    "hook": "egress",
    "source": "fd77::1",
    "destination": "10.77.0.2",
    "protocol": 58,
}


def faults(event: Any, i: int) -> list[str]:
    return list(logs.event_faults(event, i))


def test_what_is_not_known_of_an_event_may_be_left_out_or_null() -> None:
    assert faults(LEAST, 0) == []
    optional = dict.fromkeys(logs._CHECKS.keys() - LEAST.keys())
    assert faults({**LEAST, **optional}, 0) == []


@pytest.mark.parametrize("verdict", [v.word for v in Verdict])
def test_every_verdict_of_the_data_plane_is_known(verdict: str) -> None:
    assert faults({**LEAST, "verdict": verdict}, 0) == []


@pytest.mark.parametrize("key", LEAST)
def test_what_is_required_is_missed_by_name(key: str) -> None:
    event = {k: v for k, v in LEAST.items() if k != key}
    assert faults(event, 3) == [f"events[3].{key}: missing"]
    assert len(faults({**LEAST, key: None}, 0)) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("at", "2026-01-31T12:00:00"),
        ("at", 5),
        ("at", "0001-01-01T00:00:00+23:59"),
        ("kind", "banana"),
        ("verdict", "NO_RULE"),
        ("hook", "both"),
        ("source", "10.77.0"),
        ("source", 1),
        ("source", "fe80::1%eth0"),
        ("protocol", 256),
        ("protocol", True),
        ("source_port", 65536),
        ("source_tag", 2**24),
        ("rule", ""),
        ("source_identity", "x" * 65),
        ("length", -1),
        ("verdct", "allowed"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: Any) -> None:
    (line,) = faults({**LEAST, key: value}, 0)
    assert line.startswith(f"events[0].{key}: ")


@pytest.mark.parametrize("event", [None, [], "x"])
def test_what_is_no_event_is_named(event: Any) -> None:
    assert faults(event, 0)[0].startswith("events[0]: want a mapping")


def test_no_more_faults_are_looked_for_than_are_told() -> None:
    looked_at = 0

    class Event(dict[str, Any]):
        def items(self) -> Any:
            nonlocal looked_at
            for item in super().items():
                looked_at += 1
                yield item

    event = Event({f"key{i}": 0 for i in range(1000)})
    assert len(list(islice(logs.event_faults(event, 0), logs.MAX_FAULTS))) == logs.MAX_FAULTS
    assert looked_at == logs.MAX_FAULTS


def test_a_batch_is_bounded_and_named_by_a_uuid() -> None:
    batch = "0b3b2f6e-0a38-4c58-8b0c-2f3f7a3f8f1a"
    codec.decode(BatchBody, {"batch_id": batch, "events": [LEAST] * 5000})
    for wrong in (
        {"batch_id": batch, "events": [LEAST] * 5001},
        {"batch_id": batch.upper(), "events": []},
        {"batch_id": "1", "events": []},
    ):
        with pytest.raises(SchemaError):
            codec.decode(BatchBody, wrong)
