"""Labs that several tests build."""

from __future__ import annotations

from ztlab.lab.plan import LabPlan, LanPlan, Listener, NodePlan

TCP = Listener(proto="tcp", port=8080)


def mesh(name: str) -> LabPlan:
    """web may talk to api on 8080, and nobody else to anybody."""
    return LabPlan(
        name=name,
        nodes=(
            NodePlan(name="alice", identity="web"),
            NodePlan(name="bob", identity="api", listen=(TCP,)),
            NodePlan(name="carol", identity="guest"),
        ),
        document={
            "identities": ["web", "api", "guest"],
            "groups": {},
            "resources": [],
            "policy": {
                "default": "deny",
                "rules": [
                    {
                        "id": "web-to-api",
                        "from": "web",
                        "to": "api",
                        "proto": "tcp",
                        "ports": [8080],
                        "action": "allow",
                    }
                ],
                "tests": [],
            },
        },
    )


def gateway(name: str) -> LabPlan:
    """A client, a gateway, and a plain host behind it."""
    return LabPlan(
        name=name,
        nodes=(
            NodePlan(name="laptop", role="client"),
            NodePlan(name="gate", role="gateway", lan="office"),
            NodePlan(name="files", kind="host", lan="office", listen=(TCP,)),
        ),
        lans=(LanPlan(name="office", gateway="gate", prefixes=("192.168.50.0/24", "fd50::/64")),),
        document={
            "identities": ["laptop", "gate"],
            "groups": {},
            "resources": [
                {"name": "files-v4", "cidr": "192.168.50.0/24", "gateway": "gate", "via": []},
                {"name": "files-v6", "cidr": "fd50::/64", "gateway": "gate", "via": []},
            ],
            "policy": {
                "default": "deny",
                "rules": [
                    {
                        "id": f"laptop-to-{family}",
                        "from": "laptop",
                        "to": f"files-{family}",
                        "proto": "tcp",
                        "ports": [8080],
                        "action": "allow",
                    }
                    for family in ("v4", "v6")
                ],
                "tests": [],
            },
        },
    )
