"""What the agent needs of a WireGuard, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Literal, Protocol

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

    endpoint     None: it calls us, or its name did not resolve
    allowed_ips  prefixes in canonical text form
    keepalive_s  0: none
    """

    public_key: str
    endpoint: Endpoint | None
    allowed_ips: frozenset[str]
    keepalive_s: int


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
    """One WireGuard interface. Errors are ZtErrors; a private key is in none of them."""

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

    def set_peer(self, peer: PeerSpec, *, replace_allowed_ips: bool) -> None:
        """Add or change one peer.

        Without `replace_allowed_ips` the given prefixes are added to those it has, which never
        interrupts the others; an endpoint of None leaves the present one.
        """
        ...

    def remove_peer(self, public_key: str) -> None:
        """Remove one peer; no error where there is none."""
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


def canonical_prefix(text: str) -> str:
    """`10.0.0.1/32` however a WireGuard spells it."""
    return str(ip_network(text, strict=False))
