"""A desired state as the bytes of map entries, and back."""

from __future__ import annotations

import struct
from collections import Counter
from ipaddress import ip_network
from operator import itemgetter

from agent.abi import (
    TAG_ANY,
    Identity,
    IdKey,
    IPNetwork,
    Kind,
    NetKey,
    PairKey,
    PolicyFlag,
    PolicyKey,
    Quota,
    pack_address,
    unpack_address,
)
from agent.datapath.state import DatapathState, IdentityEntry

_FAMILY_BITS = 32
# zt_policy_key, zt_policy_value, zt_pair_key, zt_pair: tests/unit holds them to abi.py.
_POLICY_KEY = struct.Struct("=IIHBBB3x")
_POLICY_VALUE = struct.Struct("=IB3x")
_PAIR_KEY = struct.Struct("=III")
_PAIR = struct.Struct("=IIHBBB3x")

Entries = dict[bytes, bytes]


def identity_entries(state: DatapathState) -> tuple[Entries, Entries]:
    """What zt_ids and zt_nets should hold."""
    ids: Entries = {}
    nets: Entries = {}
    for network, entry in state.identities.items():
        value = bytes(Identity(tag=entry.tag, kind=entry.kind))
        address = pack_address(network.network_address)
        if network.prefixlen == network.max_prefixlen:
            ids[bytes(IdKey(network.version, (*address,)))] = value
        else:
            bits = _FAMILY_BITS + network.prefixlen
            nets[bytes(NetKey(bits, network.version, (*address,)))] = value
    return ids, nets


def read_identities(ids: Entries, nets: Entries) -> dict[IPNetwork, IdentityEntry]:
    """What zt_ids and zt_nets hold, in words."""
    found: dict[IPNetwork, IdentityEntry] = {}
    for data, value in ids.items():
        key = IdKey.from_buffer_copy(data)
        found[_network(key.family, bytes(key.address), None)] = _entry(value)
    for data, value in nets.items():
        net = NetKey.from_buffer_copy(data)
        length = net.prefix_bits - _FAMILY_BITS
        found[_network(net.family, bytes(net.address), length)] = _entry(value)
    return found


def _network(family: int, address: bytes, length: int | None) -> IPNetwork:
    plain = unpack_address(family, address)
    if plain is None:
        raise ValueError(f"an identity map holds an address of family {family}")
    return ip_network((plain, plain.max_prefixlen if length is None else length))


def _entry(value: bytes) -> IdentityEntry:
    identity = Identity.from_buffer_copy(value)
    return IdentityEntry(identity.tag, Kind(identity.kind))


def policy_entries(state: DatapathState, slot: int) -> tuple[Entries, Entries]:
    """What SLOT of zt_policy and of zt_pairs should hold."""
    # By struct, which writes an entry ten times as fast as ctypes.
    key, value, pair_key, pair = _POLICY_KEY.pack, _POLICY_VALUE.pack, _PAIR_KEY.pack, _PAIR.pack
    policy: Entries = {}
    pairs: Entries = {}
    several = _pairs_of_several(state)
    for (source, destination, protocol, port, bits), (rule, action) in state.policy.items():
        if (source, destination) in several:
            policy[key(source, destination, port, protocol, bits, slot)] = value(rule, action)
        else:
            only = pair(0, rule, port, protocol, bits, action)
            pairs[pair_key(source, destination, slot)] = only
    for source, destination in several:
        shapes = state.pairs[source, destination]
        pairs[pair_key(source, destination, slot)] = pair(shapes, 0, 0, 0, 0, 0)
    return policy, pairs


def _pairs_of_several(state: DatapathState) -> set[tuple[int, int]]:
    """The pairs of tags of which policy has more than one entry."""
    if len(state.pairs) == len(state.policy):
        return set()
    entries = Counter(map(itemgetter(0, 1), state.policy))
    return {ends for ends, count in entries.items() if count > 1}


def quota_entries(state: DatapathState) -> Entries:
    """What zt_quotas should hold: buckets that are full."""
    return {
        struct.pack("=I", tag): bytes(Quota(rate=rate, burst=burst))
        for tag, (rate, burst) in state.quotas.items()
    }


def quota_limits(entries: Entries) -> Entries:
    """Of what zt_quotas holds, that which is not how full a bucket is."""
    return {key: value[: Quota.full_at.offset] for key, value in entries.items()}


def in_slot(policy: Entries, pairs: Entries, slot: int) -> tuple[Entries, Entries]:
    """Of what zt_policy and zt_pairs hold, that of SLOT."""
    policy_at, pairs_at = PolicyKey.slot.offset, PairKey.slot.offset
    return (
        {key: value for key, value in policy.items() if key[policy_at] == slot},
        {key: value for key, value in pairs.items() if key[pairs_at] == slot},
    )


_ANY_FLAGS = {
    (True, False): PolicyFlag.FROM_ANY,
    (False, True): PolicyFlag.TO_ANY,
    (True, True): PolicyFlag.ANY_TO_ANY,
}


def policy_flags(state: DatapathState) -> PolicyFlag:
    """The flags of the policy word, without the slot."""
    flags = PolicyFlag(0)
    if state.default_allow:
        flags |= PolicyFlag.DEFAULT_ALLOW
    if state.is_client:
        flags |= PolicyFlag.CLIENT
    if state.quotas:
        flags |= PolicyFlag.QUOTAS
    for ends in state.pairs:
        if TAG_ANY in ends:
            flags |= _ANY_FLAGS[ends[0] == TAG_ANY, ends[1] == TAG_ANY]
    return flags
