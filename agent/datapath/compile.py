"""From a configuration to what the maps should hold. Pure: no I/O, no clock, no kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from agent.abi import ANY_PROTOCOL, RULE_MAX, SHAPE_ANY_PROTOCOL, TAG_ANY, Action, IPNetwork, Kind
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from agent.datapath.state import DatapathState, IdentityEntry, PolicyMatch, PolicyOutcome
from ztlab.errors import SchemaError
from ztlab.model.config import NodeConfig
from ztlab.model.identity import ANY, TAG_UNKNOWN, TAG_WORLD, UNKNOWN, WORLD
from ztlab.model.policy import Policy, Rule, dangling_names

_PORT_BITS = 16
_Services = tuple[tuple[int, int, int], ...]  # protocol, port, port bits


def desired_state(
    config: NodeConfig, *, limits: Limits | None = None, marks: MarkLayout | None = None
) -> DatapathState:
    """What the maps of the node that CONFIG is for should hold.

    SchemaError, with every fault found, where CONFIG contradicts itself (a name nobody has, one tag
    or prefix for two), exceeds LIMITS (the defaults unless given), or has a tag that MARKS cannot
    carry.
    """
    limits = limits or Limits()
    if config.node.role == "client":
        return DatapathState(
            identities={},
            policy={},
            pairs={},
            rules=(),
            actions=(),
            quotas={},
            default_allow=False,
            is_client=True,
            self_tag=TAG_UNKNOWN,
            tag_names={TAG_UNKNOWN: UNKNOWN, TAG_WORLD: WORLD},
        )
    tags, faults = _tags(config, marks)
    policy = config.policy or Policy()
    faults += [f"policy.{fault}" for fault in dangling_names(policy, frozenset(tags))]
    if config.node.identity not in tags:
        faults.append(f"node.identity: no identity is called {config.node.identity!r}")
    if faults:
        raise SchemaError(faults)
    if len(policy.quotas) > limits.quotas:
        found = len(policy.quotas)
        raise SchemaError([f"policy.quotas: want at most {limits.quotas}, got {found}"])
    entries = _policy_entries(policy, tags, limits)
    pairs = _pairs(entries)
    if len(pairs) > limits.pairs:
        raise SchemaError([f"policy: it speaks of {len(pairs)} pairs, more than {limits.pairs}"])
    return DatapathState(
        identities=_identities(config, tags, limits),
        policy=entries,
        pairs=pairs,
        rules=tuple(rule.id for rule in policy.rules),
        actions=tuple(_action(rule) for rule in policy.rules),
        quotas={tags[q.identity]: (q.rate_bytes_s, q.burst_bytes) for q in policy.quotas},
        default_allow=policy.default == "allow",
        is_client=False,
        self_tag=tags[config.node.identity],
        tag_names={TAG_UNKNOWN: UNKNOWN} | {tag: name for name, tag in tags.items()},
    )


def _tags(config: NodeConfig, marks: MarkLayout | None) -> tuple[dict[str, int], list[str]]:
    """Name to tag, `world` included, and what is wrong with them."""
    tags: dict[str, int] = {WORLD: TAG_WORLD}
    owners: dict[int, str] = {TAG_WORLD: WORLD}
    faults: list[str] = []
    named = [(f"identities[{i}]", x.name, x.tag) for i, x in enumerate(config.identities)]
    named += [(f"resources[{i}]", x.name, x.tag) for i, x in enumerate(config.resources)]
    for path, name, tag in named:
        if name in tags or name in (ANY, UNKNOWN):
            faults.append(f"{path}.name: {name!r} is taken")
        elif tag in owners:
            faults.append(f"{path}.tag: {tag} is {owners[tag]!r}'s already")
        elif marks is not None and not marks.fits(tag):
            faults.append(
                f"{path}.tag: want at most {marks.tag_bits} bits (mark mask {marks.mask:#x}), "
                f"got {tag}"
            )
        tags.setdefault(name, tag)
        owners.setdefault(tag, name)
    return tags, faults


def _identities(
    config: NodeConfig, tags: dict[str, int], limits: Limits
) -> dict[IPNetwork, IdentityEntry]:
    entries: dict[IPNetwork, IdentityEntry] = {}
    faults: list[str] = []

    def put(path: str, prefix: str, entry: IdentityEntry) -> None:
        network = ip_network(prefix)
        before = entries.setdefault(network, entry)
        if before.tag != entry.tag:
            faults.append(f"{path}: {prefix} has tag {before.tag} already, and now {entry.tag}")

    own = tags[config.node.identity]
    for i, prefix in enumerate(config.node.addresses):
        put(f"node.addresses[{i}]", prefix, IdentityEntry(own, Kind.SELF))
    for i, identity in enumerate(config.identities):
        for j, prefix in enumerate(identity.prefixes):
            path = f"identities[{i}].prefixes[{j}]"
            put(path, prefix, IdentityEntry(identity.tag, Kind.NODE))
    for i, resource in enumerate(config.resources):
        put(f"resources[{i}].cidr", resource.cidr, IdentityEntry(resource.tag, Kind.RESOURCE))
    if not faults:
        entries.update(_via(config, entries))
    exact = sum(network.prefixlen == network.max_prefixlen for network in entries)
    for what, found, limit in (
        ("addresses", exact, limits.ids),
        ("prefixes", len(entries) - exact, limits.nets),
    ):
        if found > limit:
            faults.append(f"identities: want at most {limit} {what}, got {found}")
    if faults:
        raise SchemaError(faults)
    return entries


def _via(
    config: NodeConfig, entries: dict[IPNetwork, IdentityEntry]
) -> dict[IPNetwork, IdentityEntry]:
    """The routers that have no identity. One inside a resource has the resource's: a more specific
    entry without identity would take that away."""
    routers = {ip_network(prefix) for resource in config.resources for prefix in resource.via}
    return {
        router: IdentityEntry(TAG_UNKNOWN, Kind.VIA)
        for router in routers
        if not any(_contains(network, router) for network in entries)
    }


def _contains(outer: IPNetwork, inner: IPNetwork) -> bool:
    return outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _policy_entries(
    policy: Policy, tags: dict[str, int], limits: Limits
) -> dict[PolicyMatch, PolicyOutcome]:
    most = min(limits.rules, RULE_MAX)
    if len(policy.rules) > most:
        raise SchemaError([f"policy.rules: want at most {most} rules, got {len(policy.rules)}"])
    entries: dict[PolicyMatch, PolicyOutcome] = {}
    matches = _Matches(policy, tags)
    for index, rule in enumerate(policy.rules):
        outcome = PolicyOutcome(index + 1, _action(rule))
        for match in matches(rule):
            before = entries.get(match)
            # Deny beats allow; of one action the first rule is named, and rules come in order.
            if before is None or (before.action, outcome.action) == (Action.ALLOW, Action.DENY):
                entries[match] = outcome
            if len(entries) > limits.policy:
                raise SchemaError(
                    [f"policy.rules[{index}]: the policy has more than {limits.policy} entries"],
                    hint="fewer port ranges, or `*` in place of a large group, need fewer",
                )
    return entries


def _action(rule: Rule) -> Action:
    return Action.DENY if rule.action == "deny" else Action.ALLOW


class _Matches:
    """Rule to what it matches. Of many rules few name other ends and services than all before."""

    def __init__(self, policy: Policy, tags: dict[str, int]) -> None:
        self._policy, self._tags = policy, tags
        self._ends: dict[str, tuple[int, ...]] = {}
        self._services: dict[tuple[object, ...], _Services] = {}

    def __call__(self, rule: Rule) -> Iterator[PolicyMatch]:
        kind = (rule.proto, rule.ports, rule.icmp_types)
        services = self._services.get(kind)
        if services is None:
            services = self._services[kind] = tuple(_services(rule))
        for source in self._selected(rule.source):
            for destination in self._selected(rule.destination):
                for protocol, port, port_bits in services:
                    yield PolicyMatch(source, destination, protocol, port, port_bits)

    def _selected(self, selector: str) -> tuple[int, ...]:
        found = self._ends.get(selector)
        if found is None:
            found = self._ends[selector] = tuple(_selected(self._policy, selector, self._tags))
        return found


def _selected(policy: Policy, selector: str, tags: dict[str, int]) -> Iterable[int]:
    """The tags that SELECTOR, as a rule writes it, means."""
    if selector == ANY:
        return (TAG_ANY,)
    names = {selector, *policy.groups.get(selector, ())}
    return sorted(tags[name] for name in names if name in tags)


def _services(rule: Rule) -> Iterator[tuple[int, int, int]]:
    """(protocol, port or ICMP type, port bits) of every entry one pair of tags needs."""
    protocols = rule.protocols()
    if protocols is None:
        yield 0, 0, ANY_PROTOCOL
        return
    for protocol in sorted(protocols):
        ranges = rule.service_ranges(protocol)
        if ranges is None:
            yield protocol, 0, 0
            continue
        for port, bits in sorted({p for some in ranges for p in port_prefixes(*some)}):
            yield protocol, port, bits


def port_prefixes(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The fewest (port, length) prefixes of 16 bits that are exactly FIRST to LAST; at most 30."""
    while first <= last:
        # The largest block that begins here and does not go beyond the end.
        size = first & -first or 2**_PORT_BITS
        while size > last - first + 1:
            size //= 2
        yield first, _PORT_BITS + 1 - size.bit_length()
        first += size


def _pairs(entries: Iterable[PolicyMatch]) -> dict[tuple[int, int], int]:
    pairs: dict[tuple[int, int], int] = {}
    for match in entries:
        shape = SHAPE_ANY_PROTOCOL if match.port_bits == ANY_PROTOCOL else match.port_bits
        ends = (match.source, match.destination)
        pairs[ends] = pairs.get(ends, 0) | 1 << shape
    return pairs
