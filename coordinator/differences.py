"""What differs between two states of the network, object by object: for audit log and dry runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, Literal, TypeVar

from coordinator.state import NetworkState
from ztlab.model import codec
from ztlab.model.policy import Rule

T = TypeVar("T")
Kind = Literal["node", "identity", "group", "resource", "rule", "policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One object that is not what it was.

    name           its name (a rule's id; "policy" for what policy has beside rules)
    before, after  the object, as plain data; None: it is not there
    """

    kind: Kind
    name: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None

    @property
    def action(self) -> str:
        """What happened to it: create, update, delete; of a node enrol, rotate, update, revoke."""
        if self.before is None:
            return "enrol" if self.kind == "node" else "create"
        if self.after is None:
            return "revoke" if self.kind == "node" else "delete"
        keys = ("public_key", "next_key")
        changes_key = any(self.before.get(key) != self.after.get(key) for key in keys)
        return "rotate" if self.kind == "node" and changes_key else "update"


def between(before: NetworkState, after: NetworkState) -> Iterator[Difference]:
    """Every object of BEFORE and AFTER that is not the same in both; none if the two are equal.

    Where most objects are the very same in memory this costs little more than a look at each.
    """
    for kind, name, old, new in _pairs(before, after):
        if old != new:
            yield Difference(
                kind=kind, name=name, before=_plain(kind, name, old), after=_plain(kind, name, new)
            )
    yield from _policy(before, after)


def _pairs(before: NetworkState, after: NetworkState) -> Iterator[tuple[Kind, str, Any, Any]]:
    """(kind, name, old, new) of objects that may differ."""
    if before.nodes is not after.nodes:
        nodes = _middles(before.nodes, after.nodes)
        for _, old, new in _unlike(*({n.id: n for n in part} for part in nodes)):
            yield "node", (new or old).name, old, new
    if before.identities is not after.identities:
        for name, old, new in _unlike(before.identities, after.identities):
            yield "identity", name, old, new
    if before.policy.groups is not after.policy.groups:
        for name, old, new in _unlike(before.policy.groups, after.policy.groups):
            yield "group", name, old, new
    if before.resources is not after.resources:
        named = ({r.name: r for r in state.resources} for state in (before, after))
        for name, old, new in _unlike(*named):
            yield "resource", name, old, new
    if before.policy.rules is not after.policy.rules:
        rules = _middles(before.policy.rules, after.policy.rules)
        for name, old, new in _unlike(*({r.id: r for r in part} for part in rules)):
            yield "rule", name, old, new


def _middles(olds: Sequence[T], news: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Both without the very objects that both begin with, and without those that both end with."""
    most = min(len(olds), len(news))
    head = next((i for i, same in enumerate(map(is_, olds, news)) if not same), most)
    pairs = map(is_, reversed(olds), reversed(news))
    tail = next((i for i, same in enumerate(pairs) if not same), most)
    tail = min(tail, most - head)
    return olds[head : len(olds) - tail], news[head : len(news) - tail]


def _unlike(olds: Mapping[str, Any], news: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, old, new) of what is not one object in both; None: it is not there."""
    for name, old in olds.items():
        if name not in news:
            yield name, old, None
    for name, new in news.items():
        if (former := olds.get(name)) is not new:
            yield name, former, new


def _plain(kind: Kind, name: str, value: Any) -> Mapping[str, Any] | None:
    if value is None:
        return None
    if kind == "identity":
        return {"name": name, "tag": value}
    if kind == "group":
        return {"name": name, "members": list(value)}
    plain: dict[str, Any] = codec.encode(value)
    return plain


def _policy(before: NetworkState, after: NetworkState) -> Iterator[Difference]:
    """The parts of policy beside rules and groups, those alone that differ."""
    old: dict[str, Any] = {}
    new: dict[str, Any] = {}
    for part in ("default", "tests", "quotas"):
        was, now = getattr(before.policy, part), getattr(after.policy, part)
        if was != now:
            old[part], new[part] = codec.encode(was), codec.encode(now)
    orders = _orders(before, after)
    if orders[0] != orders[1]:
        # It has no meaning, but it is what people wrote. Ten thousand names would say no more.
        old["order_of_rules"], new["order_of_rules"] = map(codec.digest, orders)
    if old:
        yield Difference(kind="policy", name="policy", before=old, after=new)


def _orders(before: NetworkState, after: NetworkState) -> tuple[list[str], list[str]]:
    """The rules that both have, in the order of each."""
    rules = before.policy.rules, after.policy.rules
    # Of what both begin and end with the order is the same: of ten thousand rules of nearly all.
    orders = _common(*_middles(*rules))
    return orders if orders[0] == orders[1] else _common(*rules)


def _common(olds: Sequence[Rule], news: Sequence[Rule]) -> tuple[list[str], list[str]]:
    """The ids that both have, in the order of each."""
    then, now = ({rule.id: None for rule in rules} for rules in (olds, news))
    return [rule for rule in then if rule in now], [rule for rule in now if rule in then]
