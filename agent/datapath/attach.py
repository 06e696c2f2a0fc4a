"""Our two filters on an interface: clsact, direct action, at a place of their own.

The fence around pyroute2's traffic control. Other people's filters and qdiscs are never touched: a
filter of ours is known by its handle and its name, which carries the program's number. pyroute2 is
imported by who needs it: loading the programs for an interface that is yet to be made does not.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from agent.abi import PROGRAMS
from agent.datapath.maps import program_id
from ztlab.errors import HostUnfit, NotFound, ZtError
from ztlab.model.verdict import Hook

_PARENT = {Hook.INGRESS: 0xFFFFFFF2, Hook.EGRESS: 0xFFFFFFF3}
_CLSACT_HANDLE = 0xFFFF0000
_HANDLE = 0x7A74  # "zt"
_PRIO = 1  # first: nobody may accept a packet before it is judged


def attach(interface: str, programs: Mapping[Hook, int]) -> None:
    """Put the PROGRAMS (hook to file descriptor) on INTERFACE, each in one atomic step in place of
    an older one of ours. NotFound without that interface; ZtError where somebody has the place."""
    with _netlink() as ip:
        index = _index(ip, interface)
        _ensure_clsact(ip, index, interface)
        for hook, fd in programs.items():
            _replace(ip, index, hook, fd, interface)


def detach(interface: str) -> None:
    """Take our filters off INTERFACE, and the qdisc where no filter is left; others' stay."""
    with _netlink() as ip:
        found = ip.link_lookup(ifname=interface)
        if not found:
            return
        index = found[0]
        if not _has_clsact(ip, index):
            return
        for hook, parent in _PARENT.items():
            if _name_of_ours(ip, index, hook) is not None:
                ip.tc("del-filter", "bpf", index, handle=_HANDLE, prio=_PRIO, parent=parent)
        if not any(_filters(ip, index, hook) for hook in _PARENT):
            ip.tc("del", "clsact", index)


def attached(interface: str, programs: Mapping[Hook, int]) -> dict[Hook, bool]:
    """At which hooks of INTERFACE exactly these PROGRAMS run; nowhere if there is no interface."""
    with _netlink() as ip:
        found = ip.link_lookup(ifname=interface)
        if not found or not _has_clsact(ip, found[0]):
            return dict.fromkeys(programs, False)
        return {
            hook: _name_of_ours(ip, found[0], hook) == _name(hook, fd)
            for hook, fd in programs.items()
        }


def numbers(interface: str) -> frozenset[int]:
    """The kernel's numbers of the programs of ours that run on INTERFACE, whoever attached them."""
    try:
        socket.if_nametoindex(interface)
    except OSError:
        return frozenset()
    with _netlink() as ip:
        found = ip.link_lookup(ifname=interface)
        if not found or not _has_clsact(ip, found[0]):
            return frozenset()
        names = [_name_of_ours(ip, found[0], hook) for hook in _PARENT]
    tails = (name.rpartition(":")[2] for name in names if name)
    return frozenset(int(tail) for tail in tails if tail.isdigit())


def _netlink() -> Any:
    from agent.netlink import IPRoute

    return IPRoute()


def _name(hook: Hook, fd: int) -> str:
    """pyroute2 does not read the program's number that the kernel gives, so the name carries it."""
    return f"{PROGRAMS[hook]}:{program_id(fd)}"


def _index(ip: Any, interface: str) -> int:
    found = ip.link_lookup(ifname=interface)
    if not found:
        raise NotFound(f"no interface {interface!r} in this network namespace")
    return int(found[0])


def _has_clsact(ip: Any, index: int) -> bool:
    return any(
        qdisc["handle"] == _CLSACT_HANDLE and qdisc.get_attr("TCA_KIND") == "clsact"
        for qdisc in ip.get_qdiscs(index)
    )


def _ensure_clsact(ip: Any, index: int, interface: str) -> None:
    from agent.netlink import NetlinkError

    if _has_clsact(ip, index):
        return
    try:
        ip.tc("add", "clsact", index)
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            hint = f"an ingress qdisc holds its place: tc qdisc del dev {interface} ingress"
            raise ZtError(f"cannot add clsact to {interface}", hint=hint) from error
        raise HostUnfit(
            f"cannot add clsact to {interface}: {error}",
            hint="run as root, on a kernel with CONFIG_NET_SCH_INGRESS",
        ) from error


def _replace(ip: Any, index: int, hook: Hook, fd: int, interface: str) -> None:
    from agent.netlink import NetlinkError

    name = _name(hook, fd)
    # Its handle in use by another name would be somebody else's filter.
    if _name_of_ours(ip, index, hook) is None and _handle_is_taken(ip, index, hook):
        raise ZtError(
            f"another filter has handle {_HANDLE:#x} on {interface} {hook.word}",
            hint=f"see: tc filter show dev {interface} {hook.word}",
        )
    try:
        ip.tc(
            "replace-filter",
            "bpf",
            index,
            handle=_HANDLE,
            prio=_PRIO,
            fd=fd,
            name=name,
            parent=_PARENT[hook],
            direct_action=True,
        )
    except NetlinkError as error:
        raise ZtError(
            f"cannot attach to {interface} {hook.word}: {error}",
            hint=f"priority {_PRIO} must be free: tc filter show dev {interface} {hook.word}",
        ) from error


def _filters(ip: Any, index: int, hook: Hook) -> list[Any]:
    """Every filter at HOOK, of anybody; the kernel's heads of priorities are none."""
    from agent.netlink import NetlinkError

    with suppress(NetlinkError):  # the qdisc went away meanwhile
        return [f for f in ip.get_filters(index, parent=_PARENT[hook]) if f["handle"]]
    return []


def _handle_is_taken(ip: Any, index: int, hook: Hook) -> bool:
    return any(f["handle"] == _HANDLE for f in _filters(ip, index, hook))


def _name_of_ours(ip: Any, index: int, hook: Hook) -> str | None:
    for found in _filters(ip, index, hook):
        options = found.get_attr("TCA_OPTIONS")
        if found["handle"] != _HANDLE or found.get_attr("TCA_KIND") != "bpf" or not options:
            continue
        name = options.get_attr("TCA_BPF_NAME") or ""
        if name.split(":")[0] == PROGRAMS[hook]:
            return str(name)
    return None
