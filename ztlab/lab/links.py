"""Bridges, veths, addresses and routes of a lab, through netlink. Nothing appears in the host's
own network namespace, not even for a moment: each veth is made between two of the lab's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ztlab.lab import syscalls
from ztlab.lab.addressing import UNDERLAY_BRIDGE, Cable, bridge_name
from ztlab.lab.namespaces import call_inside
from ztlab.lab.neighbours import Neighbour, mac, told
from ztlab.lab.plan import SWITCH
from ztlab.lab.state import LabRecord


def lay_cables(record: LabRecord, cables: Iterable[Cable], *, lans: int) -> None:
    """Make the switch's bridges (the underlay's and LANS more) and every cable, up, addressed."""
    wires = tuple(cables)
    assert record.init is not None
    base = f"/proc/{record.init.pid}/fd"
    fds = {n.name: n.namespaces.net for n in record.nodes if n.namespaces is not None}

    def in_the_switch() -> None:
        # Ports of bridges need no IPv6 of their own: it would only add noise to captures.
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        with IPRoute() as netlink:
            names = [UNDERLAY_BRIDGE, *(bridge_name(i) for i in range(lans))]
            bridges = {name: _make_bridge(netlink, name) for name in names}
            for number, wire in enumerate(wires):
                peer = os.open(f"{base}/{fds[wire.node]}", os.O_RDONLY)
                try:
                    _plug_in(netlink, number, bridges[wire.bridge], wire, peer)
                finally:
                    os.close(peer)

    call_inside(record, record.node(SWITCH), in_the_switch)
    neighbours = told(wires)
    for name in dict.fromkeys(wire.node for wire in wires):
        own = [wire for wire in wires if wire.node == name]
        known = neighbours.get(name, ())
        call_inside(record, record.node(name), partial(_configure, own, known))


def _make_bridge(netlink: Any, name: str) -> int:
    netlink.link("add", ifname=name, kind="bridge", br_stp_state=0, br_mcast_snooping=0)
    index: int = netlink.link_lookup(ifname=name)[0]
    netlink.link("set", index=index, state="up")
    return index


def _plug_in(netlink: Any, number: int, bridge: int, wire: Cable, peer_namespace: int) -> None:
    netlink.link(
        "add",
        ifname=f"p{number}",
        kind="veth",
        master=bridge,
        state="up",
        peer={"ifname": wire.interface, "net_ns_fd": peer_namespace, "address": mac(number)},
    )


def _configure(wires: Sequence[Cable], neighbours: Iterable[Neighbour]) -> None:
    """Inside a node: its ends of the cables up, with addresses, default routes, and NEIGHBOURS that
    it need not look for."""
    with IPRoute() as netlink:
        for wire in wires:
            index = netlink.link_lookup(ifname=wire.interface)[0]
            for address in wire.addresses:
                interface = ip_interface(address)
                netlink.addr(
                    "add",
                    index=index,
                    address=str(interface.ip),
                    prefixlen=interface.network.prefixlen,
                )
            netlink.link("set", index=index, state="up")
            for gateway in wire.gateways:
                netlink.route("add", dst="default", gateway=gateway, oif=index)
        indices = {wire.interface: netlink.link_lookup(ifname=wire.interface)[0] for wire in wires}
        for one in neighbours:
            netlink.neigh(
                "add",
                dst=one.address,
                lladdr=one.mac,
                ifindex=indices[one.interface],
                state="permanent",
            )


def why_no_link(kind: str) -> str:
    """Why no interface of KIND can be made here, "" if one can. Tried in a passing namespace."""
    return _why_not(lambda netlink: netlink.link("add", ifname="probe", kind=kind))


def why_no_qdisc(kind: str) -> str:
    """Why no queueing discipline of KIND can be attached, "" if one can; likewise."""

    def attach(netlink: Any) -> None:
        options = {"handle": "1:", "delay": 1000} if kind == "netem" else {}
        netlink.tc("add", kind, netlink.link_lookup(ifname="lo")[0], **options)

    return _why_not(attach)


def _why_not(attempt: Callable[[Any], object]) -> str:
    """Run ATTEMPT in a network namespace that ends with its thread; the kernel's refusal or ""."""
    answer: list[str] = []

    def inside() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            with IPRoute() as netlink:
                attempt(netlink)
        except (NetlinkError, OSError) as error:
            answer.append(str(error.args[-1]))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    return answer[0] if answer else ""
