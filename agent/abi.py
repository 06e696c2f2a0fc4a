"""bpf/zt_abi.h, said in Python: what the programs and user space say to each other.

tests/contract/test_abi.py compares every structure and number with the C compiler's, and the loader
compares the sizes with the loaded maps' and refuses to go on where they differ. Addresses are in
network byte order, IPv4 in the first four bytes with the rest zero; ports are in host byte order;
times are nanoseconds of the monotonic clock.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from ztlab.model.verdict import Hook

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

SCHEMA = 4  # of all maps together: it names the folder that they are pinned in
PROGRAMS = {Hook.INGRESS: "zt_ingress", Hook.EGRESS: "zt_egress"}
TAG_ANY = 0xFFFFFFFF  # `*` in a policy key
EPOCH_SHIFT = 8
EPOCH_MAX = 2**32 - 1  # 0 means "never judged"
RULE_MAX = 2**24 - 1  # index + 1 of a rule; 0: none
SHAPE_ANY_PROTOCOL = 17
ANY_PROTOCOL = 0xFF
ECHO_PORT = 8
DENIALS_SHIFT = 32
JUDGED_RULE_SHIFT = 8
JUDGED_EPOCH_SHIFT = 32
VOUCHED_TAG_SHIFT = 8
FRAG_PIECES = 3
QUOTA_FRACTION = 16
RULE_ID_BYTES = 64


class ConfigWord(IntEnum):
    """The words of zt_config, each written in one 8-byte store."""

    MODE = 0
    LOGGING = 1
    POLICY = 2
    SELF = 3


class PolicyFlag(IntFlag):
    """The low bits of the policy word; the epoch is above them."""

    SLOT = 1
    DEFAULT_ALLOW = 2
    CLIENT = 4
    QUOTAS = 8
    FROM_ANY = 16
    TO_ANY = 32
    ANY_TO_ANY = 64
    CHANGING = 128


class Logging(IntEnum):
    """What is logged; above DENIALS_SHIFT of the word: how many denials per second and CPU."""

    OFF = 0
    FLOW = 1
    PACKET = 2


class Kind(IntEnum):
    """What an address of the identity maps is."""

    NONE = 0
    SELF = 1
    NODE = 2
    RESOURCE = 3
    VIA = 4


class Action(IntEnum):
    """What an entry of zt_policy says."""

    ALLOW = 1
    DENY = 2


class Origin(IntEnum):
    """Where a packet, or the first packet of a flow, came from."""

    TUNNEL = 1
    LAN = 2
    LOCAL = 3
    TRANSIT = 4


class FlowFlag(IntFlag):
    """The state bits of a flow."""

    FROM_HIGH = 1
    FIN_SOURCE = 2
    FIN_OTHER = 4
    RESET = 8


class FragFlag(IntFlag):
    """The state bits of a packet in fragments."""

    TRACKED = 1
    POISONED = 2


class EventFlag(IntFlag):
    """The bits of an event."""

    FIRST = 1
    UPDATE = 2
    END = 4


class LogCounter(IntEnum):
    """The indexes of zt_log."""

    EMITTED = 0
    RING_FULL = 1
    UNCOUNTED = 2
    SUPPRESSED = 3
    DENIAL_SECOND = 4
    DENIALS = 5


class Record(ctypes.Structure):
    """A structure that compares and hashes as its bytes, as a hash map does."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and bytes(self) == bytes(other)

    def __hash__(self) -> int:
        return hash(bytes(self))

    def __repr__(self) -> str:
        fields = (f"{f[0]}={getattr(self, f[0])!r}" for f in self._fields_)
        return f"{type(self).__name__}({', '.join(fields)})"


_Address = ctypes.c_uint8 * 16


class Load(Record):
    """sources: hexadecimal."""

    _fields_ = [
        ("l3_offset", ctypes.c_uint32),
        ("mark_mask", ctypes.c_uint32),
        ("mark_judged", ctypes.c_uint32),
        ("mark_shift", ctypes.c_uint32),
        ("rules", ctypes.c_uint32),
        ("tags", ctypes.c_uint32),
        ("sources", ctypes.c_uint8 * 64),
    ]


class IdKey(Record):
    _fields_ = [("family", ctypes.c_uint32), ("address", _Address)]


class NetKey(Record):
    _fields_ = [
        ("prefix_bits", ctypes.c_uint32),
        ("family", ctypes.c_uint32),
        ("address", _Address),
    ]


class Identity(Record):
    _fields_ = [("tag", ctypes.c_uint32), ("kind", ctypes.c_uint8), ("pad", ctypes.c_uint8 * 3)]


class PairKey(Record):
    _fields_ = [
        ("source", ctypes.c_uint32),
        ("destination", ctypes.c_uint32),
        ("slot", ctypes.c_uint32),
    ]


