"""What a change of the network would do, and to whom: the answer to a dry run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

from ztlab.model import codec
from ztlab.model.config import NodeConfig

MOST_NAMES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectChange:
    """An object of the network that would not be what it is.

    before, after  as in the audit log; None: it is not there
    """

    action: str
    kind: str
    name: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How many there are, and the first of them by name."""

    count: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, names: AbstractSet[str]) -> Names:
        return cls(count=len(names), names=tuple(sorted(names)[:MOST_NAMES]))


@dataclass(frozen=True, slots=True, kw_only=True)
class PartChange:
    """What would come, go and change in one part of a node's configuration."""

    part: Literal["node", "peers", "identities", "resources", "rules", "groups", "policy"]
    added: Names
    removed: Names
    changed: Names


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChange:
    """A node that would be told something else.

    state  told: it gets another configuration; new, gone: it becomes a node, or is one no more
    """

    name: str
    state: Literal["told", "new", "gone"]
    parts: tuple[PartChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """All of it, in part where it is long: the counts speak of everything."""

    change_count: int
    changes: tuple[ObjectChange, ...]
    node_count: int
    nodes: tuple[NodeChange, ...]


def config_changes(before: NodeConfig, after: NodeConfig) -> tuple[PartChange, ...]:
    """The parts of a node's configuration that differ."""
    return tuple(
        PartChange(
            part=part,
            added=Names.of(new.keys() - old.keys()),
            removed=Names.of(old.keys() - new.keys()),
            changed=Names.of({name for name in old.keys() & new.keys() if old[name] != new[name]}),
        )
        for part, old, new in _parts(before, after)
        if old != new
    )


def _parts(
    before: NodeConfig, after: NodeConfig
) -> Iterator[tuple[Any, Mapping[str, Any], Mapping[str, Any]]]:
    """(part, old objects by name, new ones) of what is not one object in both."""
    if before.node != after.node:
        yield "node", codec.encode(before.node), codec.encode(after.node)
    if before.peers is not after.peers:
        yield "peers", _peers(before), _peers(after)
    for part in ("identities", "resources"):
        olds, news = getattr(before, part), getattr(after, part)
        if olds is not news:
            yield part, {one.name: one for one in olds}, {one.name: one for one in news}
    old, new = before.policy, after.policy
    if old is None or new is None or old is new:
        return
    if old.rules is not new.rules:
        yield "rules", {one.id: one for one in old.rules}, {one.id: one for one in new.rules}
    yield "groups", old.groups, new.groups
    rest = ("default", "quotas")
    said = [{name: getattr(policy, name) for name in rest} for policy in (old, new)]
    yield "policy", said[0], said[1]


def _peers(config: NodeConfig) -> dict[str, Any]:
    """By name; one that is changing its key is there twice."""
    found: dict[str, Any] = {}
    for peer in config.peers:
        found[peer.name] = (*found.get(peer.name, ()), peer)
    return found
