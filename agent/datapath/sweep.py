"""Passes over the flow table: what the log is told of flows, and which entries are forgotten.

A flow's first packet is the programs' to tell. A pass tells of each flow what it has counted since
it was told of last, and takes out of the table the flows that are over, once it has told of their
end: whoever is killed in between leaves that to a successor. To the programs such an entry is as
good as none: nobody adds to it any more, so what it says are the flow's sums, exactly, and that it
is gone changes nothing for a packet.

Between the reading and the taking a packet may begin the flow anew. What was taken out is then put
back at once. A packet that comes within these microseconds is judged like the first of a flow; a
reply to what this node sent may be dropped for that, where no rule would have let it in by itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress, islice, repeat
from operator import ne
from typing import Protocol

from agent.abi import EventFlag, Flow
from agent.datapath import flowrows
from agent.datapath.flowrows import (
    KEY_SIZE,
    NEWBORN,
    NOTHING,
    VALUE_SIZE,
    Row,
    column,
    is_same_flow,
)
from agent.datapath.libbpf import library
from agent.datapath.maps import BpfMap

TAKEN_MAX = 8192  # entries that one pass takes out, a system call for each
CHUNK = 4096  # flows that are made records of at once
_NOEXIST = 1  # BPF_NOEXIST
Entry = tuple[bytes, bytes]
"""Key and value."""


class FlowTable(Protocol):
    """zt_flows, or a stand-in."""

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of all entries, so many at a time."""

    def take(self, key: bytes) -> bytes | None:
        """Remove the entry at KEY in one step, and give what it was."""

    def put_back(self, key: bytes, value: bytes) -> bool:
        """Make the entry again; False where there is one already."""


class KernelFlows:
    """The map itself."""

    def __init__(self, flows: BpfMap) -> None:
        self._flows = flows

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        for count, keys, values in self._flows.batches():
            yield keys[: count * KEY_SIZE], values[: count * VALUE_SIZE]

    def take(self, key: bytes) -> bytes | None:
        value = ctypes.create_string_buffer(VALUE_SIZE)
        # Of an LRU hash since 5.14; a plain deletion could not tell what it deleted.
        result = library().bpf_map_lookup_and_delete_elem(self._flows.fd, key, value)
        return value.raw if _is_done(result, errno.ENOENT) else None

    def put_back(self, key: bytes, value: bytes) -> bool:
        result = library().bpf_map_update_elem(self._flows.fd, key, value, _NOEXIST)
        return _is_done(result, errno.EEXIST)


def _is_done(result: int, refusal: int) -> bool:
    if result not in (0, -refusal):
        raise OSError(-result, f"{os.strerror(-result)}: zt_flows")
    return result == 0


class FlowSweep:
    """What was told of each flow, and so what there is to tell; for one thread."""

    def __init__(
        self, table: FlowTable, *, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._table, self._clock_ns = table, clock_ns
        self._known: dict[bytes, bytes] = {}  # all flows, as the last pass found them
        # Those of which there was no room to tell, who waits longest first.
        self._owed: dict[bytes, None] = {}

    def tidy(self) -> None:
        """A pass that tells nothing; the next one knows of no flow."""
        self._known, self._owed = {}, {}
        now_ns = self._clock_ns()
        idle = chain.from_iterable(_idle(*batch, now_ns) for batch in self._table.batches())
        self._take_out(list(islice(idle, TAKEN_MAX)))

    def records(self, room: Callable[[], int]) -> Iterator[bytearray]:
        """A pass that tells, packed (struct zt_event): of flows that are over, and then of those
        that live, as many records as ROOM says are welcome. The others are told of by the next
        pass: nothing is lost by that, because it is sums that are told."""
        now_ns = self._clock_ns()
        found = _Found()
        for keys, values in self._table.batches():
            found.idle += _idle(keys, values, now_ns)
            self._compare(keys, values, found)
        # Only now that all was read is anything remembered.
        self._known.update((key, value) for key, value, _ in found.changed)
        if len(self._known) > len(found.keys):
            gone = self._known.keys() - set(found.keys)
            found.over += [(key, self._known.pop(key)) for key in gone]
        yield from _ends(found.over)
        for start in range(0, min(len(found.idle), TAKEN_MAX), CHUNK):
            part = found.idle[start : min(start + CHUNK, TAKEN_MAX)]
            yield from _ends(part)
            yield from _ends(self._take_out(part))
        if found.idle:
            ending = {key for key, _ in found.idle}
            found.changed = [row for row in found.changed if row[0] not in ending]
        yield from self._updates(found.changed, room)

    def _compare(self, keys: bytes, values: bytes, found: _Found) -> None:
        """Take note of one batch in FOUND."""
        each = list(_parts(keys, KEY_SIZE)), list(_parts(values, VALUE_SIZE))
        known = list(map(self._known.get, each[0], repeat(NEWBORN)))
        found.keys += each[0]
        begun = (column(data, Flow, "created_ns", "Q") for data in (values, b"".join(known)))
        for i in compress(range(len(known)), map(ne, *begun)):
            if known[i] is not NEWBORN:
                found.over.append((each[0][i], known[i]))
                known[i] = NEWBORN
        if self._owed:
            both = zip(each[0], known, strict=True)
            known = [NOTHING if key in self._owed else value for key, value in both]
        found.changed += compress(zip(*each, known, strict=True), map(ne, each[1], known))

    def _take_out(self, idle: Sequence[Entry]) -> list[Entry]:
        """Take the IDLE flows out of the table; what else came to its end by that."""
        displaced = []
        for key, value in idle:
            taken = self._table.take(key)
            self._known.pop(key, None)
            if taken is None or is_same_flow(taken, value):
                continue
            if not self._table.put_back(key, taken):
                displaced.append((key, taken))
        return displaced

    def _updates(self, changed: Sequence[Row], room: Callable[[], int]) -> Iterator[bytearray]:
        """Records of the CHANGED flows as far as there is ROOM."""
        waiting = changed
        if self._owed:
            rows = {row[0]: row for row in changed}
            waiting = [rows.pop(key) for key in self._owed if key in rows] + list(rows.values())
        told = 0
        while told < len(waiting) and (flows := min(CHUNK, room() // 2)) > 0:
            made = flowrows.records(waiting[told : told + flows], EventFlag.UPDATE)
            told += flows
            if made:
                yield made
        self._owed = {key: None for key, _, _ in waiting[told:]}


@dataclass(slots=True)
class _Found:
    """What a pass found; over, idle: flows that were replaced, and that shall be taken out."""

    keys: list[bytes] = field(default_factory=list)
    changed: list[Row] = field(default_factory=list)
    over: list[Entry] = field(default_factory=list)
    idle: list[Entry] = field(default_factory=list)


def _ends(entries: Sequence[Entry]) -> Iterator[bytearray]:
    for start in range(0, len(entries), CHUNK):
        rows = [(key, value, NOTHING) for key, value in entries[start : start + CHUNK]]
        yield flowrows.records(rows, EventFlag.END)


def _idle(keys: bytes, values: bytes, now_ns: int) -> Iterator[Entry]:
    for i in flowrows.expired(keys, values, now_ns):
        yield keys[i * KEY_SIZE : (i + 1) * KEY_SIZE], values[i * VALUE_SIZE : (i + 1) * VALUE_SIZE]


def _parts(data: bytes, size: int) -> Iterator[bytes]:
    return chain.from_iterable(struct.iter_unpack(f"{size}s", data))
