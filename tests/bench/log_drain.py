"""Log events on one core: drained from the rings and decoded, and encoded into push batches.

The rings are filled by the real programs (BPF_PROG_TEST_RUN, every packet logged), drained by the
agent's own reader, which checks headers and columns and leaves packed records; the filling is not
counted. Beside it: libbpf's ring_buffer__consume with a Python callback for each event, first one
that does nothing, then one that decodes. A batch is encoded as the agent pushes it, over 1,000
sources, 200 identities and 50 rules, ten times as many as a second of an ordinary node has.

    .venv/bin/python -m tests.bench.log_drain
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
import uuid
from collections.abc import Callable
from ipaddress import IPv4Address
from itertools import cycle, islice

from agent import abi
from agent.datapath.datapath import Datapath
from agent.datapath.libbpf import library
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from agent.datapath.rings import NAME
from agent.events import Chunk, NameTable, Naming, body
from tests.bench import report
from tests.kernel import packets, testrun
from ztlab.model import logbatch
from ztlab.model.logbatch import MAX_EVENTS, OFFSETS, SIZE
from ztlab.model.verdict import AuthzMode, Hook

ROUNDS = 30
SOURCES, FIRST = 1000, int(IPv4Address("10.77.0.0"))
DRAIN_BAR, ENCODE_BAR = 5.0, 1.0  # million events a second
MILLION = "M/s"
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_EVENT = struct.Struct("=4Q16s16s4I2H8B4x")


def main() -> None:
    """Measure, print, publish."""
    cpu = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    datapath = Datapath.load(
        marks=MarkLayout.from_mask(0xFF002000),
        limits=Limits(),
        l3_offset=testrun.ETHERNET,
        loader="libbpf",
    )
    datapath.set_authz_mode(AuthzMode.OBSERVE)
    datapath.set_logging(True, "packet")
    try:
        drained, called, decoded = rounds_of(datapath, cpu)
    finally:
        datapath.close()
    report.publish(
        "log_drain",
        [
            report.at_least("drained and decoded, in batches", drained, MILLION, DRAIN_BAR),
            report.beside(
                "rival: a callback each, doing nothing", called, MILLION, more_is_better=True
            ),
            report.beside(
                "rival: a callback each, decoding", decoded, MILLION, more_is_better=True
            ),
            report.at_least("encoded into push batches", encoded(), MILLION, ENCODE_BAR),
        ],
    )


def rounds_of(datapath: Datapath, cpu: int) -> tuple[list[float], list[float], list[float]]:
    """Rates of the agent's reader and of the two rivals, in turns."""
    ring = datapath._loaded.maps[f"{NAME}{cpu}"]
    packet = packets.udp(packets.WEB, packets.API, 1, 2)

    def fill() -> None:
        testrun.run(datapath.programs[Hook.INGRESS], packet, repeat=20_000)

    nothing, decoding = Rival(ring, lambda _: None), Rival(ring, _EVENT.unpack)
    fill()
    capacity = sum(len(part) for part in datapath.read_records(0)) // SIZE
    assert capacity > 4000, f"the ring took only {capacity} events"

    def drain() -> int:
        return sum(len(part) for part in datapath.read_records(0)) // SIZE

    readers: tuple[Callable[[], int], ...] = (drain, nothing.consume, decoding.consume)
    rates: tuple[list[float], ...] = ([], [], [])
    for _ in range(ROUNDS):
        for read, found in zip(readers, rates, strict=True):
            fill()
            begin = time.perf_counter()
            count = read()
            found.append(count / (time.perf_counter() - begin) / 1e6)
            assert count == capacity, f"{count} of {capacity} events came out"
    assert datapath.undecodable_events == 0
    nothing.close()
    decoding.close()
    return rates[0], rates[1], rates[2]


class Rival:
    """libbpf's consumer of one ring, with a Python function for each event."""

    def __init__(self, ring: int, handle: Callable[[bytes], object]) -> None:
        def call(_: int, data: int, size: int) -> int:
            handle(ctypes.string_at(data, size))
            return 0

        lib = library()
        lib.ring_buffer__new.restype = ctypes.c_void_p
        self._consume, self._free = lib.ring_buffer__consume, lib.ring_buffer__free
        self._consume.argtypes = self._free.argtypes = (ctypes.c_void_p,)
        self._callback = _CALLBACK(call)  # libbpf keeps only its address
        self._manager = lib.ring_buffer__new(ring, self._callback, None, None)
        assert self._manager, "libbpf takes no such ring"

    def consume(self) -> int:
        return int(self._consume(self._manager))

    def close(self) -> None:
        self._free(self._manager)


def encoded() -> list[float]:
    """Rates of encoding full batches."""
    rules = tuple(f"rule-{i}" for i in range(50))
    peers: dict[abi.IPAddress, tuple[str, str]] = {
        IPv4Address(FIRST + i): (str(uuid.uuid4()), f"{i:026}") for i in range(SOURCES)
    }
    tags = {2 + i: f"identity-{i}" for i in range(200)}
    naming = Naming(time.time_ns(), NameTable(tags, peers, ()), ((0, rules),))
    chunk = Chunk(bytearray(b"".join(islice(cycle(_records()), MAX_EVENTS))), naming)
    rates = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        made = [body(chunk) for _ in range(10)]
        rates.append(10 * MAX_EVENTS / (time.perf_counter() - begin) / 1e6)
    head, records = logbatch.unpack(made[0])
    assert (head.count, len(head.tags), len(head.rules)) == (MAX_EVENTS, 200, 50)
    assert len(head.peers) == SOURCES
    assert bytes(records) == bytes(chunk.records)
    return rates


def _records() -> list[bytes]:
    made = []
    for i in range(SOURCES):
        record = bytearray(SIZE)
        record[OFFSETS["source"] : OFFSETS["source"] + 4] = IPv4Address(FIRST + i).packed
        struct.pack_into("=2I", record, OFFSETS["source_tag"], 2 + i % 200, 2 + i % 7)
        struct.pack_into("=2I", record, OFFSETS["rule"], 1 + i % 50, 9)
        record[OFFSETS["family"]], record[OFFSETS["verdict"]] = 4, 1
        made.append(bytes(record))
    return made


if __name__ == "__main__":
    main()
