"""Who is where on a lab's links, told beforehand where there are too many to find out.

Linux keeps the neighbours that it found (arp(7), ndisc) of all network namespaces in one table, of
1,024 entries by default (gc_thresh3): beyond it nobody finds anybody any more. A mesh of a hundred
nodes needs ten times as many. Permanent entries are not counted (net/core/neighbour.c,
neigh_alloc), and nothing outside the lab has to be changed for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ztlab.lab.addressing import Cable, bare

_MOST = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
_BY_DEFAULT = 1024
_OURS = 4  # one part in so many of the table may be this lab's


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """Behind INTERFACE, ADDRESS is at the hardware address MAC."""

    interface: str
    address: str
    mac: str


def mac(number: int) -> str:
    """The hardware address of the node's end of the cable of this NUMBER: locally administered."""
    return "02:7a:74:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(3, "big"))


def told(cables: Sequence[Cable], *, room: int | None = None) -> Mapping[str, Sequence[Neighbour]]:
    """Node to what it must be told; empty for a lab whose nodes find each other by themselves.

    room  how many neighbours this machine remembers; None: as its kernel says
    """
    on = Counter(cable.bridge for cable in cables)
    if sum(count * (count - 1) for count in on.values()) <= _table(room) / _OURS:
        return {}
    known: dict[str, list[Neighbour]] = {cable.node: [] for cable in cables}
    for cable in cables:
        known[cable.node] += (
            Neighbour(interface=cable.interface, address=bare(address), mac=mac(number))
            for number, other in enumerate(cables)
            if other.bridge == cable.bridge and other.node != cable.node
            for address in other.addresses
        )
    return known


def _table(room: int | None) -> int:
    if room is not None:
        return room
    try:
        return int(_MOST.read_text())
    except (OSError, ValueError):  # not in the machine's own network namespace
        return _BY_DEFAULT
