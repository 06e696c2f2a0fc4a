"""A flow: the five things by which policy and data plane know a conversation."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
PROTOCOL_NUMBERS = {"tcp": TCP, "udp": UDP, "icmp": ICMP}
_NAMES = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmp"}


def protocol_name(number: int) -> str:
    """`tcp`, `udp`, `icmp` (both families), else the number as text."""
    return _NAMES.get(number, str(number))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What policy sees of a packet: who, to whom, on what.

    source       the source's identity name; "world"; "unknown" if it belongs to nobody
    destination  likewise
    protocol     IP protocol number, 0..255 (ICMP is 1 or 58)
    port         destination port, 0..65535, for TCP and UDP; else None
    icmp_type    0..255, for ICMP and ICMPv6; else None
    """

    source: str
    destination: str
    protocol: int
    port: int | None = None
    icmp_type: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowTuple:
    """A conversation as it is on the wire, in its original direction."""

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    protocol: int
    source_port: int = 0
    destination_port: int = 0
