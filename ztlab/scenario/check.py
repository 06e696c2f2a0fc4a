"""What the schema cannot see: names nobody has, and settings that contradict each other.

`name_faults` needs only the parts that name each other; `sense_faults` wants a whole scenario whose
names are right. Both yield lines of "path: what is wrong".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from ztlab.lab.plan import RESERVED_NODES
from ztlab.model.codec import did_you_mean
from ztlab.model.identity import RESERVED_NAMES, UNKNOWN, WORLD
from ztlab.model.policy import Policy, Quota, Rule, check_name, dangling_names
from ztlab.scenario import sense
from ztlab.scenario.model import PolicySpec, Scenario, check_label, check_prefix, parse_listener
from ztlab.scenario.steps import (
    Drain,
    Forge,
    PolicyChange,
    Probe,
    RunCommand,
    SetLocal,
    Stream,
    Transfer,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Every name a file gives to something, also where the thing itself is faulty.

    hosts  the nodes of kind host, which run no agent
    """

    nodes: frozenset[str]
    hosts: frozenset[str]
    lans: frozenset[str]
    identities: Mapping[str, tuple[str, ...]]
    groups: frozenset[str]
    resources: frozenset[str]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Names:
        """The names in DATA, whatever else is wrong with it."""
        nodes = _mapping(data, "nodes")
        hosts = {name for name, spec in nodes.items() if _get(spec, "kind") == "host"}
        listed = data.get("identities")
        identities: dict[str, tuple[str, ...]] = {
            name: () for name in (listed if isinstance(listed, list) else ()) if _text(name)
        }
        for node, spec in nodes.items():
            if node not in hosts:
                identity = _get(spec, "identity")
                identity = identity if _text(identity) else node
                identities[identity] = (*identities.get(identity, ()), node)
        return cls(
            nodes=frozenset(nodes),
            hosts=frozenset(hosts),
            lans=frozenset(_mapping(data, "lans")),
            identities=identities,
            groups=frozenset(_mapping(data, "groups")),
            resources=frozenset(_mapping(data, "resources")),
        )

    @property
    def agents(self) -> frozenset[str]:
        """The nodes that run an agent."""
        return self.nodes - self.hosts

    @property
    def principals(self) -> frozenset[str]:
        """What an event or a metric can call an end of a flow."""
        return frozenset(self.identities) | self.resources | {WORLD, UNKNOWN}

    def node_fault(self, name: str, *, known: frozenset[str] | None = None) -> str | None:
        """Why NAME is not one of the nodes (or of KNOWN), or nothing."""
        known = self.nodes if known is None else known
        if name in known:
            return None
        if name in self.hosts:
            return f"{name!r} is a host: it runs no agent"
        if name in self.identities:
            carriers = ", ".join(self.identities[name]) or "no node"
            return f"{name!r} is an identity, not a node; it belongs to {carriers}"
        if name in self.resources:
            return f"{name!r} is a resource, not a node; name a host inside it"
        return f"no node is called {name!r}{did_you_mean(name, known)}"


def name_faults(scenario: Scenario, names: Names) -> Iterator[str]:
    """Every name in SCENARIO that nobody has or two things have, every list item that is wrong."""
    yield from _items(scenario)
    yield from _own_names(scenario, names)
    yield from _places(scenario, names)
    yield from _policy_names(scenario, names)
    for i, step in enumerate(scenario.steps):
        yield from _action_names(f"steps[{i}]", step.action, names)
        yield from _expect_names(f"steps[{i}].expect", step.expect, names)


def sense_faults(scenario: Scenario) -> Iterator[str]:
    """Contradictions in a scenario whose names are all right."""
    yield from sense.network_faults(scenario)
    yield from sense.step_faults(scenario)


