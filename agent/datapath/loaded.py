"""What a loader is asked for, and what it hands out."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from agent.datapath.libbpf import possible_cpus
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from ztlab.model.verdict import Hook

_RING_PAGES_MIN = 16  # of one CPU: 600 events
Origin = Literal["fresh", "adopted", "reused", "carried"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is fixed when the programs are loaded.

    l3_offset  where the IP header begins in a packet: 0 on WireGuard, 14 under a test run
    """

    marks: MarkLayout
    limits: Limits
    l3_offset: int = 0

    def map_sizes(self) -> dict[str, int]:
        """Entries of each map whose size is not part of its meaning."""
        limits = self.limits
        return {
            "zt_ids": limits.ids,
            "zt_nets": limits.nets,
            # Both slots share one map.
            "zt_pairs": 2 * limits.pairs,
            "zt_policy": 2 * limits.policy,
            "zt_flows": limits.flows,
            "zt_frags": limits.frags,
            "zt_quotas": limits.quotas,
            # For each CPU, both slots; rules are numbered from 1.
            "zt_hits": 2 * (limits.rules + 1) * possible_cpus(),
            "zt_through": 8 * limits.tags * possible_cpus(),
            "zt_names": 2 * (limits.rules + 1),
            "zt_totals": 2 * limits.rules,
            "zt_stats": limits.stats,
            "zt_events": possible_cpus(),
        }

    def ring_bytes(self) -> int:
        """Bytes of one CPU's event ring: a power of two."""
        pages = max(
            min(_RING_PAGES_MIN, self.limits.ring_pages), self.limits.ring_pages // possible_cpus()
        )
        return (1 << pages.bit_length() - 1) * mmap.PAGESIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Programs and maps in the kernel; they live until `close`, programs also while attached.

    loader    bcc | libbpf
    reason    why this one
    origin    fresh; or of a predecessor's: programs and maps adopted, the maps reused under new
              programs, or what was in them carried over into fresh ones
    programs  hook to file descriptor
    maps      name to file descriptor
    release   closes every file descriptor
    """

    loader: str
    programs: Mapping[Hook, int]
    maps: Mapping[str, int]
    release: Callable[[], None]
    reason: str = "as configured"
    origin: Origin = "fresh"

    def close(self) -> None:
        """Close every file descriptor."""
        self.release()
