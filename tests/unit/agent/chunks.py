"""Events in chunks, for the tests of what becomes of them."""

from __future__ import annotations

import sys
from collections.abc import Callable

from agent.events import Chunk, Names, Naming, body
from tests.unit.batches import record
from ztlab.model.logbatch import SIZE

EVENT = {
    "at": "2026-01-31T12:00:00.000000Z",
    "kind": "flow",
    "verdict": "no_rule",
    "hook": "ingress",
    "source": "10.0.0.2",
    "destination": "10.0.0.1",
    "protocol": 6,
    "source_tag": 3,
    "destination_tag": 2,
}
RECORD = record(EVENT, sys.byteorder)
assert len(RECORD) == SIZE
NAMING = Naming(0, Names().table, ((0, ()),))


def chunk(count: int, naming: Naming = NAMING) -> Chunk:
    return Chunk(bytearray(RECORD * count), naming)


def of_bodies(push: Callable[[bytes], object]) -> Callable[[Chunk], int]:
    """PUSH, of a batch's body, as a sink's: it takes all or, if it raises, none."""

    def taken(batch: Chunk) -> int:
        push(body(batch))
        return len(batch)

    return taken
