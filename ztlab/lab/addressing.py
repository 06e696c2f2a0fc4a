"""Who has which address in a lab's underlay and LANs: a pure function of the plan.

Every lab uses the same underlay: its namespaces are cut off from everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from ztlab.errors import SchemaError
from ztlab.lab.plan import COORDINATOR, SWITCH, LabPlan

UNDERLAY = (IPv4Network("198.18.0.0/16"), IPv6Network("fd18::/64"))
UNDERLAY_INTERFACE = "eth0"
LAN_INTERFACE = "lan0"
UNDERLAY_BRIDGE = "underlay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cable:
    """A veth from one node into one bridge of the switch.

    interface  its name in the node; addresses  with prefix length, "198.18.0.2/16"
    gateways   default routes of the node go to these addresses
    """

    node: str
    bridge: str
    interface: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...] = ()


def bridge_name(index: int) -> str:
    """The bridge of the LAN that stands at INDEX in the plan."""
    return f"lan{index}"


def underlay_nodes(plan: LabPlan) -> tuple[str, ...]:
    """Who is on the underlay, in address order: the coordinator (if anybody enrols), then nodes.

    A lab of plain hosts without a LAN is a network too: those hosts are on the underlay.
    """
    nodes = tuple(n.name for n in plan.nodes if n.kind == "node")
    hosts = tuple(n.name for n in plan.nodes if n.kind == "host" and n.lan is None)
    return ((COORDINATOR,) if nodes else ()) + nodes + hosts


def namespaces(plan: LabPlan) -> tuple[str, ...]:
    """Every namespace of the lab: the switch, the coordinator if there is one, the nodes."""
    coordinator = (COORDINATOR,) if any(n.kind == "node" for n in plan.nodes) else ()
    return (SWITCH, *coordinator, *(n.name for n in plan.nodes))


def cables(plan: LabPlan) -> tuple[Cable, ...]:
    """Every cable of the lab; SchemaError where a prefix has no room for its hosts."""
    underlay = [
        Cable(
            node=name,
            bridge=UNDERLAY_BRIDGE,
            interface=UNDERLAY_INTERFACE,
            addresses=tuple(_interface(net, i) for net in UNDERLAY),
        )
        for i, name in enumerate(underlay_nodes(plan), start=1)
    ]
    return (*underlay, *_lan_cables(plan))


def _lan_cables(plan: LabPlan) -> Iterator[Cable]:
    for number, lan in enumerate(plan.lans):
        prefixes = [ip_network(prefix) for prefix in lan.prefixes]
        hosts = [n.name for n in plan.nodes if n.lan == lan.name and n.name != lan.gateway]
        for net in prefixes:
            # The last address of an IPv4 prefix is its broadcast address.
            if len(hosts) + 1 > net.num_addresses - (2 if net.version == 4 else 1):
                raise SchemaError([f"lans.{lan.name}: {net} has no room for {len(hosts) + 1}"])
        gateways = tuple(str(net[1]) for net in prefixes)
        # A second gateway is on the LAN like a host, and needs no way out through the first.
        routers = {lan.gateway, *(n.name for n in plan.nodes if n.role == "gateway")}
        for i, name in enumerate((lan.gateway, *hosts), start=1):
            yield Cable(
                node=name,
                bridge=bridge_name(number),
                interface=LAN_INTERFACE,
                addresses=tuple(_interface(net, i) for net in prefixes),
                gateways=() if name in routers else gateways,
            )


def _interface(net: IPv4Network | IPv6Network, index: int) -> str:
    return f"{net[index]}/{net.prefixlen}"


def bare(address: str) -> str:
    """An address without its prefix length."""
    return address.partition("/")[0]
