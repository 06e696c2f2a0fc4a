"""Single events, for those who look at them one by one; what is pushed stays packed."""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from agent import abi
from agent.abi import EventFlag, IPAddress
from ztlab.model.verdict import Hook, Verdict

_LAYOUT = struct.Struct("=4Q16s16s4I2H8B4x")
_SIZE = ctypes.sizeof(abi.Event)
assert _LAYOUT.size == _SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathEvent:
    """What became of one packet.

    unix_ns           when, in nanoseconds since 1970
    source, destination  None where the packet was not parsable
    protocol          IP protocol number
    source_port, destination_port  0 where the protocol has none
    source_tag, destination_tag    0: nobody's
    rule              id of the rule that decided; None: the default, or nobody judged it here
    packets, length   a GSO packet counts as its segments; bytes of these, from the IP header on
    tcp_flags, icmp_type, icmp_code  0 for other protocols
    is_first          the first packet of a flow, or a denial; False only with packet granularity
    """

    unix_ns: int
    verdict: Verdict
    hook: Hook
    source: IPAddress | None
    destination: IPAddress | None
    protocol: int
    source_port: int
    destination_port: int
    source_tag: int
    destination_tag: int
    rule: str | None
    packets: int
    length: int
    tcp_flags: int
    icmp_type: int
    icmp_code: int
    is_first: bool


@lru_cache(maxsize=4096)
def _address(family: int, data: bytes) -> IPAddress | None:
    return abi.unpack_address(family, data)


def decode(
    record: bytes, *, boot_ns: int, rule_name: Callable[[int, int], str | None]
) -> DatapathEvent:
    """The event in RECORD; ValueError where it is none.

    boot_ns    Unix time of the monotonic clock's zero, in nanoseconds
    rule_name  (epoch, index + 1) to the rule's id
    """
    if len(record) != _SIZE:
        raise ValueError(f"want an event of {_SIZE} bytes, got {len(record)}")
    (
        at_ns,
        _began_ns,
        packets,
        length,
        source,
        destination,
        source_tag,
        destination_tag,
        rule,
        epoch,
        source_port,
        destination_port,
        family,
        protocol,
        verdict,
        hook,
        tcp_flags,
        icmp_type,
        icmp_code,
        flags,
    ) = _LAYOUT.unpack(record)
    return DatapathEvent(
        unix_ns=boot_ns + at_ns,
        verdict=Verdict(verdict),
        hook=Hook(hook),
        source=_address(family, source),
        destination=_address(family, destination),
        protocol=protocol,
        source_port=source_port,
        destination_port=destination_port,
        source_tag=source_tag,
        destination_tag=destination_tag,
        rule=rule_name(epoch, rule) if rule else None,
        packets=packets,
        length=length,
        tcp_flags=tcp_flags,
        icmp_type=icmp_type,
        icmp_code=icmp_code,
        is_first=bool(flags & EventFlag.FIRST),
    )


def decode_all(
    records: bytes, *, boot_ns: int, rule_name: Callable[[int, int], str | None]
) -> tuple[list[DatapathEvent], int]:
    """The events in RECORDS by their time, and how many of them are none."""
    events, faulty = [], 0
    for start in range(0, len(records), _SIZE):
        try:
            record = records[start : start + _SIZE]
            events.append(decode(record, boot_ns=boot_ns, rule_name=rule_name))
        except ValueError:
            faulty += 1
    return sorted(events, key=lambda event: event.unix_ns), faulty


def boot_time_ns() -> int:
    """Unix time of the monotonic clock's zero; it moves when the wall clock is set."""
    return time.time_ns() - time.monotonic_ns()
