"""The reader of a ring, on memory that is laid out as the kernel's ring is."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.datapath.rings import SIZE, STRIDE, EventRing

PAGE = mmap.PAGESIZE
BUSY, DISCARD = 1 << 31, 1 << 30


class Kernel:
    """The producer's end: one page of data, records as the kernel leaves them."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 3 * PAGE)
        self.memory = mmap.mmap(self.fd, 3 * PAGE)
        self.produced = 0

    def emit(self, length: int, content: bytes, bits: int = 0) -> bool:
        """False where there is no room."""
        taken = (length + 8 + 7) // 8 * 8
        (consumed,) = struct.unpack_from("=Q", self.memory, 0)
        if self.produced + taken - consumed > PAGE - 1:
            return False
        record = struct.pack("=II", length | bits, 0xBAD) + content.ljust(taken - 8, b"\xee")
        for i, byte in enumerate(record):
            self.memory[2 * PAGE + (self.produced + i) % PAGE] = byte
        self.produced += taken
        struct.pack_into("=Q", self.memory, PAGE, self.produced)
        return True

    def commit(self, position: int) -> None:
        """The record at POSITION is no longer busy."""
        at = 2 * PAGE + position % PAGE
        (header,) = struct.unpack_from("=I", self.memory, at)
        struct.pack_into("=I", self.memory, at, header & ~BUSY)


@contextmanager
def rings() -> Iterator[tuple[Kernel, EventRing]]:
    kernel = Kernel()
    ring = EventRing(kernel.fd, PAGE)
    yield kernel, ring
    ring.close()
    kernel.memory.close()
    os.close(kernel.fd)


def event(number: int) -> bytes:
    return struct.pack("=12Q", *range(number, number + 12))


def test_events_come_out_in_order_without_their_headers_however_often_the_ring_wraps() -> None:
    with rings() as (kernel, ring):
        for start in range(0, 700, 7):
            for number in range(start, start + 7):
                assert kernel.emit(SIZE, event(number))
            assert ring.drain() == b"".join(event(n) for n in range(start, start + 7))
        assert ring.drain() == b""
        assert ring.position == 700 * STRIDE and ring.odd == 0


def test_a_full_ring_is_read_whole_and_has_room_again() -> None:
    with rings() as (kernel, ring):
        for _ in range(5):
            count = 0
            while kernel.emit(SIZE, event(count)):
                count += 1
            assert count == (PAGE - 1) // STRIDE
            assert ring.drain() == b"".join(map(event, range(count)))


@pytest.mark.parametrize("before", [0, 1, 5, 20])
def test_a_record_that_is_being_written_is_waited_for(before: int) -> None:
    with rings() as (kernel, ring):
        for number in range(before):
            kernel.emit(SIZE, event(number))
        position = kernel.produced
        kernel.emit(SIZE, event(100), BUSY)
        kernel.emit(SIZE, event(101))
        assert ring.drain() == b"".join(map(event, range(before)))
        assert ring.drain() == b""
        kernel.commit(position)
        assert ring.drain() == event(100) + event(101)


@settings(deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([SIZE] * 6 + [0, 8, SIZE - 8, SIZE + 1, 200]),
                st.sampled_from([0] * 6 + [DISCARD]),
            ),
            max_size=30,
        ),
        max_size=12,
    )
)
def test_what_is_no_event_is_passed_over_and_counted(
    rounds: list[list[tuple[int, int]]],
) -> None:
    with rings() as (kernel, ring):
        number = odd = 0
        for records in rounds:
            wanted = []
            for length, bits in records:
                number += 1
                if not kernel.emit(length, event(number)[:length], bits):
                    continue
                if length == SIZE and not bits:
                    wanted.append(event(number))
                odd += length != SIZE and not bits
            assert ring.drain() == b"".join(wanted)
            assert ring.odd == odd and ring.position == kernel.produced
