"""From one configuration to the next by explicit operations, where the whole would be much larger.

A delta names the digest of the configuration it is for, and is good for no other. It says what is
done, and nothing by what it leaves out: to apply it is to do its operations, one after the other,
and what comes out must have the digest that came along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import is_
from typing import Any, Literal, TypeVar, Union

from ztlab.errors import SchemaError
from ztlab.model.codec import field
from ztlab.model.config import Identity, NodeConfig, Peer, Resource, Self
from ztlab.model.policy import Policy, Quota, Rule

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedPeer:
    """A peer, and its place in the list that comes out."""

    at: int
    element: Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedIdentity:
    """An identity, and its place in the list that comes out."""

    at: int
    element: Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedResource:
    """A resource, and its place in the list that comes out."""

    at: int
    element: Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedRule:
    """A rule, and its place in the list that comes out."""

    at: int
    element: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class EditPeers:
    """Take out the peers with the public keys REMOVE, then put in PUT, by rising place."""

    op: Literal["edit-peers"] = field(default="edit-peers")
    remove: tuple[str, ...]
    put: tuple[PlacedPeer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditIdentities:
    """Take out the identities of the names REMOVE, then put in PUT, by rising place."""

    op: Literal["edit-identities"] = field(default="edit-identities")
    remove: tuple[str, ...]
    put: tuple[PlacedIdentity, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditResources:
    """Take out the resources of the names REMOVE, then put in PUT, by rising place."""

    op: Literal["edit-resources"] = field(default="edit-resources")
    remove: tuple[str, ...]
    put: tuple[PlacedResource, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRules:
    """Take out the rules of the ids REMOVE, then put in PUT, by rising place."""

    op: Literal["edit-rules"] = field(default="edit-rules")
    remove: tuple[str, ...]
    put: tuple[PlacedRule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceNode:
    """Replace what the node is told of itself."""

    op: Literal["replace-node"] = field(default="replace-node")
    node: Self


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceQuotas:
    """Replace all quotas."""

    op: Literal["replace-quotas"] = field(default="replace-quotas")
    quotas: tuple[Quota, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacePolicy:
    """Replace the whole policy."""

    op: Literal["replace-policy"] = field(default="replace-policy")
    policy: Policy | None


Operation = Union[  # noqa: UP007 (the codec reads it)
    EditPeers,
    EditIdentities,
    EditResources,
    EditRules,
    ReplaceNode,
    ReplaceQuotas,
    ReplacePolicy,
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What leads from one configuration to another.

    base        digest of the configuration that it is for
    operations  done in this order
    """

    base: str
    operations: tuple[Operation, ...]


def diff(old: NodeConfig, new: NodeConfig) -> Delta | None:
    """What leads from OLD to NEW; None where the whole of NEW is the shorter way to say it."""
    if (old.version, old.network_id) != (new.version, new.network_id):
        return None
    edits = (
        _edit(old.peers, new.peers, _by_key, PlacedPeer, EditPeers),
        _edit(old.identities, new.identities, _by_name, PlacedIdentity, EditIdentities),
        _edit(old.resources, new.resources, _by_name, PlacedResource, EditResources),
    )
    policy = _policy_operations(old.policy, new.policy)
    if policy is None or any(edit is None for edit in edits):
        return None
    operations = [edit for edit in edits if edit is not None and (edit.remove or edit.put)]
    if old.node != new.node:
        operations.append(ReplaceNode(node=new.node))
    operations += policy
    if sum(map(_weight, operations)) * 2 > _size(new):
        return None
    return Delta(base=old.digest(), operations=tuple(operations))


def apply(config: NodeConfig, delta: Delta, digest: str) -> NodeConfig:
    """CONFIG after DELTA; SchemaError if it is for another one, or does not lead to DIGEST."""
    if config.digest() != delta.base:
        raise SchemaError([f"base: want {config.digest()}, which is here, got {delta.base}"])
    for i, operation in enumerate(delta.operations):
        try:
            config = _done(config, operation)
        except ValueError as error:
            raise SchemaError([f"operations[{i}]: {error}"]) from None
    if config.digest() != digest:
        raise SchemaError([f"digest: want {digest}, got {config.digest()}"])
    return config


