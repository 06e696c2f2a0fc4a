"""A scenario as its file writes it: what to build, the steps, and what each must show.

One class per mapping of the file, keys spelled alike ("from" and "as" are keywords in Python). What
stands inside lists is checked in check.py, so that each wrong item is named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Literal

from ztlab.lab import names
from ztlab.lab.plan import LabPlan, LanPlan, Listener, NodePlan
from ztlab.model.codec import encode, field
from ztlab.model.config import Role
from ztlab.model.management import DEFAULT_PRIORITY, Offer, check_priority
from ztlab.model.policy import Action, PolicyTest, Quota, Rule, check_name
from ztlab.model.verdict import AuthzMode
from ztlab.scenario.steps import Step

LAB_NAME_MAX = 32  # "<lab>.<node>" must stay a file name that people can read
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LISTENER = re.compile(r"(tcp|udp)/(\d{1,5})")


def check_label(text: str) -> None:
    """A DNS label: nodes are host names on each other."""
    if not _LABEL.fullmatch(text):
        raise ValueError(
            f"want a DNS label (1 to 63 of a-z, 0-9 and '-', not at the ends), got {text!r}"
        )


def check_lab_name(text: str) -> None:
    """A DNS label of at most 32 characters: it begins the name of every namespace of the lab."""
    check_label(text)
    if len(text) > LAB_NAME_MAX:
        raise ValueError(f"want at most {LAB_NAME_MAX} characters, got {len(text)} in {text!r}")


def parse_listener(text: str) -> tuple[Literal["tcp", "udp"], int]:
    """`tcp/8080` as ("tcp", 8080)."""
    match = _LISTENER.fullmatch(text)
    if match is None:
        raise ValueError(f"want tcp/PORT or udp/PORT, got {text!r}")
    port = int(match[2])
    if not 1 <= port <= 65535:
        raise ValueError(f"want a port from 1 to 65535, got {port}")
    return ("tcp" if match[1] == "tcp" else "udp"), port


def check_prefix(text: str) -> None:
    """A prefix in canonical form, its length written out: `192.168.50.0/24`."""
    try:
        ip_network(text, strict=True)
    except ValueError as error:
        raise ValueError(f"want an IP prefix, got {text!r} ({error})") from None
    if "/" not in text:
        raise ValueError(f"want a prefix with its length, got {text!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Local settings of every node that does not name its own."""

    authz_mode: AuthzMode = AuthzMode.ENFORCE
    logging_enabled: bool = True
    log_granularity: Literal["flow", "packet"] = "flow"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One machine.

    kind      node: enrolled, runs an agent; host: plain, no agent, on a LAN behind a gateway
    identity  none given: one of its own, named like the node
    listen    `tcp/8080`, `udp/5353`: it answers there, over both IP families
    lan       the LAN it is on: a gateway's inner side, a host's only link
    """

    kind: Literal["node", "host"] = "node"
    role: Role = "mesh"
    identity: str | None = field(default=None, check=check_name)
    listen: tuple[str, ...] = ()
    lan: str | None = None
    authz_mode: AuthzMode | None = None
    logging_enabled: bool | None = None
    log_granularity: Literal["flow", "packet"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LanSpec:
    """A segment behind a gateway: the gateway has the first address, hosts the next ones."""

    gateway: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSpec:
    """A named CIDR behind a gateway, with an identity of that name.

    priority      of `gateway`: the lowest of all that offer it goes first
    alternatives  other gateways that offer it
    """

    cidr: str = field(check=check_prefix)
    gateway: str
    priority: int = field(default=DEFAULT_PRIORITY, check=check_priority)
    alternatives: tuple[Offer, ...] = ()
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """The policy the lab starts with."""

    default: Action = "deny"
    rules: tuple[Rule, ...] = ()
    tests: tuple[PolicyTest, ...] = ()
    quotas: tuple[Quota, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario file."""

    name: str = field(check=check_lab_name)
    description: str = ""
    defaults: Defaults = field(default_factory=Defaults)
    nodes: Mapping[str, NodeSpec]
    lans: Mapping[str, LanSpec] = field(default_factory=dict)
    identities: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resources: Mapping[str, ResourceSpec] = field(default_factory=dict)
    policy: PolicySpec = field(default_factory=PolicySpec)
    pools: tuple[str, ...] = ("10.77.0.0/16", "fd77::/64")
    wireguard: Literal["auto", "kernel", "userspace"] = "auto"
    loader: Literal["auto", "bcc", "libbpf"] = "auto"
    steps: tuple[Step, ...]

    def identity_of(self, node: str) -> str | None:
        """The identity NODE has; None for a host, which has none of its own."""
        spec = self.nodes[node]
        return None if spec.kind == "host" else (spec.identity or node)

    def all_identities(self) -> tuple[str, ...]:
        """Every identity of the network, named by a node or in `identities`, each once."""
        named = (self.identity_of(node) for node in self.nodes)
        return tuple(dict.fromkeys([*self.identities, *(n for n in named if n is not None)]))

    def logs_at_start(self, node: str) -> bool:
        """Does NODE log when the lab comes up?"""
        own = self.nodes[node].logging_enabled
        return self.defaults.logging_enabled if own is None else own

    def mode_at_start(self, node: str) -> AuthzMode:
        """NODE's authz_mode when the lab comes up."""
        own = self.nodes[node].authz_mode
        return self.defaults.authz_mode if own is None else own

    def plan(self, name: str | None = None) -> LabPlan:
        """The lab to build, called NAME (default: the scenario's own name).

        SchemaError for a NAME that cannot be one.
        """
        names.check_lab_name(name or self.name)
        return LabPlan(
            name=name or self.name,
            nodes=tuple(self._node_plan(node) for node in self.nodes),
            lans=tuple(
                LanPlan(name=lan, gateway=spec.gateway, prefixes=spec.prefixes)
                for lan, spec in self.lans.items()
            ),
            pools=self.pools,
            document=self.document(),
            wireguard=self.wireguard,
            loader=self.loader,
        )

    def document(self) -> dict[str, Any]:
        """The body of PUT /api/v1/network-document (docs/PROTOCOL.md)."""
        return {
            "identities": list(self.all_identities()),
            "groups": {name: list(members) for name, members in self.groups.items()},
            "resources": [
                {
                    "name": name,
                    "cidr": spec.cidr,
                    "gateway": spec.gateway,
                    "priority": spec.priority,
                    "alternatives": encode(spec.alternatives),
                    "via": list(spec.via),
                }
                for name, spec in self.resources.items()
            ],
            "policy": encode(self.policy),
        }

    def _node_plan(self, name: str) -> NodePlan:
        spec = self.nodes[name]
        return NodePlan(
            name=name,
            kind=spec.kind,
            role=spec.role,
            identity=self.identity_of(name),
            lan=spec.lan,
            listen=tuple(
                Listener(proto=proto, port=port) for proto, port in map(parse_listener, spec.listen)
            ),
            authz_mode=self.mode_at_start(name),
            logging_enabled=self.logs_at_start(name),
            log_granularity=spec.log_granularity or self.defaults.log_granularity,
        )
