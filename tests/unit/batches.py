"""Batches of log events for tests, written from the Events that shall be read in them."""

from __future__ import annotations

import struct
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from ztlab.model import logbatch
from ztlab.model.logbatch import Head, PeerName, RuleName, TagName
from ztlab.model.verdict import Hook, Verdict

KINDS = {word: bits for bits, word in logbatch.KINDS.items()}
EPOCH = 7  # of every rule


def record(event: Mapping[str, Any], order: str = sys.byteorder) -> bytes:
    """EVENT packed; times count from 1970."""
    source, destination = ip_address(event["source"]), ip_address(event["destination"])
    is_parsable = event["source"] != logbatch.NO_ADDRESS
    return struct.pack(
        ("<" if order == "little" else ">") + "4Q16s16s4I2H8B4x",
        _ns(event["at"]),
        _ns(event.get("began_at") or event["at"]),
        event.get("packets", 1),
        event.get("length", 0),
        source.packed.ljust(16, b"\0"),
        destination.packed.ljust(16, b"\0"),
        event.get("source_tag", 0),
        event.get("destination_tag", 0),
        1 if event.get("rule") else 0,
        EPOCH if event.get("rule") else 0,
        event.get("source_port", 0),
        event.get("destination_port", 0),
        source.version if is_parsable else 0,
        event["protocol"],
        Verdict.from_word(event["verdict"]),
        Hook[event["hook"].upper()],
        0,
        0,
        0,
        KINDS[event["kind"]],
    )


def head(*events: Mapping[str, Any], **changed: Any) -> Head:
    """What goes before EVENTS in a batch; they share one rule."""
    tags = {
        e[f"{end}_tag"]: e[f"{end}_identity"] for e in events for end in ("source", "destination")
    }
    peers = {
        e["source"]: PeerName(
            address=e["source"], node_id=e["peer_node_id"], client_id=e["peer_client_id"]
        )
        for e in events
        if e.get("peer_node_id")
    }
    rules = {e["rule"] for e in events if e.get("rule")}
    assert len(rules) <= 1
    fields: dict[str, Any] = {
        "batch_id": str(uuid.uuid4()),
        "layout": logbatch.LAYOUT,
        "byte_order": sys.byteorder,
        "count": len(events),
        "clock_ns": 0,
        "tags": tuple(TagName(tag=tag, name=name) for tag, name in tags.items() if name),
        "rules": tuple(RuleName(epoch=EPOCH, rule=1, id=rule) for rule in rules),
        "peers": tuple(peers.values()),
    }
    return Head(**{**fields, **changed})


def packed(*events: Mapping[str, Any], **changed: Any) -> bytes:
    """The body of a batch of EVENTS; CHANGED in its head."""
    made = head(*events, **changed)
    records = b"".join(record(event, made.byte_order) for event in events)
    return logbatch.pack(made, records)


def _ns(text: str) -> int:
    since = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1) * 1000