def _own_names(scenario: Scenario, names: Names) -> Iterator[str]:
    if not names.agents:
        yield "nodes: want at least one node that is not a host"
    for name in scenario.nodes:
        if name in RESERVED_NODES:
            yield f"nodes.{name}: the lab keeps this name for itself"
        try:
            check_label(name)
        except ValueError as error:
            yield f"nodes.{name}: {error}"
    for i, name in enumerate(scenario.identities):
        yield from _name_fault(f"identities[{i}]", name)
    for path, taken in (("groups", names.groups), ("resources", names.resources)):
        for name in sorted(taken):
            yield from _name_fault(f"{path}.{name}", name)
            if name in names.identities:
                yield f"{path}.{name}: an identity has this name already"
    for name in sorted(names.groups & names.resources):
        yield f"groups.{name}: a resource has this name already"
    for node, spec in scenario.nodes.items():
        if spec.identity in RESERVED_NAMES:
            yield f"nodes.{node}.identity: {spec.identity!r} means something else already"


def _items(scenario: Scenario) -> Iterator[str]:
    """Listeners and prefixes, one by one."""
    for node, spec in scenario.nodes.items():
        yield from _each(f"nodes.{node}.listen", spec.listen, parse_listener)
    for lan, segment in scenario.lans.items():
        yield from _each(f"lans.{lan}.prefixes", segment.prefixes, check_prefix)
    for resource, spec_ in scenario.resources.items():
        yield from _each(f"resources.{resource}.via", spec_.via, check_prefix)
    yield from _each("pools", scenario.pools, check_prefix)


def _each(path: str, items: Iterable[str], check: Callable[[str], object]) -> Iterator[str]:
    for i, item in enumerate(items):
        try:
            check(item)
        except ValueError as error:
            yield f"{path}[{i}]: {error}"


def _name_fault(path: str, name: str) -> Iterator[str]:
    if name in RESERVED_NAMES:
        yield f"{path}: {name!r} means something else already"
        return
    try:
        check_name(name)
    except ValueError as error:
        yield f"{path}: {error}"


def _places(scenario: Scenario, names: Names) -> Iterator[str]:
    for node, spec in scenario.nodes.items():
        if spec.lan is not None and spec.lan not in names.lans:
            yield f"nodes.{node}.lan: no LAN is called {spec.lan!r}" + did_you_mean(
                spec.lan, names.lans
            )
    for lan, segment in scenario.lans.items():
        if fault := names.node_fault(segment.gateway, known=names.agents):
            yield f"lans.{lan}.gateway: {fault}"
    for resource, spec_ in scenario.resources.items():
        if fault := names.node_fault(spec_.gateway, known=names.agents):
            yield f"resources.{resource}.gateway: {fault}"
        for i, offer in enumerate(spec_.alternatives):
            if fault := names.node_fault(offer.gateway, known=names.agents):
                yield f"resources.{resource}.alternatives[{i}].gateway: {fault}"


def _policy_names(scenario: Scenario, names: Names) -> Iterator[str]:
    yield from _written("policy", scenario.policy, scenario, names)
    for i, step in enumerate(scenario.steps):
        if step.policy is not None:
            for fault in _written(f"steps[{i}].policy", step.policy, scenario, names):
                if not fault.startswith("groups."):  # said once already
                    yield fault


def _written(
    path: str, part: PolicySpec | PolicyChange, scenario: Scenario, names: Names
) -> Iterator[str]:
    """Dangling names and double ids in one policy as written at PATH."""
    yield from _double_ids(path, part.rules)
    # A Policy refuses double ids; which of two rules dangles can still be said.
    rules = [replace(rule, id=str(i)) for i, rule in enumerate(part.rules)]
    yield from _double_quotas(path, part.quotas)
    quotas = tuple({quota.identity: quota for quota in part.quotas}.values())
    policy = Policy(rules=tuple(rules), groups=scenario.groups, tests=part.tests, quotas=quotas)
    for fault in dangling_names(policy, frozenset(names.identities) | names.resources):
        yield fault if fault.startswith("groups.") else f"{path}.{fault}"


