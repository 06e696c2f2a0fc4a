"""Networks as values, and as stores, for the tests of this package."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from coordinator.settings import Settings
from coordinator.state import NetworkState, NodeState, ResourceState
from ztlab.model.config import Role
from ztlab.model.policy import Policy, Rule

NETWORK_ID = "11111111-1111-4111-8111-111111111111"


def key(number: int) -> str:
    """A public key that is valid, and recognisable."""
    return base64.b64encode(bytes([number]) * 31 + b"\x01").decode()


def node(
    number: int, name: str, role: Role, identity: str | None = None, endpoint: bool = True
) -> NodeState:
    """Node NUMBER, at 10.77.0.NUMBER and fd77::NUMBER."""
    return NodeState(
        id=f"00000000-0000-4000-8000-{number:012d}",
        name=name,
        role=role,
        identity=identity or name,
        public_key=key(number),
        endpoint=f"198.18.0.{number}:51820" if endpoint else None,
        addresses=(f"10.77.0.{number}/32", f"fd77::{number}/128"),
    )


def network(*nodes: NodeState, **changes: Any) -> NetworkState:
    """A network of NODES, with a rule from web to db and a resource `db` behind gateway gw1."""
    names = sorted({node.identity for node in nodes} | {"web", "nobody"})
    values: dict[str, Any] = {
        "network_id": NETWORK_ID,
        "pools": ("10.77.0.0/16", "fd77::/64"),
        "nodes": tuple(sorted(nodes, key=lambda node: node.name)),
        "identities": {name: 2 + i for i, name in enumerate(names)},
        "resources": (
            ResourceState(
                name="db", tag=100, cidr="192.0.2.0/24", gateway="gw1", via=("203.0.113.1/32",)
            ),
        ),
        "policy": Policy(
            rules=(Rule(id="r", source="web", destination="db", action="allow"),),
            groups={"people": ("web",)},
        ),
        **changes,
    }
    return NetworkState(**values)


def settings(directory: Path, **changes: Any) -> Settings:
    """Settings of a coordinator whose state is in DIRECTORY."""
    values: dict[str, Any] = {
        "state_dir": str(directory),
        "listen": "127.0.0.1:8443",
        "names": ("127.0.0.1", "localhost"),
        "network": "test",
        "pools": ("10.77.0.0/29", "fd77::/64"),
        **changes,
    }
    return Settings(**values)
