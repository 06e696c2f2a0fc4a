"""Whatever differs between two networks is named, object by object; and nothing else is."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from coordinator.differences import between
from coordinator.state import NetworkState, ResourceState
from tests.unit.coordinator.networks import key, network, node
from ztlab.model.management import Offer
from ztlab.model.policy import Policy, PolicyTest, Quota, Rule

GATEWAY, CLIENT = node(1, "gw1", "gateway"), node(2, "alice", "client")
BEFORE = network(GATEWAY, CLIENT)
RULE = BEFORE.policy.rules[0]
OTHER = Rule(id="s", source="web", destination="alice", action="deny")
RESOURCE = BEFORE.resources[0]


def policy(**changes: Any) -> NetworkState:
    return replace(BEFORE, policy=replace(BEFORE.policy, **changes))


def nodes(*present: Any) -> NetworkState:
    return replace(BEFORE, nodes=present)


def found(before: NetworkState, after: NetworkState) -> list[tuple[str, str, str]]:
    return [(one.action, one.kind, one.name) for one in between(before, after)]


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (nodes(GATEWAY), ("revoke", "node", "alice")),
        (nodes(GATEWAY, CLIENT, node(3, "bob", "client")), ("enrol", "node", "bob")),
        (nodes(GATEWAY, replace(CLIENT, endpoint=None)), ("update", "node", "alice")),
        (nodes(GATEWAY, replace(CLIENT, name="alicia")), ("update", "node", "alicia")),
        (nodes(GATEWAY, replace(CLIENT, next_key=key(9))), ("rotate", "node", "alice")),
        (nodes(GATEWAY, replace(CLIENT, public_key=key(9))), ("rotate", "node", "alice")),
        (
            replace(BEFORE, identities={**BEFORE.identities, "new": 99}),
            ("create", "identity", "new"),
        ),
        (replace(BEFORE, resources=()), ("delete", "resource", "db")),
        (
            replace(BEFORE, resources=(replace(RESOURCE, via=()),)),
            ("update", "resource", "db"),
        ),
        (
            replace(BEFORE, resources=(replace(RESOURCE, priority=7),)),
            ("update", "resource", "db"),
        ),
        (
            replace(
                BEFORE,
                resources=(replace(RESOURCE, alternatives=(Offer(gateway="gw2", priority=7),)),),
            ),
            ("update", "resource", "db"),
        ),
        (nodes(replace(GATEWAY, is_drained=True), CLIENT), ("update", "node", "gw1")),
        (policy(groups={}), ("delete", "group", "people")),
        (policy(groups={"people": ("web", "alice")}), ("update", "group", "people")),
        (policy(rules=(RULE, OTHER)), ("create", "rule", "s")),
        (policy(rules=(replace(RULE, action="deny"),)), ("update", "rule", "r")),
        (policy(rules=()), ("delete", "rule", "r")),
        (policy(default="allow"), ("update", "policy", "policy")),
        (
            policy(tests=(PolicyTest(source="web", destination="db", expect="allow"),)),
            ("update", "policy", "policy"),
        ),
        (
            policy(quotas=(Quota(identity="web", rate="1mbit", burst="1kB"),)),
            ("update", "policy", "policy"),
        ),
    ],
)
def test_a_difference_is_named_and_its_way_back_as_well(
    after: NetworkState, said: tuple[str, str, str]
) -> None:
    (there,) = between(BEFORE, after)
    (back,) = between(after, BEFORE)

    assert (there.action, there.kind, there.name) == said
    assert (there.before, there.after) == (back.after, back.before)
    assert there.before != there.after


def test_equal_networks_differ_in_nothing_even_if_they_share_no_object() -> None:
    again = network(node(1, "gw1", "gateway"), node(2, "alice", "client"))

    assert again == BEFORE and again.nodes is not BEFORE.nodes
    assert found(BEFORE, again) == []


def test_rules_in_another_order_are_a_difference_of_policy() -> None:
    one, two = policy(rules=(RULE, OTHER)), policy(rules=(OTHER, RULE))
    assert found(one, two) == [("update", "policy", "policy")]


def test_nothing_of_a_network_is_forgotten() -> None:
    # What is changed above is everything that states and policies have; what is fixed at `init`
    # cannot differ. A field that is new here must get a line there.
    assert {f.name for f in fields(NetworkState)} - {"network_id", "pools"} == {
        "nodes",
        "identities",
        "resources",
        "policy",
    }
    assert {f.name for f in fields(Policy)} == {"default", "rules", "groups", "tests", "quotas"}
    assert isinstance(RESOURCE, ResourceState)
