"""Names of labs and nodes."""

from __future__ import annotations

import pytest

from ztlab.errors import SchemaError, ZtError
from ztlab.lab.names import check_lab_name, namespace_name, parse_reference


@pytest.mark.parametrize("name", ["a", "3node", "my-lab-2", "x" * 32])
def test_a_lab_may_be_called_so(name: str) -> None:
    assert check_lab_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "a.b", "a/b", "..", "-a", "a-", "x" * 33, "a b", "a\n"])
def test_a_lab_may_not_be_called_so(name: str) -> None:
    with pytest.raises(SchemaError):
        check_lab_name(name)


def test_a_namespace_shows_its_lab_and_node() -> None:
    assert namespace_name("3node", "alice") == "3node.alice"


def test_a_bare_name_leaves_the_lab_open_while_one_stands() -> None:
    found = parse_reference("bob", lab=None, labs=("3node",))
    assert (found.lab, found.node) == (None, "bob")


def test_a_dotted_name_splits_at_the_lab_that_stands() -> None:
    found = parse_reference("3node.bob", lab=None, labs=("3node", "other"))
    assert (found.lab, found.node) == ("3node", "bob")


def test_a_dot_in_a_nodes_own_name_is_no_lab() -> None:
    found = parse_reference("db.primary", lab=None, labs=("3node",))
    assert (found.lab, found.node) == (None, "db.primary")


def test_a_dotted_node_of_a_named_lab_keeps_its_dot() -> None:
    found = parse_reference("3node.db.primary", lab=None, labs=("3node",))
    assert (found.lab, found.node) == ("3node", "db.primary")


@pytest.mark.parametrize("text", ["bob", "a.bob"])
def test_with_the_option_the_lab_may_be_repeated_or_not(text: str) -> None:
    found = parse_reference(text, lab="a", labs=("a", "b"))
    assert (found.lab, found.node) == ("a", "bob")


def test_a_bare_name_is_refused_while_several_labs_stand() -> None:
    with pytest.raises(ZtError) as caught:
        parse_reference("bob", lab=None, labs=("a", "b"))
    assert "a, b" in str(caught.value)
    assert "a.bob" in caught.value.hint
