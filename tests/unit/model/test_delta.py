"""A delta leads from one configuration to the next, and from no other, and to no other."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.coordinator.networks import key
from tests.unit.model.strategies import policies
from ztlab.errors import SchemaError
from ztlab.model.codec import decode, encode
from ztlab.model.config import Identity, NodeConfig, Peer, Resource, Self
from ztlab.model.delta import Delta, EditPeers, ReplaceNode, apply, diff
from ztlab.model.policy import Policy, Rule

ME = Self(node_id="a", name="gate", role="gateway", identity="gate", addresses=("10.77.0.1/32",))


def peer(number: int, keepalive_s: int = 0) -> Peer:
    return Peer(
        node_id=f"n{number}",
        name=f"n{number}",
        role="client",
        public_key=key(number),
        allowed_ips=(f"10.77.1.{number}/32",),
        keepalive_s=keepalive_s,
    )


def identity(number: int, tag: int) -> Identity:
    return Identity(name=f"i{number}", tag=tag)


def resource(number: int) -> Resource:
    return Resource(name=f"r{number}", tag=100, cidr=f"192.0.{number}.0/24", gateway="gate")


NUMBERS = st.integers(1, 12)
CONFIGS = st.builds(
    NodeConfig,
    version=st.just(1),
    network_id=st.just("net"),
    node=st.sampled_from([ME, replace(ME, identity="other")]),
    peers=st.lists(
        st.builds(peer, NUMBERS, st.sampled_from([0, 25])), unique_by=lambda p: p.public_key
    ).map(tuple),
    identities=st.lists(
        st.builds(identity, NUMBERS, st.integers(2, 4)), unique_by=lambda i: i.name
    ).map(tuple),
    resources=st.lists(st.builds(resource, NUMBERS), unique_by=lambda r: r.name).map(tuple),
    policy=st.none() | policies(),
)


def over_the_wire(delta: Delta) -> Delta:
    return decode(Delta, json.loads(json.dumps(encode(delta))))


@given(CONFIGS, CONFIGS)
def test_a_delta_between_any_two_leads_from_one_to_the_other(
    old: NodeConfig, new: NodeConfig
) -> None:
    delta = diff(old, new)
    if delta is not None:
        assert apply(old, over_the_wire(delta), new.digest()) == new


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[NodeConfig, NodeConfig]:
    """A large configuration, and one of which little is different."""
    old = NodeConfig(
        version=1,
        network_id="net",
        node=ME,
        peers=tuple(peer(number) for number in range(1, 60)),
        identities=tuple(identity(number, number + 1) for number in range(60)),
        policy=Policy(rules=tuple(rule(number) for number in range(60))),
    )
    peers, rules = list(old.peers), list(old.policy.rules if old.policy else ())
    for at in draw(st.lists(st.integers(0, 50), max_size=3, unique=True)):
        peers[at] = replace(peers[at], keepalive_s=25)
    del peers[draw(st.integers(0, 58))]
    peers.insert(draw(st.integers(0, 58)), peer(200))
    rules.insert(draw(st.integers(0, 60)), rule(999))
    del rules[draw(st.integers(0, 60))]
    return old, replace(old, peers=tuple(peers), policy=Policy(rules=tuple(rules)))


def rule(number: int) -> Rule:
    return Rule(id=f"rule{number}", source="i1", destination="i2", action="allow")


@given(neighbours())
def test_what_differs_little_is_told_in_a_delta(pair: tuple[NodeConfig, NodeConfig]) -> None:
    old, new = pair
    delta = diff(old, new)
    assert delta is not None
    assert apply(old, over_the_wire(delta), new.digest()) == new
    assert len(json.dumps(encode(delta))) < len(new.canonical()) / 5


def of_peers(count: int) -> NodeConfig:
    return NodeConfig(
        version=1,
        network_id="net",
        node=ME,
        peers=tuple(replace(peer(1), public_key=key(i % 250) + str(i)) for i in range(count)),
    )


def test_the_size_of_a_delta_for_one_who_joins_does_not_grow_with_the_others() -> None:
    sizes = []
    for count in (100, 2000):
        old = of_peers(count)
        new = replace(old, peers=(*old.peers[:50], peer(251), *old.peers[50:]))
        delta = diff(old, new)
        assert delta is not None
        sizes.append(len(json.dumps(encode(delta))))
    assert sizes[0] == sizes[1] < 600


def test_where_the_whole_is_shorter_there_is_no_delta() -> None:
    assert diff(of_peers(1), replace(of_peers(1), peers=(peer(9),))) is None
    assert diff(of_peers(100), replace(of_peers(100), peers=())) is None
    assert diff(of_peers(100), replace(of_peers(100), network_id="other")) is None


def test_the_other_order_of_the_same_is_told_whole() -> None:
    old = of_peers(20)
    assert diff(old, replace(old, peers=old.peers[::-1])) is None


OLD = of_peers(20)
NEW = replace(OLD, peers=OLD.peers[1:])
GOOD = diff(OLD, NEW)


@pytest.mark.parametrize(
    ("changes", "digest", "path"),
    [
        ({"base": "0" * 64}, NEW.digest(), "base"),
        ({}, "0" * 64, "digest"),
        ({"operations": ()}, NEW.digest(), "digest"),
        ({"operations": (EditPeers(remove=("nobody",), put=()),)}, NEW.digest(), "operations[0]"),
        ({"operations": (ReplaceNode(node=replace(ME, name="x")),)}, NEW.digest(), "digest"),
    ],
)
def test_a_delta_that_is_not_for_this_or_leads_elsewhere_is_refused(
    changes: dict[str, Any], digest: str, path: str
) -> None:
    assert GOOD is not None and apply(OLD, GOOD, NEW.digest()) == NEW
    with pytest.raises(SchemaError) as caught:
        apply(OLD, replace(GOOD, **changes), digest)
    assert caught.value.problems[0].startswith(f"{path}: ")
