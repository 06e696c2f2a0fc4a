"""What the numbers in events are called, and a batch of events with the names that occur in it.

What a tag, a rule or an address is called is taken from the configuration that is applied; names of
tags are kept when they go, because events (and counters) of theirs may still come.
"""

from __future__ import annotations

import struct
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

from agent.abi import IPAddress, IPNetwork
from agent.datapath.events import Generations, rule_name
from agent.datapath.state import DatapathState
from ztlab.model import logbatch
from ztlab.model.config import NodeConfig
from ztlab.model.identity import TAG_UNKNOWN, TAG_WORLD, UNKNOWN, WORLD
from ztlab.model.logbatch import Head, PeerName, RuleName, TagName

Peer = tuple[str, str]
"""Node id and client ID."""


class NameTable:
    """What tags and addresses are called, as of one configuration; never changed."""

    def __init__(
        self,
        tags: Mapping[int, str],
        exact: Mapping[IPAddress, Peer],
        networks: Sequence[tuple[IPNetwork, Peer]],
    ) -> None:
        """NETWORKS: the longest prefix first."""
        self.tags, self._exact, self._networks = tags, exact, networks
        # A table of its own each time, so that what it remembers is of this configuration.
        self.peer = lru_cache(maxsize=4096)(self._peer)
        self.entry = lru_cache(maxsize=4096)(self._entry)

    def _peer(self, text: str) -> Peer | None:
        """The peer that the address TEXT is behind, by the longest prefix."""
        address = ip_address(text)
        found = self._exact.get(address)
        if found is not None:
            return found
        for network, who in self._networks:
            if network.version == address.version and address in network:
                return who
        return None

    def _entry(self, family: int, high: int, low: int) -> PeerName | None:
        """The peer that an address, in the two halves of a record's field, is behind."""
        if not family:
            return None
        address = logbatch.address_text(family, struct.pack("=2Q", high, low))
        peer = self.peer(address)
        return peer and PeerName(address=address, node_id=peer[0], client_id=peer[1])


class Names:
    """The table of the configuration applied last."""

    def __init__(self) -> None:
        self.table = NameTable({TAG_UNKNOWN: UNKNOWN, TAG_WORLD: WORLD}, {}, ())

    def learn(self, config: NodeConfig, state: DatapathState) -> None:
        """Go by CONFIG (and what it compiled to) from now on."""
        exact: dict[IPAddress, Peer] = {}
        networks: list[tuple[IPNetwork, Peer]] = []
        for peer in config.peers:
            who = (peer.node_id, peer.client_id)
            for text in peer.allowed_ips:
                network = ip_network(text)
                if network.prefixlen == network.max_prefixlen:
                    exact[network.network_address] = who
                else:
                    networks.append((network, who))
        networks.sort(key=lambda entry: -entry[0].prefixlen)
        tags = {**self.table.tags, **state.tag_names}
        self.table = NameTable(tags, exact, networks)

    def identity(self, tag: int) -> str:
        """The name of TAG; `unknown` for one that was never distributed here."""
        return self.table.tags.get(tag, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Naming:
    """What the numbers in events of one moment are called; clock_ns as in `Head`."""

    clock_ns: int
    names: NameTable
    rules: Generations

    def identity(self, tag: int) -> str:
        return self.names.tags.get(tag, UNKNOWN)

    def rule(self, epoch: int, rule: int) -> str | None:
        return rule_name(self.rules, epoch, rule)

    def peer(self, address: str) -> Peer | None:
        return self.names.peer(address)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Events that were read together: packed records, and what is in them called."""

    records: bytearray
    naming: Naming

    def __len__(self) -> int:
        return len(self.records) // logbatch.SIZE

    def documents(self) -> Iterator[dict[str, Any]]:
        """Its events one by one, as docs/PROTOCOL.md has them."""
        return logbatch.documents(self.records, self.naming)


def body(chunk: Chunk) -> bytes:
    """CHUNK as a batch to push, under a new id. The columns are gone through, never the events."""
    naming = chunk.naming
    pairs = memoryview(chunk.records).cast("Q")  # fields of four bytes in twos
    tags = {tag for pair in _occurring(pairs, "source_tag") for tag in _halves(pair)}
    rules = {_halves(pair) for pair in _occurring(pairs, "rule")}
    head = Head(
        batch_id=str(uuid.uuid4()),
        layout=logbatch.LAYOUT,
        byte_order=sys.byteorder,
        count=len(chunk),
        clock_ns=naming.clock_ns,
        tags=tuple(TagName(tag=tag, name=naming.identity(tag)) for tag in sorted(tags)),
        rules=tuple(
            RuleName(epoch=epoch, rule=rule, id=name)
            for rule, epoch in sorted(rules)
            if (name := naming.rule(epoch, rule)) is not None
        ),
        peers=tuple(_peers(chunk, pairs)),
    )
    return logbatch.pack(head, chunk.records)


def _occurring(pairs: memoryview, name: str) -> set[int]:
    """What the field NAME and its neighbour, together eight bytes, hold in any event."""
    return set(pairs[logbatch.OFFSETS[name] // 8 :: logbatch.SIZE // 8].tolist())


def _halves(pair: int) -> tuple[int, int]:
    first, second = struct.unpack("=2I", struct.pack("=Q", pair))
    return first, second


def _peers(chunk: Chunk, pairs: memoryview) -> Iterator[PeerName]:
    families = bytes(chunk.records[logbatch.OFFSETS["family"] :: logbatch.SIZE])
    start, step = logbatch.OFFSETS["source"], logbatch.SIZE // 8
    highs = pairs[start // 8 :: step].tolist()
    if not families.translate(None, b"\4"):
        sources = {(4, high, 0) for high in set(highs)}
    else:
        lows = pairs[start // 8 + 1 :: step].tolist()
        sources = set(zip(families, highs, lows, strict=True))
    entry = chunk.naming.names.entry
    return (found for source in sources if (found := entry(*source)) is not None)
