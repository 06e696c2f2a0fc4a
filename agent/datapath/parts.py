"""Counters in a plain array with a part for each CPU and half: zt_hits by slot, zt_through by hook.

bpf/zt_count.h says where: (CPU << 1 | half) * room + index, that of zt_through being verdict *
tags + tag. The array is mapped for the moment of a reading, which so costs what it touches and no
call per entry.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from agent.abi import Stats, StatsKey
from agent.datapath.libbpf import possible_cpus
from agent.datapath.maps import BpfMap
from ztlab.model.verdict import Hook

_STATS = struct.Struct("=QQ")
_ENTRY_BYTES = ctypes.sizeof(Stats)
_VERDICTS = 4  # of zt_through: 0, which is none, and those that let a packet go on
_CHUNK = 256  # entries looked at together: of most, none ever counted


@dataclass(frozen=True, slots=True)
class CounterParts:
    """The counters of one such map; from any thread.

    room  indexes of a half, 0 included
    """

    map: BpfMap

    @property
    def room(self) -> int:
        return self.map.max_entries // (2 * possible_cpus())

    def read(self, half: int) -> dict[int, tuple[int, int]]:
        """Index to packets and bytes over all CPUs, of those of HALF that are not zero."""
        sums: dict[int, tuple[int, int]] = {}
        with self._pages() as pages:
            for cpu in range(possible_cpus()):
                for index, packets, size in self._counted(pages, cpu, half):
                    before = sums.get(index, (0, 0))
                    sums[index] = (before[0] + packets, before[1] + size)
        return sums

    def zero(self, half: int, indexes: Collection[int]) -> None:
        """Set the counters at INDEXES of HALF to zero; nobody may be counting there."""
        nothing = bytes(_ENTRY_BYTES)
        self.map.put(
            {
                struct.pack("=I", self._start(cpu, half) + index): nothing
                for cpu in range(possible_cpus())
                for index in indexes
            }
        )

    def _start(self, cpu: int, half: int) -> int:
        return (cpu << 1 | half) * self.room

    def _pages(self) -> mmap.mmap:
        size = self.map.max_entries * _ENTRY_BYTES
        whole = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        return mmap.mmap(self.map.fd, whole, prot=mmap.PROT_READ)

    def _counted(self, pages: mmap.mmap, cpu: int, half: int) -> Iterator[tuple[int, int, int]]:
        start, nothing = self._start(cpu, half), bytes(_CHUNK * _ENTRY_BYTES)
        for first in range(0, self.room, _CHUNK):
            last = min(first + _CHUNK, self.room)
            data = pages[(start + first) * _ENTRY_BYTES : (start + last) * _ENTRY_BYTES]
            if data == nothing[: len(data)]:
                continue
            for index, (packets, size) in enumerate(_STATS.iter_unpack(data), start=first):
                if packets or size:
                    yield index, packets, size


def identity_counts(
    stats: BpfMap, through: BpfMap, *, by_tag: bool = False
) -> dict[bytes, tuple[int, ...]]:
    """zt_stats_key to packets and bytes over all CPUs: zt_stats, and zt_through with it.

    by_tag  the latter is the zt_passed of schema 3, at tag << 2 | verdict.
    """
    sums = stats.sums()
    parts = CounterParts(through)
    tags = parts.room // _VERDICTS
    for hook in Hook:
        for index, counted in parts.read(hook).items():
            if by_tag:
                tag, verdict = divmod(index, _VERDICTS)
            else:
                verdict, tag = divmod(index, tags)
            key = bytes(StatsKey(tag=tag, hook=hook, verdict=verdict))
            before = sums.get(key, (0, 0))
            sums[key] = (before[0] + counted[0], before[1] + counted[1])
    return sums
