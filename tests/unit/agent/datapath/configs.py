"""Configurations to test with."""

from __future__ import annotations

from typing import Any

from ztlab.model.config import Identity, NodeConfig, Resource, Self
from ztlab.model.policy import Policy, Rule

NETWORK = "2f1f0f5e-0000-4000-8000-000000000001"
TAGS = {"web": 2, "api": 3, "guest": 4, "lan": 5, "printer": 6}


def rule(id: str, source: str, destination: str, action: str, **service: Any) -> Rule:
    return Rule(id=id, source=source, destination=destination, action=action, **service)  # type: ignore[arg-type]


def node_config(
    *rules: Rule,
    default: str = "deny",
    groups: dict[str, tuple[str, ...]] | None = None,
    role: str = "mesh",
    without: tuple[str, ...] = (),
) -> NodeConfig:
    """`api` is this node (10.0.0.2), `web` and `guest` are peers, `lan` and, inside it, `printer`
    are resources. Identities named in WITHOUT have no address."""
    addresses = {
        "web": ("10.0.0.1/32", "fd00::1/128"),
        "api": ("10.0.0.2/32", "fd00::2/128"),
        "guest": ("10.0.0.3/32", "fd00::3/128"),
    }
    resources = (
        Resource(name="lan", tag=5, cidr="192.168.0.0/16", gateway="gw", via=("10.9.9.9/32",)),
        Resource(name="printer", tag=6, cidr="192.168.7.0/24", gateway="gw"),
        Resource(name="lan6", tag=7, cidr="fd99::/32", gateway="gw"),
    )
    is_client = role == "client"
    return NodeConfig(
        version=1,
        network_id=NETWORK,
        node=Self(
            node_id=NETWORK,
            name="bob",
            role=role,  # type: ignore[arg-type]
            identity="api",
            addresses=addresses["api"],
        ),
        identities=()
        if is_client
        else tuple(
            Identity(name=n, tag=TAGS[n], prefixes=() if n in without else p)
            for n, p in addresses.items()
        ),
        resources=() if is_client else resources,
        policy=None if is_client else Policy(default=default, rules=rules, groups=groups or {}),  # type: ignore[arg-type]
    )
