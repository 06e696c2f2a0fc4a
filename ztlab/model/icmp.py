"""ICMP types, by the names of IANA's registries, in both families.

Sources: RFC 792 and the registry "ICMP Type Numbers"; RFC 4443, RFC 4861 and the registry
"ICMPv6 'type' Numbers".
"""

from __future__ import annotations

from collections.abc import Iterator

from ztlab.model.codec import did_you_mean, restricted
from ztlab.model.flow import ICMP, ICMPV6

# Name: (ICMP, ICMPv6); None where a family has nothing by that name.
TYPES: dict[str, tuple[int | None, int | None]] = {
    "echo-request": (8, 128),
    "echo-reply": (0, 129),
    "destination-unreachable": (3, 1),
    "packet-too-big": (None, 2),
    "time-exceeded": (11, 3),
    "parameter-problem": (12, 4),
    "redirect": (5, 137),
    "router-solicitation": (10, 133),
    "router-advertisement": (9, 134),
    "neighbor-solicitation": (None, 135),
    "neighbor-advertisement": (None, 136),
    "timestamp-request": (13, None),
    "timestamp-reply": (14, None),
}
LAST_TYPE = 255
# For experiments (RFC 4727, RFC 4443), so no rule names it by accident.
OTHER_TYPE = {ICMP: 253, ICMPV6: 200}
SCHEMA = {
    "anyOf": [{"enum": [*TYPES]}, {"type": "integer", "minimum": 0, "maximum": LAST_TYPE}],
}


@restricted(**SCHEMA)
def check_icmp_type(kind: int | str) -> None:
    """ValueError unless KIND is one of TYPES, or a number from 0 to 255."""
    if isinstance(kind, int):
        if not 0 <= kind <= LAST_TYPE:
            raise ValueError(f"want an ICMP type from 0 to {LAST_TYPE}, got {kind}")
    elif kind not in TYPES:
        close = did_you_mean(kind, TYPES)
        raise ValueError(f"want {' | '.join(TYPES)} or a number, got {kind!r}{close}")


def types_of(kind: int | str, protocols: frozenset[int]) -> Iterator[tuple[int, int]]:
    """What KIND means in each of PROTOCOLS, which are ICMP and ICMPv6 or one of them.

    Yields: (protocol, type)
    """
    for at, protocol in enumerate((ICMP, ICMPV6)):
        number = kind if isinstance(kind, int) else TYPES[kind][at]
        if protocol in protocols and number is not None:
            yield protocol, number


def complaint(proto: int | str, kinds: tuple[int | str, ...]) -> str | None:
    """Why nothing of PROTO (as in a rule) can be of KINDS; None if it can."""
    if not kinds:
        return None
    if proto not in ("icmp", ICMP, ICMPV6):
        return f"ICMP types need proto icmp, {ICMP} or {ICMPV6}, not {proto}"
    if proto == "icmp":
        number = next((kind for kind in kinds if isinstance(kind, int)), None)
        if number is not None:
            return (
                f"ICMP type {number} is not the same in IPv4 and IPv6: want a name, "
                f"or proto {ICMP} (ICMP) or {ICMPV6} (ICMPv6)"
            )
        return None
    protocols = frozenset({int(proto)})
    for kind in kinds:
        if not list(types_of(kind, protocols)):
            return f"no ICMP type of protocol {proto} is called {kind}"
    return None
