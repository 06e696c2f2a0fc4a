"""The kernel's WireGuard, through pyroute2's generic netlink.

pyroute2 brings the socket and the device's attributes; the peers, many in one message, are packed
and read by `messages`. Changes are incremental: nobody is ever listed anew.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable
from typing import Any, Literal

from pyroute2.netlink import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    genlmsg,
    nla_base_string,
)
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket
from pyroute2.netlink.generic import wireguard as uapi

from agent.wireguard.backend import PeerSpec, WgState, nobodys_key
from agent.wireguard.links import Links
from agent.wireguard.messages import (
    PEER_REMOVE,
    PeerChange,
    batches,
    merged,
)
from agent.wireguard.preshared import KEY_BYTES
from ztlab.errors import HostUnfit, ZtError

# At debug it logs every message whole: private and preshared keys among them.
logging.getLogger("pyroute2").setLevel(logging.INFO)

KIND = "wireguard"
READINGS = 20  # at most, of a dump that the changes of others interrupt


class _PackedPeers(nla_base_string):  # type: ignore[misc]
    """WGDEVICE_A_PEERS as bytes: made and read by `messages`, not attribute by attribute."""

    __slots__ = ()
    nla_flags = NLA_F_NESTED


class DeviceMessage(genlmsg):  # type: ignore[misc]
    """pyroute2's wgmsg, but for the peers."""

    prefix = uapi.wgmsg.prefix
    nla_map = (*uapi.wgmsg.nla_map[:-1], ("WGDEVICE_A_PEERS", "packed_peers"))
    parse_wg_key = uapi.wgmsg.parse_wg_key
    packed_peers = _PackedPeers


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
        self._netlink = GenericNetlinkSocket()
        self._netlink.bind(uapi.WG_GENL_NAME, DeviceMessage)

    def configure(self, *, private_key: str, listen_port: int, fwmark: int) -> None:
        self._set(
            "private key, port and fwmark",
            WGDEVICE_A_PRIVATE_KEY=private_key,
            WGDEVICE_A_LISTEN_PORT=listen_port,
            WGDEVICE_A_FWMARK=fwmark,
        )

    def set_peers(self, peers: Iterable[PeerSpec]) -> None:
        self._change(_as_change(peer) for peer in peers)

    def remove_peers(self, public_keys: Iterable[str]) -> None:
        self._change(PeerChange(public_key=key, flags=PEER_REMOVE) for key in public_keys)

    def remove_prefixes(self, public_key: str, prefixes: Iterable[str]) -> None:
        nobody = nobodys_key()
        self._change(
            (
                PeerChange(public_key=nobody, prefixes=tuple(sorted(prefixes))),
                PeerChange(public_key=nobody, flags=PEER_REMOVE),
            )
        )

    def state(self) -> WgState:
        try:
            for _ in range(READINGS):
                dump = self._dump()
                if not any(m["header"]["flags"] & NLM_F_DUMP_INTR for m in dump):
                    return _state(dump)
        except NetlinkError as error:
            raise ZtError(f"cannot read {self._interface}: {error.args[1]}") from error
        raise ZtError(f"cannot read {self._interface}: somebody changes it all the while")

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

    def _change(self, changes: Iterable[PeerChange]) -> None:
        for peers in batches(changes):
            self._set("peers", WGDEVICE_A_PEERS=peers)

    def _set(self, what: str, **attributes: Any) -> None:
        try:
            self._request(**attributes)
        except NetlinkError as error:
            # Says what was set, by name only: there are secrets among the values.
            raise ZtError(f"cannot set {what} of {self._interface}: {error.args[1]}") from None

    def _request(self, **attributes: Any) -> None:
        message = self._message(uapi.WG_CMD_SET_DEVICE)
        message["attrs"] += [[name, value] for name, value in attributes.items()]
        netlink = self._opened
        netlink.nlm_request(message, msg_type=netlink.prid, msg_flags=NLM_F_REQUEST | NLM_F_ACK)

    def _dump(self) -> list[Any]:
        netlink = self._opened
        message = self._message(uapi.WG_CMD_GET_DEVICE)
        flags = NLM_F_REQUEST | NLM_F_DUMP
        return list(netlink.nlm_request(message, msg_type=netlink.prid, msg_flags=flags))

    def _message(self, command: int) -> Any:
        message = DeviceMessage()
        message["cmd"] = command
        message["version"] = uapi.WG_GENL_VERSION
        message["attrs"] = [["WGDEVICE_A_IFNAME", self._interface]]
        return message


def _as_change(peer: PeerSpec) -> PeerChange:
    key = peer.preshared_key
    return PeerChange(
        public_key=peer.public_key,
        preshared_key=key.reveal() if key else bytes(KEY_BYTES),
        endpoint=peer.endpoint,
        keepalive_s=peer.keepalive_s,
        prefixes=tuple(sorted(peer.allowed_ips)),
    )


def _state(dump: list[Any]) -> WgState:
    """One state of all messages of a dump; only the first has what belongs to the interface."""
    public_key, listen_port = "", 0
    for message in dump:
        public_key = _text(message.get_attr("WGDEVICE_A_PUBLIC_KEY")) or public_key
        listen_port = message.get_attr("WGDEVICE_A_LISTEN_PORT") or listen_port
    values = (message.get_attr("WGDEVICE_A_PEERS") or b"" for message in dump)
    return WgState(public_key=public_key, listen_port=listen_port, peers=merged(values))


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
