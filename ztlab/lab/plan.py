"""What a lab is made of, before anything of it exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ztlab.model.config import Role
from ztlab.model.verdict import AuthzMode

COORDINATOR = "coordinator"
SWITCH = "switch"
RESERVED_NODES = frozenset({COORDINATOR, SWITCH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A port that a node of the lab answers on, TCP or UDP, both families."""

    proto: Literal["tcp", "udp"]
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One namespace.

    kind      node: enrolled, runs an agent; host: plain, no agent, reached through a gateway
    identity  None: one of its own, named like the node
    lan       name of the LAN it is attached to: a gateway's inner side, a host's only link
    """

    name: str
    kind: Literal["node", "host"] = "node"
    role: Role = "mesh"
    identity: str | None = None
    lan: str | None = None
    listen: tuple[Listener, ...] = ()
    authz_mode: AuthzMode = AuthzMode.ENFORCE
    logging_enabled: bool = True
    log_granularity: Literal["flow", "packet"] = "flow"


@dataclass(frozen=True, slots=True, kw_only=True)
class LanPlan:
    """A segment behind gateways; hosts route everything to `gateway`.

    prefixes  one IPv4 and/or one IPv6 prefix; the gateway gets the first address, hosts the next,
              and so does another gateway whose `lan` this is
    """

    name: str
    gateway: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabPlan:
    """A whole lab.

    pools     tunnel addresses come from here
    document  the body of PUT /api/v1/network-document: identities, groups, resources, policy
    wireguard, loader  as in agent.toml
    """

    name: str
    nodes: tuple[NodePlan, ...]
    lans: tuple[LanPlan, ...] = ()
    pools: tuple[str, ...] = ("10.77.0.0/16", "fd77::/64")
    document: Mapping[str, Any]
    wireguard: Literal["auto", "kernel", "userspace"] = "auto"
    loader: Literal["auto", "bcc", "libbpf"] = "auto"