class Pair(Record):
    _fields_ = [
        ("shapes", ctypes.c_uint32),
        ("rule", ctypes.c_uint32),
        ("port", ctypes.c_uint16),
        ("protocol", ctypes.c_uint8),
        ("port_bits", ctypes.c_uint8),
        ("action", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
    ]


class PolicyKey(Record):
    _fields_ = [
        ("source", ctypes.c_uint32),
        ("destination", ctypes.c_uint32),
        ("port", ctypes.c_uint16),
        ("protocol", ctypes.c_uint8),
        ("port_bits", ctypes.c_uint8),
        ("slot", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
    ]


class PolicyValue(Record):
    _fields_ = [("rule", ctypes.c_uint32), ("action", ctypes.c_uint8), ("pad", ctypes.c_uint8 * 3)]


class FlowKey(Record):
    _fields_ = [
        ("low", _Address),
        ("high", _Address),
        ("low_port", ctypes.c_uint16),
        ("high_port", ctypes.c_uint16),
        ("family", ctypes.c_uint8),
        ("protocol", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 2),
    ]


class Flow(Record):
    _fields_ = [
        ("created_ns", ctypes.c_uint64),
        ("source_tag", ctypes.c_uint32),
        ("destination_tag", ctypes.c_uint32),
        ("origin", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 22),
        ("last_ns", ctypes.c_uint64),
        ("judged", ctypes.c_uint64),
        ("packets", ctypes.c_uint64 * 2),
        ("bytes", ctypes.c_uint64 * 2),
        ("vouched", ctypes.c_uint64 * 2),
    ]


class FragKey(Record):
    _fields_ = [
        ("source", _Address),
        ("destination", _Address),
        ("id", ctypes.c_uint32),
        ("family", ctypes.c_uint8),
        ("protocol", ctypes.c_uint8),
        ("origin", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
    ]


class Frag(Record):
    _fields_ = [
        ("created_ns", ctypes.c_uint64),
        ("source_port", ctypes.c_uint16),
        ("destination_port", ctypes.c_uint16),
        ("covered", ctypes.c_uint16),
        ("total", ctypes.c_uint16),
        ("from", ctypes.c_uint16 * FRAG_PIECES),
        ("to", ctypes.c_uint16 * FRAG_PIECES),
        ("protocol", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("icmp_type", ctypes.c_uint8),
        ("pad", ctypes.c_uint8),
    ]


class Quota(Record):
    _fields_ = [
        ("rate", ctypes.c_uint64),
        ("burst", ctypes.c_uint64),
        ("full_at", ctypes.c_uint64),
    ]


class RuleKey(Record):
    _fields_ = [("slot", ctypes.c_uint32), ("rule", ctypes.c_uint32)]


class RuleName(Record):
    _fields_ = [
        ("id", ctypes.c_char * RULE_ID_BYTES),
        ("action", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 7),
    ]


class RuleTotal(Record):
    _fields_ = [
        ("packets", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("generation", ctypes.c_uint32),
        ("pad", ctypes.c_uint8 * 4),
    ]


class StatsKey(Record):
    _fields_ = [
        ("tag", ctypes.c_uint32),
        ("hook", ctypes.c_uint8),
        ("verdict", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 2),
    ]


class Stats(Record):
    _fields_ = [("packets", ctypes.c_uint64), ("bytes", ctypes.c_uint64)]


class Event(Record):
    _fields_ = [
        ("at_ns", ctypes.c_uint64),
        ("began_ns", ctypes.c_uint64),
        ("packets", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("source", _Address),
        ("destination", _Address),
        ("source_tag", ctypes.c_uint32),
        ("destination_tag", ctypes.c_uint32),
        ("rule", ctypes.c_uint32),
        ("epoch", ctypes.c_uint32),
        ("source_port", ctypes.c_uint16),
        ("destination_port", ctypes.c_uint16),
        ("family", ctypes.c_uint8),
        ("protocol", ctypes.c_uint8),
        ("verdict", ctypes.c_uint8),
        ("hook", ctypes.c_uint8),
        ("tcp_flags", ctypes.c_uint8),
        ("icmp_type", ctypes.c_uint8),
        ("icmp_code", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 4),
    ]


# C name of each structure of zt_abi.h.
STRUCTURES: dict[str, type[Record]] = {
    "zt_load": Load,
    "zt_id_key": IdKey,
    "zt_net_key": NetKey,
    "zt_identity": Identity,
    "zt_pair_key": PairKey,
    "zt_pair": Pair,
    "zt_policy_key": PolicyKey,
    "zt_policy_value": PolicyValue,
    "zt_flow_key": FlowKey,
    "zt_flow": Flow,
    "zt_frag_key": FragKey,
    "zt_frag": Frag,
    "zt_quota": Quota,
    "zt_rule_key": RuleKey,
    "zt_rule_name": RuleName,
    "zt_rule_total": RuleTotal,
    "zt_stats_key": StatsKey,
    "zt_stats": Stats,
    "zt_event": Event,
}

# Key and value of each map that user space reads or writes.
MAPS: dict[str, tuple[type[Any], type[Any]]] = {
    "zt_config": (ctypes.c_uint32, ctypes.c_uint64),
    "zt_ids": (IdKey, Identity),
    "zt_nets": (NetKey, Identity),
    "zt_pairs": (PairKey, Pair),
    "zt_policy": (PolicyKey, PolicyValue),
    "zt_flows": (FlowKey, Flow),
    "zt_frags": (FragKey, Frag),
    "zt_quotas": (ctypes.c_uint32, Quota),
    "zt_hits": (ctypes.c_uint32, Stats),
    "zt_through": (ctypes.c_uint32, Stats),
    "zt_names": (RuleKey, RuleName),
    "zt_totals": (RuleName, RuleTotal),
    "zt_stats": (StatsKey, Stats),
    "zt_log": (ctypes.c_uint32, ctypes.c_uint64),
}
RINGS = "zt_events"  # an array of rings, one for each CPU


def pack_address(address: IPAddress) -> bytes:
    """16 bytes: the address in network byte order, zeros after an IPv4 one."""
    return address.packed.ljust(16, b"\0")


def unpack_address(family: int, data: bytes) -> IPAddress | None:
    """The address of family 4 or 6; None of any other."""
    if family == 4:
        return IPv4Address(data[:4])
    return IPv6Address(data[:16]) if family == 6 else None
