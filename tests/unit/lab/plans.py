"""Plans that several tests use."""

from __future__ import annotations

from ztlab.lab.plan import LabPlan, LanPlan, Listener, NodePlan

MESH = LabPlan(
    name="mesh",
    nodes=(
        NodePlan(name="alice", identity="web"),
        NodePlan(name="bob", listen=(Listener(proto="tcp", port=8080),)),
    ),
    document={},
)

BEHIND_A_GATEWAY = LabPlan(
    name="behind",
    nodes=(
        NodePlan(name="laptop", role="client"),
        NodePlan(name="gate", role="gateway", lan="office"),
        NodePlan(name="printer", kind="host", lan="office"),
        NodePlan(name="files", kind="host", lan="office"),
    ),
    lans=(LanPlan(name="office", gateway="gate", prefixes=("192.168.9.0/24", "fd09::/64")),),
    document={},
)

HOSTS = LabPlan(
    name="hosts",
    nodes=(NodePlan(name="h1", kind="host"), NodePlan(name="h2", kind="host")),
    document={},
)
