"""The peers in a message of the kernel's WireGuard, packed and read. Pure.

Layout: uapi/linux/wireguard.h; attributes as in netlink(7): length and type, 16 bits each, then the
value, padded to 4 bytes. pyroute2 has classes for all of it, and an object for every attribute:
with 10,000 prefixes that took 3 s each way, and the agent reads everything back each second.
"""

from __future__ import annotations

import base64
import functools
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from agent.wireguard.backend import Endpoint, WgPeer, canonical_prefix
from agent.wireguard.preshared import PresharedKey, from_raw
from ztlab.errors import ZtError

PEER_REMOVE = 1 << 0  # WGPEER_F_REMOVE_ME
# WGPEER_A_*
_PUBLIC_KEY, _PRESHARED_KEY, _FLAGS, _ENDPOINT, _KEEPALIVE, _HANDSHAKE, _RX, _TX, _PREFIXES = range(
    1, 10
)
_FAMILY, _ADDRESS, _LENGTH = range(1, 4)  # WGALLOWEDIP_A_*
# All peers of a message lie in one attribute, whose length has 16 bits.
MESSAGE_BYTES = 60_000

_HEADER = struct.Struct("=HH")
_NESTED = 1 << 15  # NLA_F_NESTED
_TYPE = (1 << 14) - 1  # NLA_TYPE_MASK
_PEER_OVERHEAD = 16  # headers of a peer and of its prefixes, and where they begin anew


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerChange:
    """What to do with one peer.

    preshared_key  its 32 bytes, zeros for none; None: leave it
    keepalive_s    None: leave it
    """

    public_key: str
    flags: int = 0
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: Endpoint | None = None
    keepalive_s: int | None = None
    prefixes: tuple[str, ...] = ()


def batches(changes: Iterable[PeerChange]) -> Iterator[bytes]:
    """Values of WGDEVICE_A_PEERS, in order, a message each.

    A peer that does not fit is continued in the next one by its public key and what prefixes are
    left, which adds to what the first one set.
    """
    batch: list[bytes] = []
    size = 0
    for change in changes:
        for head, prefixes in _parts(change):
            peer = _peer(head, prefixes)
            if batch and size + len(peer) > MESSAGE_BYTES:
                yield b"".join(batch)
                batch, size = [], 0
            batch.append(peer)
            size += len(peer)
    if batch:
        yield b"".join(batch)


def _parts(change: PeerChange) -> Iterator[tuple[bytes, list[bytes]]]:
    head = _head(change)
    size = len(head) + _PEER_OVERHEAD
    part: list[bytes] = []
    for prefix in change.prefixes:
        packed = _packed_prefix(prefix)
        if size + len(packed) > MESSAGE_BYTES:
            yield head, part
            head, part = _head(PeerChange(public_key=change.public_key)), []
            size = len(head) + _PEER_OVERHEAD
        part.append(packed)
        size += len(packed)
    yield head, part


def _head(change: PeerChange) -> bytes:
    parts = [
        _attribute(_PUBLIC_KEY, base64.b64decode(change.public_key)),
        _attribute(_FLAGS, struct.pack("=I", change.flags)),
    ]
    if change.preshared_key is not None:
        parts.append(_attribute(_PRESHARED_KEY, change.preshared_key))
    if change.endpoint is not None:
        parts.append(_attribute(_ENDPOINT, _packed_endpoint(change.endpoint)))
    if change.keepalive_s is not None:
        parts.append(_attribute(_KEEPALIVE, struct.pack("=H", change.keepalive_s)))
    return b"".join(parts)


def _peer(head: bytes, prefixes: list[bytes]) -> bytes:
    nested = _attribute(_PREFIXES | _NESTED, b"".join(prefixes)) if prefixes else b""
    return _attribute(_NESTED, head + nested)


def _attribute(kind: int, value: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(value), kind) + value + bytes(-len(value) % 4)


def _packed_endpoint(endpoint: Endpoint) -> bytes:
    """A sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)): the port in network order."""
    family, address = _family(endpoint.address), endpoint.address.packed
    begin = struct.pack("=H", family) + endpoint.port.to_bytes(2, "big")
    if family == socket.AF_INET:
        return begin + address + bytes(8)
    return begin + bytes(4) + address + bytes(4)


def _family(address: IPv4Address | IPv6Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


@functools.lru_cache(maxsize=1 << 16)
def _packed_prefix(prefix: str) -> bytes:
    address, _, length = prefix.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    parts = [
        _attribute(_FAMILY, struct.pack("=H", family)),
        _attribute(_ADDRESS, socket.inet_pton(family, address)),
        _attribute(_LENGTH, bytes([int(length)])),
    ]
    return _attribute(_NESTED, b"".join(parts))


def merged(dump: Iterable[bytes]) -> dict[str, WgPeer]:
    """The peers of a whole dump, by public key, of its values of WGDEVICE_A_PEERS.

    A peer whose prefixes do not fit into a message is continued in the next one, which has its
    public key and more prefixes and nothing else.
    """
    peers: dict[str, WgPeer] = {}
    for value in dump:
        for _, entry in _attributes(value):
            found = dict(_attributes(entry))
            key = base64.b64encode(found[_PUBLIC_KEY]).decode()
            prefixes = frozenset(
                _read_prefix(prefix) for _, prefix in _attributes(found.get(_PREFIXES, b""))
            )
            known = peers.get(key)
            if known is None:
                peers[key] = _read_peer(found, prefixes)
            else:
                peers[key] = replace(known, allowed_ips=known.allowed_ips | prefixes)
    return peers


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise ZtError("the kernel's WireGuard sent a message that breaks off")
        yield kind & _TYPE, data[offset + _HEADER.size : offset + length]
        offset += length + -length % 4


def _read_peer(found: dict[int, bytes], prefixes: frozenset[str]) -> WgPeer:
    endpoint = found.get(_ENDPOINT)
    seconds, nanoseconds = struct.unpack("=qq", found.get(_HANDSHAKE, bytes(16)))
    return WgPeer(
        endpoint=_read_endpoint(endpoint) if endpoint else None,
        allowed_ips=prefixes,
        keepalive_s=_number(found.get(_KEEPALIVE)),
        last_handshake_at=seconds + nanoseconds / 1e9,
        rx_bytes=_number(found.get(_RX)),
        tx_bytes=_number(found.get(_TX)),
        preshared_key=_read_preshared(found),
    )


def _read_preshared(found: dict[int, bytes]) -> PresharedKey | None:
    return from_raw(found.get(_PRESHARED_KEY, b""))


def _number(value: bytes | None) -> int:
    """An integer of the host's order; 0 where there is none."""
    return int.from_bytes(value or b"", "little" if _LITTLE else "big")


_LITTLE = struct.pack("=H", 1) == b"\x01\x00"


def _read_endpoint(value: bytes) -> Endpoint:
    (family,) = struct.unpack_from("=H", value)
    port = int.from_bytes(value[2:4], "big")
    if family == socket.AF_INET:
        return Endpoint(address=IPv4Address(value[4:8]), port=port)
    return Endpoint(address=IPv6Address(value[8:24]), port=port)


@functools.lru_cache(maxsize=1 << 16)
def _read_prefix(entry: bytes) -> str:
    found = dict(_attributes(entry))
    family = _number(found[_FAMILY])
    return canonical_prefix(f"{socket.inet_ntop(family, found[_ADDRESS])}/{found[_LENGTH][0]}")
