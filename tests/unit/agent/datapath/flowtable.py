"""Flows for the tests of what is said of them, and a table of them without a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

from agent import abi
from agent.abi import Flow, FlowFlag, FlowKey, Origin
from agent.datapath.flowrows import KEY_SIZE, VALUE_SIZE
from ztlab.model.verdict import Verdict

NOW_NS = 10**15
JUDGED = 9 << abi.JUDGED_EPOCH_SHIFT | 5 << abi.JUDGED_RULE_SHIFT | Verdict.ALLOWED


def key(low: str = "10.0.0.1", high: str = "10.0.0.2", **fields: Any) -> bytes:
    """By default a TCP connection of 10.0.0.1:40000 and 10.0.0.2:8080."""
    values = {"low_port": 40000, "high_port": 8080, "protocol": 6, **fields}
    ends = {
        name: tuple(abi.pack_address(ip_address(text)))
        for name, text in (("low", low), ("high", high))
    }
    return bytes(FlowKey(**ends, family=ip_address(low).version, **values))


def flow(**fields: Any) -> bytes:
    """By default begun by the low end out of the tunnel, allowed, of 3 packets and 2 replies."""
    values = {
        "created_ns": NOW_NS - 5 * 10**9,
        "last_ns": NOW_NS - 10**9,
        "judged": JUDGED,
        "packets": (3, 2),
        "bytes": (300, 2000),
        "source_tag": 17,
        "destination_tag": 23,
        "origin": Origin.TUNNEL,
        "flags": FlowFlag(0),
    }
    return bytes(Flow(**(values | fields)))


def counted(value: bytes, packets: tuple[int, int], **fields: Any) -> bytes:
    """VALUE with so many more packets of 100 bytes, just now."""
    made = Flow.from_buffer_copy(value)
    for way, more in enumerate(packets):
        made.packets[way] += more
        made.bytes[way] += 100 * more
    made.last_ns = NOW_NS
    for name, field in fields.items():
        setattr(made, name, field)
    return bytes(made)


class Table:
    """zt_flows in a dict; `meanwhile` happens between the reading of an entry and its taking."""

    def __init__(self, *entries: tuple[bytes, bytes]) -> None:
        self.entries = dict(entries)
        self.meanwhile: Callable[[bytes], None] = lambda key: None
        self.after: Callable[[bytes], None] = lambda key: None

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """Three entries at a time."""
        keys = list(self.entries)
        for start in range(0, len(keys), 3):
            part = keys[start : start + 3]
            yield b"".join(part), b"".join(self.entries[key] for key in part)

    def take(self, key: bytes) -> bytes | None:
        self.meanwhile(key)
        found = self.entries.pop(key, None)
        self.after(key)
        return found

    def put_back(self, key: bytes, value: bytes) -> bool:
        assert (len(key), len(value)) == (KEY_SIZE, VALUE_SIZE)
        return self.entries.setdefault(key, value) is value
