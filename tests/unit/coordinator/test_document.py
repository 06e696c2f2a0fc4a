"""The document as YAML: what is written is read back, one document has one spelling."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coordinator import document
from coordinator.catalog import DocumentBody
from coordinator.document import as_lines, differences, from_yaml, to_yaml
from tests.unit.coordinator.networks import network, node
from ztlab.errors import SchemaError
from ztlab.model import codec

TEXT = """\
identities: [alice, web]
groups:
  "on": [web, alice]
resources:
  - {name: db, cidr: 192.0.2.0/24, gateway: gw1, via: [203.0.113.1/32]}
  - {name: six, cidr: "2001:db8::/32", gateway: gw1}
  - name: two
    cidr: 198.51.100.0/24
    gateway: gw1
    priority: 10
    alternatives: [{gateway: gw2, priority: 20}]
policy:
  default: deny
  rules:
    - {id: web-to-api, from: web, to: db, action: allow, proto: tcp, ports: [8080, 9000-9010]}
    - {id: ping, from: "*", to: "*", action: allow, proto: icmp}
  quotas:
    - {identity: web, rate: 10mbit, burst: 256kB}
  tests:
    - {from: web, to: db, proto: tcp, port: 8080, expect: allow}
    - {from: alice, to: db, expect: deny}
"""


def normal(data: Any) -> dict[str, Any]:
    """With every default said."""
    plain: dict[str, Any] = codec.encode(codec.decode(DocumentBody, data))
    return plain


def test_what_is_written_is_read_back_and_written_alike() -> None:
    read = normal(from_yaml(TEXT))

    assert read["groups"] == {"on": ["web", "alice"]}
    assert read["policy"]["rules"][1] == {
        "id": "ping",
        "from": "*",
        "to": "*",
        "action": "allow",
        "proto": "icmp",
        "ports": [],
        "icmp_types": [],
    }
    assert normal(from_yaml(to_yaml(read))) == read
    assert to_yaml(normal(from_yaml(to_yaml(read)))) == to_yaml(read)


def test_comments_and_another_style_change_nothing() -> None:
    other = yaml.safe_dump(yaml.safe_load(TEXT)) + "# and a comment\n"
    assert other != TEXT
    assert normal(from_yaml(other)) == normal(from_yaml(TEXT))


@given(st.text(st.sampled_from("aZ019._-:/*~# on"), min_size=1, max_size=8) | st.text())
def test_every_text_is_quoted_where_it_would_mean_something_else(text: str) -> None:
    body = {"identities": [text], "groups": {}, "resources": [], "policy": document_policy()}
    assert from_yaml(to_yaml(body))["identities"] == [text]


def document_policy() -> dict[str, Any]:
    return {"default": "deny", "rules": [], "quotas": [], "tests": []}


def test_an_empty_document_is_a_document() -> None:
    empty = normal({})
    assert normal(from_yaml(to_yaml(empty))) == empty


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("policy: {default: deny}\npolicy: {default: allow}\n", "key 'policy' is there twice"),
        ("groups:\n  a: [x]\n  a: [y]\n", "key 'a' is there twice.*line 3"),
        ("groups: {a: [x}\n", "line 1"),
        ("- a\n", "want a mapping, got a list"),
        ("", "want a mapping, got nothing"),
        ("groups: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
    ],
)
def test_what_is_no_document_is_refused_with_its_place(text: str, fault: str) -> None:
    with pytest.raises(SchemaError, match=fault):
        from_yaml(text)


def test_the_document_of_a_network_has_no_node_and_no_tag() -> None:
    found = document.of(network(node(1, "gw1", "gateway"), node(2, "alice", "client", "web")))

    assert normal(found) == {**found, "identities": ["gw1", "nobody", "web"]}
    assert set(found) == {"identities", "groups", "resources", "policy"}
    assert "tag" not in str(found)


def test_a_difference_is_a_line_for_each_object_that_goes_or_comes() -> None:
    old = normal(from_yaml(TEXT))
    new = normal(
        from_yaml(
            TEXT.replace("[alice, web]", "[alice, web, api]")
            .replace("default: deny", "default: allow")
            .replace("ports: [8080, 9000-9010]", "ports: [8080]")
            .replace('  "on": [web, alice]', "  people: [web]")
            .replace("    - {identity: web, rate: 10mbit, burst: 256kB}\n", "    []\n")
        )
    )

    assert list(as_lines(differences(old, new))) == [
        "- group on: {members: [web, alice]}",
        "- rule web-to-api: {from: web, to: db, action: allow, proto: tcp, "
        "ports: [8080, 9000-9010]}",
        "+ rule web-to-api: {from: web, to: db, action: allow, proto: tcp, ports: [8080]}",
        "- default deny",
        "+ default allow",
        "- quota {identity: web, rate: 10mbit, burst: 256kB}",
        "+ identity api",
        "+ group people: {members: [web]}",
    ]
    assert differences(old, old) == []


def test_rules_in_another_order_are_said_to_mean_nothing() -> None:
    old = normal(from_yaml(TEXT))
    new = {**old, "policy": {**old["policy"], "rules": old["policy"]["rules"][::-1]}}

    assert list(as_lines(differences(old, new))) == [
        "~ the rules in another order, which means nothing"
    ]
