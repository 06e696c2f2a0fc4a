"""The event rings, one for each CPU: made here, and read through their mapped pages in batches.

The layout is the kernel's (kernel/bpf/ringbuf.c): a consumer page, a producer page, then the data.
Each record has a header of 8 bytes: its length with a busy and a discard bit, and a page offset
that is only the kernel's. Events are records of one size, so that a run of them is checked, and
taken out from between their headers, by a few strided copies, without any work per event in Python.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from agent import abi
from agent.datapath.libbpf import library, possible_cpus
from agent.datapath.loaded import Loaded, Wanted
from ztlab.errors import HostUnfit

NAME = "zt_ring_"  # and the number of its CPU

_RINGBUF = 27  # BPF_MAP_TYPE_RINGBUF
_BUSY, _DISCARD = 1 << 31, 1 << 30
_HEADER = 8
SIZE = ctypes.sizeof(abi.Event)
STRIDE = _HEADER + SIZE  # both are multiples of 8, to which the kernel rounds up
_LENGTH = struct.pack("=I", SIZE)


def furnished(loaded: Loaded, wanted: Wanted) -> Loaded:
    """LOADED with a ring for every CPU that has none yet, under `zt_ring_<CPU>` among its maps."""
    made: dict[str, int] = {}
    with ExitStack() as undo:
        for cpu in range(possible_cpus()):
            name = f"{NAME}{cpu}"
            if name not in loaded.maps:
                made[name] = _made(name, wanted.ring_bytes())
                undo.callback(os.close, made[name])
                _put(loaded.maps[abi.RINGS], cpu, made[name])
        undo.callback(loaded.release)
        release = undo.pop_all().close
    return replace(loaded, maps={**loaded.maps, **made}, release=release)


def kept(loaded: Loaded, maps: Mapping[str, int]) -> Loaded:
    """LOADED, whose array of rings is the one among MAPS, with the rings that are in it."""
    copies: dict[str, int] = {}
    with ExitStack() as undo:
        for name, fd in maps.items():
            if is_ring(name):
                copies[name] = os.dup(fd)
                undo.callback(os.close, copies[name])
        undo.callback(loaded.release)
        release = undo.pop_all().close
    return replace(loaded, maps={**loaded.maps, **copies}, release=release)


def _made(name: str, size: int) -> int:
    fd = int(library().bpf_map_create(_RINGBUF, name.encode(), 0, 0, size, None))
    if fd < 0:
        raise HostUnfit(
            f"cannot make an event ring of {size} bytes: {os.strerror(-fd)}",
            hint="it needs CAP_BPF, and a kernel of 5.8 or newer",
        )
    return fd


def _put(rings: int, cpu: int, ring: int) -> None:
    key, value = ctypes.c_uint32(cpu), ctypes.c_uint32(ring)
    result = library().bpf_map_update_elem(rings, ctypes.byref(key), ctypes.byref(value), 0)
    if result < 0:
        raise HostUnfit(f"cannot use the event ring of CPU {cpu}: {os.strerror(-result)}")


class EventRings:
    """The consumer's end of all rings: one reader only.

    odd  records so far whose length is not an event's: passed over
    """

    def __init__(self, maps: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        """MAPS: file descriptors by name, of which the rings' are used; SIZES: their bytes."""
        names = sorted((name for name in maps if name.startswith(NAME)), key=_cpu_of)
        self._rings = [EventRing(maps[name], sizes[name]) for name in names]
        self._poll = select.poll()
        for name in names:
            self._poll.register(maps[name], select.POLLIN)

    def read(self, timeout_ms: int) -> list[bytearray]:
        """What is there: events behind one another, a string for each CPU that had any.

        Waits up to TIMEOUT_MS for the first.
        """
        found = self._drain()
        if found or not self._poll.poll(timeout_ms):
            return found
        return self._drain()

    def _drain(self) -> list[bytearray]:
        return [records for ring in self._rings if (records := ring.drain())]

    @property
    def odd(self) -> int:
        return sum(ring.odd for ring in self._rings)

    @property
    def consumed(self) -> int:
        """Events ever taken out of these rings, by whomever: the kernel keeps the positions."""
        return sum(ring.position for ring in self._rings) // STRIDE

    def close(self) -> None:
        """Unmap the pages; the rings stay."""
        for ring in self._rings:
            ring.close()


def is_ring(name: str) -> bool:
    """Is the map called NAME the ring of one CPU?"""
    return name.startswith(NAME)


def _cpu_of(name: str) -> int:
    return int(name.removeprefix(NAME))


class EventRing:
    """One ring. Its data is mapped once, not twice in a row as the kernel offers: half the memory,
    and what lies across the end is put together here."""

    def __init__(self, fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        self._size, self._mask = size, size - 1
        self._consumer = mmap.mmap(fd, page)
        self._producer = mmap.mmap(fd, page + size, prot=mmap.PROT_READ, offset=page)
        self._position = ctypes.c_uint64.from_buffer(self._consumer)
        self._view = memoryview(self._producer)
        self._data = self._view[page:]
        self._words = self._data.cast("I")
        self.odd = 0

    @property
    def position(self) -> int:
        """Bytes ever taken out of the ring, headers included."""
        return self._position.value

    def drain(self) -> bytearray:
        """All events that are complete, in order.

        The kernel stores a record before its header, and its header before its position; each of
        these is read here in a separate step, long after the one before.
        """
        events = bytearray()
        position = self._position.value
        (end,) = struct.unpack_from("=Q", self._producer, 0)
        while position < end:
            count = self._run(position, (end - position) // STRIDE)
            if count:
                run = _without_headers(self._copy(position, count * STRIDE))
                events = events + run if events else run
                position += count * STRIDE
                continue
            header = self._words[(position & self._mask) // 4]
            if header & _BUSY:
                break
            self.odd += not header & _DISCARD
            position += ((header & ~_DISCARD) + _HEADER + 7) // 8 * 8
        self._position.value = position
        return events

    def _run(self, position: int, count: int) -> int:
        """How many of the next COUNT records are complete events, up to the first that is not."""
        start = position & self._mask
        before_end = min(count, -(-(self._size - start) // STRIDE))
        again = (start + before_end * STRIDE) & self._mask
        headers = self._headers(start, before_end) + self._headers(again, count - before_end)
        if headers == _LENGTH * count:
            return count
        low, high = 0, count  # the first LOW are, the first HIGH are not
        while high - low > 1:
            middle = (low + high) // 2
            if headers[: 4 * middle] == _LENGTH * middle:
                low = middle
            else:
                high = middle
        return low

    def _headers(self, start: int, count: int) -> bytes:
        first = start // 4
        return self._words[first : first + count * STRIDE // 4 : STRIDE // 4].tobytes()

    def _copy(self, position: int, length: int) -> bytearray:
        start = position & self._mask
        copy = bytearray(self._data[start : start + length])
        if len(copy) < length:
            copy += self._data[: length - len(copy)]
        return copy

    def close(self) -> None:
        """Unmap the pages; the ring stays."""
        del self._position
        for view in (self._words, self._data, self._view):
            view.release()
        self._consumer.close()
        self._producer.close()


def _without_headers(records: bytearray) -> bytearray:
    """The events in RECORDS, each of which has its header; RECORDS is taken apart.

    A slice with a step is deleted in one pass of moves: three times as fast as copying the columns.
    """
    for gone in range(_HEADER):
        del records[:: STRIDE - gone]
    return records