def _double_ids(path: str, rules: Iterable[Rule]) -> Iterator[str]:
    seen: set[str] = set()
    for i, rule in enumerate(rules):
        if rule.id in seen:
            yield f"{path}.rules[{i}].id: two rules are called {rule.id!r}"
        seen.add(rule.id)


def _double_quotas(path: str, quotas: Iterable[Quota]) -> Iterator[str]:
    seen: set[str] = set()
    for i, quota in enumerate(quotas):
        if quota.identity in seen:
            yield f"{path}.quotas[{i}].identity: {quota.identity!r} has two quotas"
        seen.add(quota.identity)


def _action_names(path: str, action: object, names: Names) -> Iterator[str]:
    match action:
        case Probe() | Transfer() | Stream() | Forge():
            word = type(action).__name__.lower()
            known = names.agents if isinstance(action, Forge) else names.nodes
            if fault := names.node_fault(action.source_node, known=known):
                yield f"{path}.{word}.from: {fault}"
            may_be_literal = isinstance(action, Probe)
            if not (may_be_literal and _is_address(action.to)):
                if fault := names.node_fault(action.to):
                    yield f"{path}.{word}.to: {fault}"
            if isinstance(action, Forge) and not _is_address(action.as_):
                if fault := names.node_fault(action.as_):
                    yield f"{path}.forge.as: {fault}"
        case SetLocal():
            if fault := names.node_fault(action.node, known=names.agents):
                yield f"{path}.set.node: {fault}"
        case Drain():
            if fault := names.node_fault(action.gateway, known=names.agents):
                yield f"{path}.drain.gateway: {fault}"
        case RunCommand():
            if fault := names.node_fault(action.node):
                yield f"{path}.run.node: {fault}"
        case PolicyChange() | str() | None:
            pass


def _expect_names(path: str, expect: Any, names: Names) -> Iterator[str]:
    if expect.at is not None and (fault := names.node_fault(expect.at, known=names.agents)):
        yield f"{path}.at: {fault}"
    if expect.identity is not None:
        yield from _principal(f"{path}.identity", expect.identity, names)
    for key in ("drop", "metric", "event", "tc"):
        for i, item in enumerate(getattr(expect, key)):
            if fault := names.node_fault(item.at, known=names.agents):
                yield f"{path}.{key}[{i}].at: {fault}"
    for i, item in enumerate(expect.log):
        if item.node is not None and (fault := names.node_fault(item.node, known=names.agents)):
            yield f"{path}.log[{i}].node: {fault}"
    for i, item in enumerate(expect.drop):
        yield from _principal(f"{path}.drop[{i}].identity", item.identity, names)
    for i, item in enumerate(expect.metric):
        if "identity" in item.labels:
            where = f"{path}.metric[{i}].labels.identity"
            yield from _principal(where, item.labels["identity"], names)
    for key in ("event", "log"):
        for i, item in enumerate(getattr(expect, key)):
            for end in ("identity", "to_identity"):
                if (name := getattr(item, end)) is not None:
                    yield from _principal(f"{path}.{key}[{i}].{end}", name, names)


def _principal(path: str, name: str, names: Names) -> Iterator[str]:
    if name in names.principals:
        return
    if name in names.groups:
        yield f"{path}: {name!r} is a group; packets carry identities"
    elif name in names.nodes:
        carried = next((i for i, nodes in names.identities.items() if name in nodes), "none")
        yield f"{path}: {name!r} is a node; its identity is {carried}"
    else:
        yield f"{path}: nobody has the identity {name!r}{did_you_mean(name, names.principals)}"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return {k: v for k, v in value.items() if _text(k)} if isinstance(value, Mapping) else {}


def _get(spec: Any, key: str) -> Any:
    return spec.get(key) if isinstance(spec, Mapping) else None


def _text(value: Any) -> bool:
    return isinstance(value, str)
