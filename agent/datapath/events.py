"""Single events, for those who look at them one by one; what is pushed stays packed."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from agent import abi
from agent.abi import EventFlag, IPAddress
from ztlab.model.verdict import Hook, Verdict

Generations = tuple[tuple[int, tuple[str, ...]], ...]
"""(first epoch, ids of the rules in written order), the oldest first; never empty."""


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
    records: bytes, *, boot_ns: int, generations: Generations = ((0, ()),)
) -> list[DatapathEvent]:
    """The events in RECORDS, which are sound, by their time.

    boot_ns  Unix time of the monotonic clock's zero, in nanoseconds
    """
    events = [_event(raw, boot_ns, generations) for raw in _split(records)]
    return sorted(events, key=lambda event: event.unix_ns)


def _split(records: bytes) -> Iterator[abi.Event]:
    kind = abi.Event * (len(records) // _SIZE)
    yield from kind.from_buffer_copy(records)


_SIZE = len(bytes(abi.Event()))


def _event(raw: abi.Event, boot_ns: int, generations: Generations) -> DatapathEvent:
    return DatapathEvent(
        unix_ns=boot_ns + raw.at_ns,
        verdict=Verdict(raw.verdict),
        hook=Hook(raw.hook),
        source=_address(raw.family, bytes(raw.source)),
        destination=_address(raw.family, bytes(raw.destination)),
        protocol=raw.protocol,
        source_port=raw.source_port,
        destination_port=raw.destination_port,
        source_tag=raw.source_tag,
        destination_tag=raw.destination_tag,
        rule=rule_name(generations, raw.epoch, raw.rule),
        packets=raw.packets,
        length=raw.bytes,
        tcp_flags=raw.tcp_flags,
        icmp_type=raw.icmp_type,
        icmp_code=raw.icmp_code,
        is_first=bool(raw.flags & EventFlag.FIRST),
    )


def rule_name(generations: Generations, epoch: int, rule: int) -> str | None:
    """The id of the rule that was RULE (index + 1; 0: none) in EPOCH."""
    at = bisect_right(generations, epoch, key=lambda generation: generation[0]) - 1
    rules = generations[max(at, 0)][1]
    return rules[rule - 1] if 0 < rule <= len(rules) else None


def boot_time_ns() -> int:
    """Unix time of the monotonic clock's zero; it moves when the wall clock is set."""
    return time.time_ns() - time.monotonic_ns()
