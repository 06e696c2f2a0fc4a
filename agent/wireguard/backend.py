"""What the agent needs of a WireGuard, whichever it is."""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Literal, Protocol

from agent.wireguard.preshared import PresharedKey
from ztlab.errors import ZtError

Address = IPv4Address | IPv6Address
Table = Literal["main", "tunnel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a peer's UDP packets go: an address, resolved, and a port."""

    address: Address
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSpec:
    """What a peer shall be.

    endpoint       None: it calls us, or its name did not resolve
    allowed_ips    prefixes in canonical text form
    keepalive_s    0: none
    preshared_key  None: none
    """

    public_key: str
    endpoint: Endpoint | None
    allowed_ips: frozenset[str]
    keepalive_s: int
    preshared_key: PresharedKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WgPeer:
    """What a peer is, read back from the interface.

    endpoint           where its last valid packet came from, which need not be where we were told
    last_handshake_at  Unix time in seconds; 0.0: there was none since the peer was made
    rx_bytes           encrypted bytes since the peer was made (not since the last reading)
    """

    endpoint: Endpoint | None
    allowed_ips: frozenset[str]
    keepalive_s: int
    last_handshake_at: float
    rx_bytes: int
    tx_bytes: int
    preshared_key: PresharedKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WgState:
    """The interface as it is. public_key is empty before a private key was set; peers by key."""

    public_key: str
    listen_port: int
    peers: Mapping[str, WgPeer]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Route:
    """A prefix that goes into the tunnel, from the main table or from the tunnel's own."""

    prefix: str
    table: Table = "main"


class Backend(Protocol):
    """One WireGuard interface. Errors are ZtErrors; no private or preshared key is in them."""

    @property
    def kind(self) -> Literal["kernel", "userspace"]:
        """Which WireGuard it is, for status and metrics."""
        ...

    def open(self) -> None:
        """Make the interface, down, or adopt the one a predecessor left."""
        ...

    def configure(self, *, private_key: str, listen_port: int, fwmark: int) -> None:
        """Set what belongs to the interface itself."""
        ...

    def set_peers(self, peers: Iterable[PeerSpec]) -> None:
        """Add or change peers, in this order.

        The prefixes are added to those a peer has, which never interrupts the others; an endpoint
        of None leaves the present one; a preshared key of None removes it.
        """
        ...

    def remove_prefixes(self, public_key: str, prefixes: Iterable[str]) -> None:
        """Take prefixes from a peer; those it keeps are in force all the while.

        A prefix that it does not have may be taken from whoever has it.
        """
        ...

    def remove_peers(self, public_keys: Iterable[str]) -> None:
        """Remove peers; no error where there is none."""
        ...

    def state(self) -> WgState:
        """Read the interface back."""
        ...

    def is_alive(self) -> bool:
        """Is the interface still there (and the process behind it)?"""
        ...

    def close(self) -> None:
        """Remove the interface. Safe to repeat."""
        ...


def port_taken(interface: str, listen_port: int, why: str) -> ZtError:
    """Somebody else has INTERFACE's UDP port."""
    return ZtError(
        f"{interface} cannot listen on UDP port {listen_port}: {why}",
        hint="set another [wireguard] listen_port",
    )


@functools.lru_cache(maxsize=1 << 16)
def canonical_prefix(text: str) -> str:
    """`10.0.0.1/32` however a WireGuard spells it; cached: all are read again each second."""
    return str(ip_network(text, strict=False))


def nobodys_key() -> str:
    """A public key whose private half nobody has any more, of a peer that lives only to be removed.

    It takes along the prefixes that another peer shall lose: they move to it in one step (the
    documented stealing of AllowedIPs). To list those that stay anew would leave the other peer
    without them for as long as that takes, and the flags for taking a single prefix away came late
    (Linux 6.16, wireguard-go of 2025).
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    return base64.b64encode(public).decode()
