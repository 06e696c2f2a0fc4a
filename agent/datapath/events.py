"""Events: the ring buffer, read through its mapped pages, and its records decoded.

The layout is the kernel's (kernel/bpf/ringbuf.c): a consumer page, a producer page, then the data
twice in a row, so that no record is ever cut in two. Each record has a header of 8 bytes: its
length with a busy and a discard bit, and a page offset that is only the kernel's.
"""

from __future__ import annotations

import ctypes
import mmap
import select
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from agent import abi
from agent.abi import EventFlag, IPAddress
from ztlab.model.verdict import Hook, Verdict

_BUSY, _DISCARD = 1 << 31, 1 << 30
_HEADER = 8
_LAYOUT = struct.Struct("=Q16s16s6I2H8B4x")
_SIZE = ctypes.sizeof(abi.Event)
assert _LAYOUT.size == _SIZE
_BATCH = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathEvent:
    """What became of one packet.

    unix_ns           when, in nanoseconds since 1970
    source, destination  None where the packet was not parsable
    protocol          IP protocol number
    source_port, destination_port  0 where the protocol has none
    source_tag, destination_tag    0: nobody's
    rule              id of the rule that decided; None: the default, or nobody judged it here
    packets, length   a GSO packet counts as its segments; bytes of these, from the IP header on
    tcp_flags, icmp_type, icmp_code  0 for other protocols
    is_first          the first packet of a flow, or a denial; False only with packet granularity
    """

    unix_ns: int
    verdict: Verdict
    hook: Hook
    source: IPAddress | None
    destination: IPAddress | None
    protocol: int
    source_port: int
    destination_port: int
    source_tag: int
    destination_tag: int
    rule: str | None
    packets: int
    length: int
    tcp_flags: int
    icmp_type: int
    icmp_code: int
    is_first: bool


@lru_cache(maxsize=4096)
def _address(family: int, data: bytes) -> IPAddress | None:
    return abi.unpack_address(family, data)


def decode(
    record: bytes, *, boot_ns: int, rule_name: Callable[[int, int], str | None]
) -> DatapathEvent:
    """The event in RECORD; ValueError where it is none.

    boot_ns    Unix time of the monotonic clock's zero, in nanoseconds
    rule_name  (epoch, index + 1) to the rule's id
    """
    if len(record) != _SIZE:
        raise ValueError(f"want an event of {_SIZE} bytes, got {len(record)}")
    (
        at_ns,
        source,
        destination,
        source_tag,
        destination_tag,
        rule,
        epoch,
        packets,
        length,
        source_port,
        destination_port,
        family,
        protocol,
        verdict,
        hook,
        tcp_flags,
        icmp_type,
        icmp_code,
        flags,
    ) = _LAYOUT.unpack(record)
    return DatapathEvent(
        unix_ns=boot_ns + at_ns,
        verdict=Verdict(verdict),
        hook=Hook(hook),
        source=_address(family, source),
        destination=_address(family, destination),
        protocol=protocol,
        source_port=source_port,
        destination_port=destination_port,
        source_tag=source_tag,
        destination_tag=destination_tag,
        rule=rule_name(epoch, rule) if rule else None,
        packets=packets,
        length=length,
        tcp_flags=tcp_flags,
        icmp_type=icmp_type,
        icmp_code=icmp_code,
        is_first=bool(flags & EventFlag.FIRST),
    )


def boot_time_ns() -> int:
    """Unix time of the monotonic clock's zero; it moves when the wall clock is set."""
    return time.time_ns() - time.monotonic_ns()


class EventRing:
    """The consumer's end of the ring: one reader only."""

    def __init__(self, fd: int, size: int) -> None:
        """FD is the map's, SIZE its bytes of data."""
        page = mmap.PAGESIZE
        self._mask = size - 1
        self._consumer = mmap.mmap(fd, page)
        self._producer = mmap.mmap(fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)
        self._position = ctypes.c_uint64.from_buffer(self._consumer)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def read(self, timeout_ms: int) -> list[bytes]:
        """Records that are there, at most 16,384; waits up to TIMEOUT_MS for the first."""
        records = self._drain()
        if records or not self._poll.poll(timeout_ms):
            return records
        return self._drain()

    def _drain(self) -> list[bytes]:
        """The kernel stores a record before its header, and its header before its position; each of
        these is read here in a separate step, long after the one before."""
        records: list[bytes] = []
        position = self._position.value
        (end,) = struct.unpack_from("=Q", self._producer, 0)
        while position < end and len(records) < _BATCH:
            at = mmap.PAGESIZE + (position & self._mask)
            (header,) = struct.unpack_from("=I", self._producer, at)
            if header & _BUSY:
                break
            length = header & ~_DISCARD
            if not header & _DISCARD:
                start = at + _HEADER
                records.append(self._producer[start : start + length])
            position += (length + _HEADER + 7) // 8 * 8
        self._position.value = position
        return records

    def close(self) -> None:
        """Unmap the pages; the ring stays."""
        del self._position
        self._consumer.close()
        self._producer.close()
