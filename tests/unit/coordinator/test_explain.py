"""Explanations of a network: whoever is meant by an end, and the matrix of everybody."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from coordinator.explain import MOST_PAIRS, explain, principals, reachability
from coordinator.state import NetworkState
from tests.unit.coordinator.networks import network, node
from ztlab.errors import SchemaError
from ztlab.model.explanation import Explanation
from ztlab.model.policy import Policy, Quota, Rule

RULES = (
    Rule(
        id="web-db", source="people", destination="db", action="allow", proto="tcp", ports=(5432,)
    ),
    Rule(id="ping", source="*", destination="*", action="allow", proto="icmp"),
    Rule(id="no-world", source="world", destination="*", action="deny"),
)
NETWORK = network(
    node(1, "gw1", "gateway"),
    node(2, "alice", "client", "web"),
    node(3, "bob", "client"),
    policy=Policy(
        rules=RULES,
        groups={"people": ("web", "bob")},
        quotas=(Quota(identity="web", rate="10mbit", burst="256kB"),),
    ),
)


def verdict(source: str, destination: str, proto: str = "any", port: int | None = None) -> str:
    return explain(NETWORK, source, destination, proto, port).verdict


@pytest.mark.parametrize("source", ["web", "alice", "people", "10.77.0.2", "fd77::2", "node:alice"])
@pytest.mark.parametrize("destination", ["db", "192.0.2.9", "resource:db"])
def test_ends_of_every_kind_are_the_principals_behind_them(source: str, destination: str) -> None:
    assert verdict(source, destination, "tcp", 5432) == "allow"
    assert verdict(source, destination, "tcp", 22) == "deny"
    assert verdict(source, destination) == "some"


def test_the_deciding_rule_and_the_way_it_matches_are_named() -> None:
    found = explain(NETWORK, "alice", "192.0.2.9", "tcp", 5432)

    (pair,) = found.pairs
    (one,) = pair.slices
    assert (one.verdict, one.rule) == ("allowed", "web-db")
    (match,) = pair.matches
    assert (match.rule, match.source_by, match.source) == ("web-db", "group", "people")
    assert (found.source.kind, found.source.principals) == ("node", ("web",))
    assert (found.destination.kind, found.destination.name) == ("address", "db")


def test_all_rules_that_match_are_named_and_not_only_the_one_that_decides() -> None:
    (pair,) = explain(NETWORK, "world", "db", "icmp").pairs
    assert {one.rule for one in pair.slices} == {"no-world"}
    assert [match.rule for match in pair.matches] == ["ping", "no-world"]


@pytest.mark.parametrize(
    ("asked", "principal"),
    [
        ("10.77.0.3", "bob"),  # a node's own address
        ("192.0.2.200", "db"),  # a resource
        ("8.8.8.8", "world"),
        ("10.77.0.200", "unknown"),  # in the pool, and nobody's
    ],
)
def test_an_address_is_whose_it_is(asked: str, principal: str) -> None:
    assert explain(NETWORK, asked, "db").source.principals == (principal,)


def test_an_address_that_nobody_has_is_unknown_whatever_rules_say() -> None:
    found = explain(NETWORK, "10.77.0.200", "db", "icmp")
    assert {one.verdict for one in found.pairs[0].slices} == {"unknown_source"}
    assert "no node has it" in found.notes[0]


def test_a_name_with_two_meanings_is_asked_about() -> None:
    two = replace(NETWORK, identities={**NETWORK.identities, "alice": 50})

    with pytest.raises(SchemaError, match="from: 'alice' has two meanings: say node:alice or id"):
        explain(two, "alice", "db")
    assert explain(two, "node:alice", "db").source.principals == ("web",)
    assert explain(two, "identity:alice", "db").source.principals == ("alice",)


def test_a_node_whose_identity_has_its_name_has_one_meaning() -> None:
    assert explain(NETWORK, "bob", "db").source.principals == ("bob",)


def test_whatever_is_wrong_with_a_question_is_said_at_once() -> None:
    with pytest.raises(SchemaError) as caught:
        explain(NETWORK, "alica", "node:db", "tpc", 70000)
    said = caught.value.problems
    assert [line.partition(":")[0] for line in said] == ["from", "to", "proto", "port"]
    assert 'did you mean "alice"' in said[0]


def test_notes_say_what_decides_beside_policy() -> None:
    notes = "\n".join(explain(NETWORK, "web", "bob").notes)
    assert "limited to 10mbit" in notes
    assert "not_established" in notes
    assert explain(NETWORK, "nobody", "db").notes == ("no node has the identity nobody now",)


def test_a_large_group_is_shown_in_part_and_judged_whole() -> None:
    names = {f"i{n}": 1000 + n for n in range(MOST_PAIRS + 5)}
    last = Rule(id="last", source=list(names)[-1], destination="db", action="allow")
    large = replace(
        NETWORK,
        identities={**NETWORK.identities, **names},
        policy=Policy(rules=(last,), groups={"all": tuple(names)}),
    )
    found = explain(large, "all", "db")
    assert (len(found.pairs), found.left_off, found.verdict) == (MOST_PAIRS, 5, "some")


def test_a_question_about_too_many_is_refused_and_a_large_one_takes_no_second() -> None:
    names = {f"i{n}": 1000 + n for n in range(600)}
    rules = tuple(
        Rule(id=f"r{n}", source=f"i{n % 400}", destination=f"i{n * 7 % 400}", action="allow")
        for n in range(10_000)
    )
    groups = {"all": tuple(names), "most": tuple(names)[:400]}
    large = replace(NETWORK, identities=names, policy=Policy(rules=rules, groups=groups))

    begun = time.process_time()
    assert explain(large, "most", "most").verdict == "some"
    assert time.process_time() - begun < 1
    with pytest.raises(SchemaError, match="360000 pairs"):
        explain(large, "all", "all")


def test_the_matrix_says_in_each_cell_what_an_explanation_says() -> None:
    matrix = reachability(NETWORK)

    assert matrix.total == len(principals(NETWORK)) and matrix.destinations == principals(NETWORK)
    assert [row.source for row in matrix.rows] == list(principals(NETWORK))
    for row in matrix.rows:
        for cell in row.cells:
            found = explained(NETWORK, row.source, cell.destination)
            assert cell.verdict == found.verdict
            rules = {one.rule for one in found.pairs[0].slices} - {None}
            assert set(cell.rules) == rules
    web = next(row for row in matrix.rows if row.source == "web")
    cell = next(cell for cell in web.cells if cell.destination == "db")
    assert cell.allowed == ("tcp 5432", "icmp", "ipv6-icmp")


def explained(state: NetworkState, source: str, destination: str) -> Explanation:
    """By names that policy knows."""
    kinds = [
        "" if n == "world" else "identity:" if n in state.identities else "resource:"
        for n in (source, destination)
    ]
    return explain(state, kinds[0] + source, kinds[1] + destination)


def test_a_page_of_a_matrix_over_ten_thousand_rules_takes_no_second() -> None:
    names = {f"i{n}": 1000 + n for n in range(1000)}
    rules = tuple(
        Rule(
            id=f"r{n}",
            source=f"i{n % 1000}",
            destination=f"i{(n * 7 + n // 1000) % 1000}",
            action="allow",
            proto="tcp",
            ports=(n % 60000,),
        )
        for n in range(10_000)
    )
    large = replace(NETWORK, identities=names, policy=Policy(rules=rules))

    begun = time.process_time()
    page = principals(large)[:100]
    matrix = reachability(large, page, page)

    assert time.process_time() - begun < 1
    assert any(cell.verdict == "some" for row in matrix.rows for cell in row.cells)
