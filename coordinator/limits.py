"""How often is too often: token buckets, one for each key, in bounded memory.

A bucket is full at first, and refills at a steady rate. Of each process, not shared: with several
replicas behind one address each has its own, so together they let through as many times as much.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

KEYS = 20_000  # buckets kept; the one that was asked for longest ago goes first


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class Limiter:
    """Up to BURST of something at once for each key, and PER_MINUTE from then on.

    clock  monotonic seconds
    """

    def __init__(
        self,
        burst: int,
        per_minute: float,
        *,
        keys: int = KEYS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst, self._per_s = float(burst), per_minute / 60
        self._most, self._clock = keys, clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str) -> float:
        """Take one. 0.0: there was one; else in how many seconds there is one again."""
        with self._lock:
            bucket = self._bucket(key)
            if bucket.level >= 1:
                bucket.level -= 1
                return 0.0
            return (1 - bucket.level) / self._per_s

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._buckets)

    def _bucket(self, key: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._burst, now)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
            bucket.level = min(self._burst, bucket.level + (now - bucket.at) * self._per_s)
            bucket.at = now
        return bucket


Networks = tuple[IPv4Network | IPv6Network, ...]


def source(peer: str | None, forwarded_for: str | None, trusted: Networks) -> str:
    """Where a request comes from: an IPv4 address, or the /64 of an IPv6 one, as text.

    PEER is who connected. Where that is a TRUSTED proxy, FORWARDED_FOR (its X-Forwarded-For) is
    read from the right: the last address that is no trusted proxy's. What stands further left
    anybody could have written.
    """
    address = peer or ""
    hops = [hop.strip() for hop in (forwarded_for or "").split(",") if hop.strip()]
    while hops and _is_of(address, trusted):
        candidate = hops.pop()
        if _parsed(candidate) is None:
            break
        address = candidate
    return _grouped(address)


def _is_of(address: str, networks: Networks) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


def _grouped(address: str) -> str:
    parsed = _parsed(address)
    if parsed is None:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        # Whoever has one address of a /64 has all of them (RFC 6177).
        return str(ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)
