"""Does what was read back still say what the configuration says? Pure.

WireGuard proves that a packet's source is in its peer's AllowedIPs; the identity map says whose it
is. That is a proof of identity only while the map refines AllowedIPs: every entry inside one prefix
of a peer (but what lies behind a gateway that is none), every prefix covered by an entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from agent.abi import IPNetwork, Kind
from agent.datapath.state import DatapathState, IdentityEntry
from agent.wireguard.backend import WgState
from ztlab.model.config import NodeConfig


def drift(
    config: NodeConfig,
    wanted: DatapathState,
    wg: WgState,
    found: Mapping[IPNetwork, IdentityEntry],
) -> int:
    """Violations; 0 where all is well.

    wanted  CONFIG, compiled
    found   the identity map, read back
    """
    return _prefixes_astray(config, wg) + _entries_astray(wanted, found) + _unrefined(config, found)


def _prefixes_astray(config: NodeConfig, wg: WgState) -> int:
    """AllowedIPs that a peer has and should not have, or lacks."""
    wanted = {(peer.public_key, prefix) for peer in config.peers for prefix in peer.allowed_ips}
    there = {(key, prefix) for key, peer in wg.peers.items() for prefix in peer.allowed_ips}
    return len(wanted ^ there)


def _entries_astray(wanted: DatapathState, found: Mapping[IPNetwork, IdentityEntry]) -> int:
    return sum(
        wanted.identities.get(prefix) != found.get(prefix)
        for prefix in wanted.identities.keys() | found.keys()
    )


def _unrefined(config: NodeConfig, found: Mapping[IPNetwork, IdentityEntry]) -> int:
    if config.node.role == "client":
        return 0  # names nobody, so claims nothing
    # Behind this node or a gateway it has no tunnel to: no peer can send what comes from there.
    peers = {peer.name for peer in config.peers}
    elsewhere = {ip_network(r.cidr) for r in config.resources if r.gateway not in peers}
    behind_peers = [
        prefix
        for prefix, entry in found.items()
        if entry.kind not in (Kind.SELF, Kind.VIA) and prefix not in elsewhere
    ]
    allowed = {ip_network(prefix) for peer in config.peers for prefix in peer.allowed_ips}
    routers = {prefix for prefix, entry in found.items() if entry.kind is Kind.VIA}
    entries = found.keys()
    return sum(not _is_within(p, allowed) for p in behind_peers) + sum(
        not _is_within(p, entries) for p in allowed - routers
    )


def _is_within(prefix: IPNetwork, others: Iterable[IPNetwork]) -> bool:
    """Is PREFIX one of OTHERS, or inside one? OTHERS should be quick to search (a set)."""
    if prefix in others:
        return True
    return any(
        other.version == prefix.version
        and other.prefixlen < prefix.prefixlen
        and prefix.network_address in other
        for other in others
    )
