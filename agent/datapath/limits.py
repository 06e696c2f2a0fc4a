"""How much the maps hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes of the maps, fixed when the programs are loaded. Only flows, fragments, statistics,
    rules, tags and the ring take their memory at once (about 210 bytes a flow, for each CPU 32
    bytes a rule and 128 a tag); the others as they fill.

    ids         addresses of nodes: prefixes of full length
    nets        all other prefixes
    policy      compiled policy entries of one policy; a change needs twice as many for a moment
    pairs       pairs of identities that these entries speak of
    flows       conversations; beyond that the least recently used is forgotten
    frags       packets in fragments whose later ones may still come
    quotas      identities with a quota
    rules       rules of one policy
    stats       counters: identities times hooks times verdicts that occurred
    tags        identities, by their number, whose packets that go on are counted apart from these,
                which costs less
    ring_pages  pages of the event rings of all CPUs together, a power of two
    """

    ids: int = 16384
    nets: int = 16384
    policy: int = 131072
    pairs: int = 32768
    flows: int = 65536
    frags: int = 4096
    quotas: int = 4096
    rules: int = 65536
    stats: int = 16384
    tags: int = 16384
    ring_pages: int = 512

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"want a positive limit for {name}, got {getattr(self, name)}")
        if self.ring_pages & (self.ring_pages - 1):
            raise ValueError(f"want a power of two of ring pages, got {self.ring_pages}")
