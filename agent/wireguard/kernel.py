"""The kernel's WireGuard, through pyroute2's generic netlink.

pyroute2 0.9 takes one peer per `set`, has no flag to replace all peers, and answers `info` with
several messages, each with some of the peers; a peer whose AllowedIPs do not fit is continued in
the next message. So changes are incremental, and readings are merged by public key.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, Literal

from pyroute2 import WireGuard
from pyroute2.netlink.exceptions import NetlinkError

from agent.wireguard.backend import Endpoint, PeerSpec, WgPeer, WgState, canonical_prefix
from agent.wireguard.links import Links
from ztlab.errors import HostUnfit, ZtError

KIND = "wireguard"
# A netlink attribute holds 64 KiB; a prefix takes up to 44 bytes in it (family, address, length).
PREFIXES_PER_MESSAGE = 500


class KernelWireGuard:
    """A link of type wireguard."""

    kind: Literal["kernel"] = "kernel"

    def __init__(self, interface: str, links: Links) -> None:
        self._interface = interface
        self._links = links
        self._netlink: Any = None

    def open(self) -> None:
        """Make the link, or adopt the one that is there.

        HostUnfit where this kernel cannot make it: that is the whole probe, no version is read.
        """
        found = self._links.kind(self._interface)
        if found is None:
            try:
                self._links.create(self._interface, KIND)
            except NetlinkError as error:
                if error.code in (errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL):
                    raise HostUnfit(
                        "this kernel has no WireGuard",
                        hint='load its module (wireguard), or set backend = "userspace"',
                    ) from error
                if error.code == errno.EPERM:
                    raise HostUnfit(
                        f"may not make {self._interface}", hint="this needs CAP_NET_ADMIN"
                    ) from error
                raise ZtError(f"cannot make {self._interface}: {error}") from error
        elif found != KIND:
            raise HostUnfit(
                f"there is already an interface {self._interface} of type {found or 'unknown'}",
                hint="remove it, or set another [wireguard] interface",
            )
        self._netlink = WireGuard()

    def configure(self, *, private_key: str, listen_port: int, fwmark: int) -> None:
        self._set(private_key=private_key, listen_port=listen_port, fwmark=fwmark)

    def set_peer(self, peer: PeerSpec, *, replace_allowed_ips: bool) -> None:
        message: dict[str, Any] = {
            "public_key": peer.public_key,
            "persistent_keepalive": peer.keepalive_s,
            "replace_allowed_ips": replace_allowed_ips,
        }
        if peer.endpoint is not None:
            message["endpoint_addr"] = str(peer.endpoint.address)
            message["endpoint_port"] = peer.endpoint.port
        prefixes = sorted(peer.allowed_ips)
        self._set(peer=message | {"allowed_ips": prefixes[:PREFIXES_PER_MESSAGE]})
        for start in range(PREFIXES_PER_MESSAGE, len(prefixes), PREFIXES_PER_MESSAGE):
            more = prefixes[start : start + PREFIXES_PER_MESSAGE]
            self._set(peer={"public_key": peer.public_key, "allowed_ips": more})

    def remove_peer(self, public_key: str) -> None:
        self._set(peer={"public_key": public_key, "remove": True})

    def state(self) -> WgState:
        try:
            messages = list(self._opened.info(self._interface))
        except NetlinkError as error:
            raise ZtError(f"cannot read {self._interface}: {error}") from error
        return merged(messages)

    def is_alive(self) -> bool:
        return self._links.kind(self._interface) == KIND

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None
        self._links.delete(self._interface)

    @property
    def _opened(self) -> Any:
        if self._netlink is None:
            raise ZtError(f"the interface {self._interface} is not open")
        return self._netlink

    def _set(self, **what: Any) -> None:
        try:
            self._opened.set(self._interface, **what)
        except NetlinkError as error:
            # The message says what was set, by name only: a private key is among the values.
            raise ZtError(
                f"cannot set {', '.join(what)} of {self._interface}: {error.args[1]}"
            ) from None


def merged(messages: Iterable[Any]) -> WgState:
    """One state of all messages of a dump."""
    public_key, listen_port = "", 0
    peers: dict[str, WgPeer] = {}
    for message in messages:
        public_key = _text(message.get_attr("WGDEVICE_A_PUBLIC_KEY")) or public_key
        listen_port = message.get_attr("WGDEVICE_A_LISTEN_PORT") or listen_port
        for entry in message.get_attr("WGDEVICE_A_PEERS") or ():
            key = _text(entry.get_attr("WGPEER_A_PUBLIC_KEY"))
            prefixes = frozenset(
                canonical_prefix(prefix["addr"])
                for prefix in entry.get_attr("WGPEER_A_ALLOWEDIPS") or ()
            )
            known = peers.get(key)
            if known is None:
                peers[key] = _peer(entry, prefixes)
            else:
                peers[key] = replace(known, allowed_ips=known.allowed_ips | prefixes)
    return WgState(public_key=public_key, listen_port=listen_port, peers=peers)


def _peer(entry: Any, prefixes: frozenset[str]) -> WgPeer:
    endpoint = entry.get_attr("WGPEER_A_ENDPOINT")
    handshake = entry.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME") or {"tv_sec": 0, "tv_nsec": 0}
    return WgPeer(
        endpoint=endpoint
        and Endpoint(address=ip_address(endpoint["addr"]), port=int(endpoint["port"])),
        allowed_ips=prefixes,
        keepalive_s=entry.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
        last_handshake_at=handshake["tv_sec"] + handshake["tv_nsec"] / 1e9,
        rx_bytes=entry.get_attr("WGPEER_A_RX_BYTES") or 0,
        tx_bytes=entry.get_attr("WGPEER_A_TX_BYTES") or 0,
    )


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
