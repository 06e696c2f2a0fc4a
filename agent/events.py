"""From a record in the ring to the Event of docs/PROTOCOL.md: numbers become names.

What a tag, a rule or an address is called is taken from the configuration that is applied; names of
tags are kept when they go, because events (and counters) of theirs may still come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from agent.abi import IPAddress, IPNetwork
from agent.datapath.events import DatapathEvent
from agent.datapath.state import DatapathState
from ztlab.model.config import NodeConfig
from ztlab.model.identity import TAG_UNKNOWN, TAG_WORLD, UNKNOWN, WORLD

NO_ADDRESS = "::"  # of a packet that could not be parsed


@dataclass(frozen=True, slots=True)
class PeerName:
    """Who a WireGuard peer is."""

    node_id: str
    client_id: str


class Names:
    """What numbers and addresses are called, as of the configuration applied last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tags: dict[int, str] = {TAG_UNKNOWN: UNKNOWN, TAG_WORLD: WORLD}
        self._exact: Mapping[IPAddress, PeerName] = {}
        self._networks: Sequence[tuple[IPNetwork, PeerName]] = ()

    def learn(self, config: NodeConfig, state: DatapathState) -> None:
        """Go by CONFIG (and what it compiled to) from now on."""
        exact: dict[IPAddress, PeerName] = {}
        networks: list[tuple[IPNetwork, PeerName]] = []
        for peer in config.peers:
            who = PeerName(peer.node_id, peer.client_id)
            for text in peer.allowed_ips:
                network = ip_network(text)
                if network.prefixlen == network.max_prefixlen:
                    exact[network.network_address] = who
                else:
                    networks.append((network, who))
        networks.sort(key=lambda entry: -entry[0].prefixlen)
        with self._lock:
            self._tags = self._tags | dict(state.tag_names)
            self._exact, self._networks = exact, tuple(networks)

    def identity(self, tag: int) -> str:
        """The name of TAG; `unknown` for one that was never distributed here."""
        return self._tags.get(tag, UNKNOWN)

    def peer(self, address: IPAddress | None) -> PeerName | None:
        """The peer that ADDRESS is behind, by the longest prefix."""
        if address is None:
            return None
        found = self._exact.get(address)
        if found is not None:
            return found
        for network, who in self._networks:
            if network.version == address.version and address in network:
                return who
        return None


def record(event: DatapathEvent, names: Names) -> dict[str, Any]:
    """EVENT as an Event of docs/PROTOCOL.md."""
    peer = names.peer(event.source)
    return {
        "at": rfc3339(event.unix_ns),
        "kind": "flow" if event.is_first else "packet",
        "verdict": event.verdict.word,
        "hook": event.hook.word,
        "source": NO_ADDRESS if event.source is None else str(event.source),
        "destination": NO_ADDRESS if event.destination is None else str(event.destination),
        "protocol": event.protocol,
        "source_port": event.source_port,
        "destination_port": event.destination_port,
        "source_identity": names.identity(event.source_tag),
        "destination_identity": names.identity(event.destination_tag),
        "source_tag": event.source_tag,
        "destination_tag": event.destination_tag,
        "rule": event.rule,
        "length": event.length,
        "peer_node_id": peer.node_id if peer else None,
        "peer_client_id": peer.client_id if peer else None,
    }


def rfc3339(unix_ns: int) -> str:
    """UTC with microseconds: 2026-01-31T12:00:00.000000Z."""
    seconds, rest_ns = divmod(unix_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest_ns // 1000:06d}Z"
