"""What must be true of a network after every change. Pure; one line per fault, with its path."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import chain, islice

from coordinator.state import NetworkState, host_prefix
from ztlab.model.codec import did_you_mean, restricted, restrictions
from ztlab.model.identity import RESERVED_NAMES
from ztlab.model.policy import (
    Policy,
    PolicyTest,
    Rule,
    broken_test,
    check_name,
    dangling_names,
    is_named,
)
from ztlab.model.policy_index import PolicyIndex

# Each may come with a hint, for which all names are compared; nobody reads more.
MOST_FAULTS = 100


def faults(network: NetworkState, before: NetworkState | None = None) -> list[str]:
    """The faults, as "path: message", at most MOST_FAULTS; empty if the network may be so.

    before  a network without faults: what NETWORK has of it unchanged is not looked at again
    """
    found = chain(
        _name_faults(network, before),
        _node_faults(network, before),
        _offer_faults(network, before),
        _prefix_faults(network, before),
        _dangling_faults(network, before),
    )
    # A test over names that dangle would only repeat the fault.
    return list(islice(found, MOST_FAULTS)) or [
        f"policy.{line}" for line in islice(_broken_tests(network, before), MOST_FAULTS)
    ]


@restricted(**restrictions(check_name), **{"not": {"enum": sorted(RESERVED_NAMES)}})
def check_free_name(name: str) -> None:
    """ValueError unless NAME may name an identity, a group or a resource."""
    check_name(name)
    if name in RESERVED_NAMES:
        raise ValueError(f"{name!r} has a meaning of its own")


def router_prefix(text: str) -> str:
    """A router of a resource, `192.0.2.1` or `192.0.2.1/32`, as a host prefix; else ValueError."""
    address, slash, length = text.partition("/")
    try:
        prefix = host_prefix(str(ip_address(address)))
    except ValueError:
        raise ValueError(f"want the address of a router, got {text!r}") from None
    if slash and prefix.partition("/")[2] != length:
        raise ValueError(f"want one router's address and not a network, got {text!r}")
    return prefix


def _name_faults(network: NetworkState, before: NetworkState | None) -> Iterator[str]:
    """A name has one meaning over identities, groups and resources."""
    if before is not None and _names(network) == _names(before):
        return
    meanings: dict[str, list[str]] = {}
    for kind, names in zip(("identities", "groups", "resources"), _names(network), strict=True):
        for name in names:
            meanings.setdefault(name, []).append(kind)
    for name, kinds in sorted(meanings.items()):
        if len(kinds) > 1:
            yield f"{kinds[-1]}.{name}: the name is taken already, in {' and '.join(kinds[:-1])}"


def _names(network: NetworkState) -> tuple[Collection[str], ...]:
    """The names that are taken: by identities, groups, resources."""
    resources = [resource.name for resource in network.resources]
    return network.identities.keys(), network.policy.groups.keys(), resources


def _node_faults(network: NetworkState, before: NetworkState | None) -> Iterator[str]:
    if before is not None:
        if (network.nodes, network.identities) == (before.nodes, before.identities):
            return
    for node in network.nodes:
        if node.identity not in network.identities:
            hint = did_you_mean(node.identity, network.identities)
            yield f"nodes.{node.name}.identity: no identity {node.identity!r}{hint}"


def _offer_faults(network: NetworkState, before: NetworkState | None) -> Iterator[str]:
    """Which gateway goes first must be said: no two of a resource's have one priority."""
    if before is not None and network.resources == before.resources:
        return
    for resource in network.resources:
        gateways, priorities = {resource.gateway}, {resource.priority: resource.gateway}
        for i, offer in enumerate(resource.alternatives):
            path = f"resources.{resource.name}.alternatives[{i}]"
            if offer.gateway in gateways:
                yield f"{path}.gateway: {offer.gateway} offers it already"
                continue
            gateways.add(offer.gateway)
            other = priorities.setdefault(offer.priority, offer.gateway)
            if other != offer.gateway:
                yield (
                    f"{path}.priority: {offer.priority} is that of gateway {other}, want another "
                    f"for gateway {offer.gateway}"
                )


