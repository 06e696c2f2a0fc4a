"""Maps as they were when the programs were loaded."""

from __future__ import annotations

from agent.datapath.datapath import Datapath
from agent.datapath.parts import CounterParts


def empty(datapath: Datapath, *tables: str) -> None:
    """Delete every entry of TABLES, named without `zt_`."""
    for table in tables:
        bpf_map = datapath._maps[f"zt_{table}"]
        bpf_map.delete(bpf_map.items())


def zero_counters(datapath: Datapath) -> None:
    """Nothing was counted, for any identity or rule."""
    empty(datapath, "stats")
    for name in ("zt_hits", "zt_through"):
        parts = CounterParts(datapath._maps[name])
        for half in (0, 1):
            parts.zero(half, parts.read(half))