def _done(config: NodeConfig, operation: Operation) -> NodeConfig:
    if isinstance(operation, EditPeers):
        return replace(config, peers=_edited(config.peers, operation, _by_key))
    if isinstance(operation, EditIdentities):
        return replace(config, identities=_edited(config.identities, operation, _by_name))
    if isinstance(operation, EditResources):
        return replace(config, resources=_edited(config.resources, operation, _by_name))
    if isinstance(operation, ReplaceNode):
        return replace(config, node=operation.node)
    if isinstance(operation, ReplacePolicy):
        return replace(config, policy=operation.policy)
    if config.policy is None:
        raise ValueError("there is no policy here to change")
    if isinstance(operation, ReplaceQuotas):
        return replace(config, policy=replace(config.policy, quotas=operation.quotas))
    rules = _edited(config.policy.rules, operation, _by_id)
    return replace(config, policy=replace(config.policy, rules=rules))


def _policy_operations(old: Policy | None, new: Policy | None) -> list[Any] | None:
    """None: it cannot be said in operations on parts."""
    if old is new or old == new:
        return []
    if old is None or new is None:
        return [ReplacePolicy(policy=new)]
    if (old.default, old.groups, old.tests) != (new.default, new.groups, new.tests):
        return [ReplacePolicy(policy=new)]
    edit = _edit(old.rules, new.rules, _by_id, PlacedRule, EditRules)
    if edit is None:
        return None
    operations = [edit] if edit.remove or edit.put else []
    if old.quotas != new.quotas:
        operations.append(ReplaceQuotas(quotas=new.quotas))
    return operations


def _edit(
    olds: Sequence[T],
    news: Sequence[T],
    key: Callable[[Any], str],
    placed: Callable[..., Any],
    edit: Callable[..., Any],
) -> Any:
    """The operation from OLDS to NEWS; None where what stays has another order."""
    head, tail = _alike(olds, news)
    old, new = olds[head : len(olds) - tail], news[head : len(news) - tail]
    before, after = ({key(one): one for one in part} for part in (old, new))
    if (len(before), len(after)) != (len(old), len(new)):
        return None  # a key that is there twice names nothing
    stay = [name for name, one in before.items() if after.get(name) == one]
    kept = set(stay)
    if stay != [name for name in after if name in kept]:
        return None
    put = tuple(
        placed(at=head + i, element=one)
        for i, (name, one) in enumerate(after.items())
        if name not in kept
    )
    return edit(remove=tuple(name for name in before if name not in kept), put=put)


def _alike(olds: Sequence[T], news: Sequence[T]) -> tuple[int, int]:
    """How many of the very same objects both begin with, and how many both end with."""
    if olds is news:
        return len(olds), 0
    most = min(len(olds), len(news))
    head = next((i for i, same in enumerate(map(is_, olds, news)) if not same), most)
    pairs = map(is_, reversed(olds), reversed(news))
    tail = next((i for i, same in enumerate(pairs) if not same), most)
    return head, min(tail, most - head)


def _edited(elements: Sequence[T], operation: Any, key: Callable[[Any], str]) -> tuple[T, ...]:
    removed = set(operation.remove)
    if missing := removed - {key(one) for one in elements}:
        raise ValueError(f"there is no {min(missing)!r} here to remove")
    kept = [one for one in elements if key(one) not in removed]
    for one in operation.put:
        if not 0 <= one.at <= len(kept):
            raise ValueError(f"want a place from 0 to {len(kept)}, got {one.at}")
        kept.insert(one.at, one.element)
    return tuple(kept)


def _weight(operation: Any) -> int:
    """How many elements an operation carries, roughly; a key is a part of one."""
    if isinstance(operation, (ReplaceNode, ReplaceQuotas)):
        return 1
    if isinstance(operation, ReplacePolicy):
        return 1 + (len(operation.policy.rules) if operation.policy else 0)
    return len(operation.put) + (len(operation.remove) + 3) // 4


def _size(config: NodeConfig) -> int:
    """How many elements a configuration has."""
    rules = len(config.policy.rules) if config.policy else 0
    return len(config.peers) + len(config.identities) + len(config.resources) + rules


def _by_key(peer: Peer) -> str:
    return peer.public_key


def _by_name(one: Identity | Resource) -> str:
    return one.name


def _by_id(rule: Rule) -> str:
    return rule.id
