"""YAML with a memory of where each value stood."""

from __future__ import annotations

import pytest

from ztlab.errors import SchemaError
from ztlab.scenario.document import parse

TEXT = """\
name: x
nodes:
  bob: {listen: [tcp/80, tcp/81]}
steps:
- name: first
  probe: {from: a}
"""


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        ("name: wrong", "1:7"),
        ("nodes.bob: wrong", "3:3"),
        ("nodes.bob.listen[1]: wrong", "3:26"),
        ("nodes.bob.listn: unknown key", "3:3"),
        ("steps[0].probe.from: wrong", "6:17"),
        ("steps[0].probe.to: missing", "6:3"),
        ("steps[0].expect.drop.at: missing", "5:3"),
        ("nowhere.at.all: missing", "1:1"),
    ],
)
def test_a_fault_is_placed_at_its_value_or_the_nearest_thing_that_is_there(
    fault: str, place: str
) -> None:
    assert parse(TEXT, "f.yaml").place(fault) == f"f.yaml:{place}: {fault}"


def test_faults_come_in_the_order_of_the_file_and_once() -> None:
    faults = ["steps[0].name: b", "name: a", "steps[0].name: b"]
    lines = parse(TEXT, "f").ordered(faults)
    assert [line.rpartition(" ")[2] for line in lines] == ["a", "b"]


def test_a_merged_mapping_yields_to_what_is_written_beside_it() -> None:
    document = parse("base: &b {role: mesh, lan: x}\nnode: {<<: *b, lan: y}\n", "f")
    assert document.data["node"] == {"role": "mesh", "lan": "y"}
    assert document.mark("node.role: wrong").line == 1


def test_bare_on_and_off_are_booleans_as_yaml_1_1_has_it() -> None:
    assert parse("{a: on, b: off}", "f").data == {"a": True, "b": False}


@pytest.mark.parametrize("text", ["", "\n# only this\n"])
def test_an_empty_file_is_refused(text: str) -> None:
    with pytest.raises(SchemaError, match="f:1:1: the file is empty"):
        parse(text, "f")


def test_several_documents_in_one_file_are_refused() -> None:
    with pytest.raises(SchemaError, match="f:2:1: not YAML"):
        parse("a: 1\n--- \nb: 1\n", "f")


def test_no_tag_makes_an_object_of_python() -> None:
    with pytest.raises(SchemaError, match="f:1:4"):
        parse("a: !!python/object/apply:os.system [true]\n", "f")


def test_a_file_that_is_not_text_is_refused_with_its_line() -> None:
    with pytest.raises(SchemaError, match="f:2:1: not a text file"):
        parse("a: 1\nb: \x07\n", "f")
