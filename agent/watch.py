"""What the kernel tells of changes to our interface, its filters and our tables, as they happen.

Plain netlink sockets (rtnetlink(7); nfnetlink for nftables, linux/netfilter/nf_tables.h): messages
are only looked at so far as to know whether they concern us; what is wrong is then read anew.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections.abc import Iterator

from ztlab.errors import HostUnfit

_ROUTE, _NETFILTER = 0, 12  # NETLINK_ROUTE, NETLINK_NETFILTER
_LINK, _TC = 1 << 0, 1 << 3  # RTNLGRP_LINK, RTNLGRP_TC
_NFTABLES = 1 << 6  # NFNLGRP_NFTABLES
_LINKS = frozenset({16, 17})  # RTM_NEWLINK, RTM_DELLINK
_FILTERS = frozenset({37, 45})  # RTM_DELQDISC, RTM_DELTFILTER
_DELETIONS = frozenset({10 << 8 | kind for kind in (2, 5, 8)})  # nftables: table, chain, rule
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_IFNAME, _TABLE = 3, 1  # IFLA_IFNAME; NFTA_TABLE_NAME, and of chains and rules NFTA_*_TABLE
_RECEIVE_BYTES = 1 << 16


class HostWatch:
    """Wakes its one waiter when something of ours may have been changed by somebody."""

    def __init__(self, interface: str) -> None:
        self._name = interface.encode()
        self._tables = frozenset({f"zt_{interface}".encode(), f"zt_nat_{interface}".encode()})
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._sockets = [_listening(_ROUTE, _LINK | _TC), _listening(_NETFILTER, _NFTABLES)]
        self._index = _index_of(interface)
        self._poll = select.poll()
        for descriptor in (self._bell, *(s.fileno() for s in self._sockets)):
            self._poll.register(descriptor, select.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        """Until something of ours changed (True), or `wake`, or TIMEOUT_S have passed (False)."""
        concerned = False
        for descriptor, _ in self._poll.poll(max(0, int(timeout_s * 1000))):
            if descriptor == self._bell:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._bell)
        for each in self._sockets:
            concerned |= self._drained(each)
        return concerned

    def wake(self) -> None:
        """End the present `wait`, or the next. Safe in a signal handler."""
        os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        for each in self._sockets:
            each.close()
        os.close(self._bell)

    def _drained(self, each: socket.socket) -> bool:
        """Read all that EACH has; does any of it concern us?"""
        concerned = False
        while True:
            try:
                data = each.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return concerned
            except OSError:  # ENOBUFS: there was more than it could hold, so anything may be
                concerned = True
                continue
            concerned |= any([self._concerns(kind, body) for kind, body in _messages(data)])

    def _concerns(self, kind: int, body: bytes) -> bool:
        if kind in _LINKS:
            (index,) = struct.unpack_from("=i", body, 4)  # struct ifinfomsg
            if self._name in _values(body[16:], _IFNAME):
                self._index = index
            return bool(index == self._index)
        if kind in _FILTERS:
            (index,) = struct.unpack_from("=i", body, 4)  # struct tcmsg
            return bool(index == self._index)
        return kind in _DELETIONS and any(t in self._tables for t in _values(body[4:], _TABLE))


def _listening(protocol: int, groups: int) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    result = socket.socket(socket.AF_NETLINK, kind, protocol)
    try:
        result.bind((0, groups))
    except OSError as error:
        result.close()
        raise HostUnfit(
            f"cannot listen to what changes on this host: {error.strerror}",
            hint="this needs CAP_NET_ADMIN",
        ) from error
    return result


def _index_of(interface: str) -> int:
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(interface)
    return 0


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, what follows the header) of each message in DATA."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _values(attributes: bytes, wanted: int) -> Iterator[bytes]:
    """The texts of the attributes of kind WANTED, without their final zero."""
    at = 0
    while at + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if length < 4:
            return
        if kind & 0x3FFF == wanted:
            yield attributes[at + 4 : at + length].rstrip(b"\0")
        at += (length + 3) & ~3