def _prefix_faults(network: NetworkState, before: NetworkState | None) -> Iterator[str]:
    """WireGuard gives a prefix to one peer: what overlaps without being nested is refused.

    A resource may hold a smaller one (the most specific wins), and may hold a whole pool (0.0.0.0/0
    behind an exit gateway), but may not lie inside a pool: it would capture a node's address.
    """
    if before is not None:
        if (network.resources, network.pools) == (before.resources, before.pools):
            return
    pools = [_prefix(pool) for pool in network.pools]
    owner: dict[IPv4Network | IPv6Network, str] = {}
    # A router's prefix to the gateways that offer it: the same ones in the same order, always, so
    # that whichever is in use no two have it.
    offered: dict[str, tuple[str, ...]] = {}
    for resource in network.resources:
        path = f"resources.{resource.name}"
        cidr = _prefix(resource.cidr)
        for pool in pools:
            if _inside(cidr, pool):
                yield f"{path}.cidr: {cidr} lies in the pool {pool} of tunnel addresses"
        if cidr in owner:
            yield (
                f"{path}.cidr: {cidr} is resource {owner[cidr]} already (another gateway for it "
                f"is one of its alternatives)"
            )
        owner.setdefault(cidr, resource.name)
        for i, via in enumerate(resource.via):
            if any(_inside(_prefix(via), pool) for pool in pools):
                yield f"{path}.via[{i}]: {via} lies in a pool of tunnel addresses"
            if offered.setdefault(via, resource.gateways) != resource.gateways:
                yield f"{path}.via[{i}]: {via} is behind {_listed(offered[via])} already"
    for resource in network.resources:
        behind = offered.get(resource.cidr, resource.gateways)
        if behind != resource.gateways:
            path = f"resources.{resource.name}.cidr"
            yield f"{path}: {resource.cidr} is behind {_listed(behind)} already, as a router"


def _listed(gateways: tuple[str, ...]) -> str:
    return f"gateway{'s' * (len(gateways) > 1)} {', '.join(gateways)}"


@lru_cache(maxsize=8192)
def _prefix(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text)


def _inside(inner: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network):
        return inner.subnet_of(outer)
    return False


def _dangling_faults(network: NetworkState, before: NetworkState | None) -> Iterator[str]:
    if before is not None and network.policy == before.policy:
        if network.principals >= before.principals:
            return
    for line in dangling_names(network.policy, network.principals):
        yield line if line.startswith("groups.") else f"policy.{line}"


def _broken_tests(network: NetworkState, before: NetworkState | None) -> Iterator[str]:
    """A test may be broken by whoever touches a rule or a group that it depends on."""
    policy = network.policy
    suspects = list(enumerate(policy.tests))
    if not suspects or (before is not None and policy == before.policy):
        return
    if before is not None and _but_for_rules(policy) == _but_for_rules(before.policy):
        changed = _rules_changed(policy, before.policy)
        suspects = [(i, test) for i, test in suspects if _may_decide(policy, changed, test)]
    if not suspects:
        return
    index = PolicyIndex(policy)
    for i, test in suspects:
        line = broken_test(index.between(test.source, test.destination), test)
        if line is not None:
            yield f"tests[{i}]: {line}"


def _but_for_rules(policy: Policy) -> tuple[object, ...]:
    return policy.default, policy.groups, policy.tests


def _rules_changed(policy: Policy, before: Policy) -> list[Rule]:
    """The rules that only one of the two has; two orders of the same rules mean the same."""
    now, then = ({rule.id: rule for rule in one.rules} for one in (policy, before))
    return [
        rule
        for these, others in ((now, then), (then, now))
        for name, rule in these.items()
        if others.get(name) is not rule and others.get(name) != rule
    ]


def _may_decide(policy: Policy, rules: Collection[Rule], test: PolicyTest) -> bool:
    return any(
        is_named(policy, rule.source, test.source)
        and is_named(policy, rule.destination, test.destination)
        for rule in rules
    )
