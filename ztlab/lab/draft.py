"""A lab's record before anything of it exists: a pure function of the plan and the clock."""

from __future__ import annotations

import time

from ztlab.lab import files
from ztlab.lab.addressing import LAN_INTERFACE, Cable, bare, cables, namespaces
from ztlab.lab.names import namespace_name
from ztlab.lab.plan import COORDINATOR, LabPlan, NodePlan
from ztlab.lab.state import VERSION, LabRecord, NodeRecord


def draft(plan: LabPlan, *, source: str | None) -> LabRecord:
    """What is written down first, so that whatever follows can be found and removed again."""
    wires = cables(plan)
    planned = {node.name: node for node in plan.nodes}
    records = tuple(_record(name, planned.get(name), wires) for name in namespaces(plan))
    coordinator = next((r for r in records if r.kind == "coordinator"), None)
    url = None
    if coordinator is not None:
        url = f"https://{bare(coordinator.underlay[0])}:{files.COORDINATOR_PORT}"
    return LabRecord(
        version=VERSION,
        name=plan.name,
        state="building",
        created_at=time.time(),
        names=tuple(namespace_name(plan.name, r.name) for r in records),
        nodes=records,
        coordinator_url=url,
        source=source,
    )


def _record(name: str, node: NodePlan | None, wires: tuple[Cable, ...]) -> NodeRecord:
    own = [wire for wire in wires if wire.node == name]
    lan = [a for wire in own if wire.interface == LAN_INTERFACE for a in wire.addresses]
    underlay = [a for wire in own if wire.interface != LAN_INTERFACE for a in wire.addresses]
    if node is None:
        return NodeRecord(
            name=name,
            kind="coordinator" if name == COORDINATOR else "switch",
            underlay=tuple(underlay),
        )
    enrols = node.kind == "node"
    # A client peers with gateways only, and it is the one that calls.
    is_dialled = enrols and node.role != "client"
    return NodeRecord(
        name=name,
        kind=node.kind,
        role=node.role if enrols else None,
        identity=(node.identity or name) if enrols else None,
        lan=node.lan,
        underlay=tuple(underlay),
        lan_addresses=tuple(lan),
        listen=tuple(f"{x.proto}/{x.port}" for x in node.listen),
        endpoint=f"{bare(underlay[0])}:{files.WIREGUARD_PORT}" if is_dialled else None,
    )
