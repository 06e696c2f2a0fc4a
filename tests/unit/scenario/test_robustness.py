"""Whatever stands in a file, loading ends in a scenario or in faults with places, not in a bug."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ztlab.errors import SchemaError
from ztlab.scenario.document import parse
from ztlab.scenario.loading import examine_document

SHIPPED = sorted((Path(__file__).parents[3] / "scenarios").glob("*.yaml"))
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 70000),
    st.floats(allow_nan=True),
    st.sampled_from(["", "*", "bob", "world", "unknown", "10.0.0.0/8", "a.b", "tcp/0", "é"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["name", "at", "x"]), st.integers(), max_size=2),
)


def places(data: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in DATA."""
    found = [here]
    if isinstance(data, (dict, list)):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            found += places(value, (*here, key))
    return found


def examined(text: str) -> SchemaError | None:
    """What loading TEXT raises; any other exception than a SchemaError is a bug and passes on."""
    try:
        examine_document(parse(text, "f"))
    except SchemaError as error:
        return error
    return None


@given(data=st.data(), path=st.sampled_from(SHIPPED), rounds=st.integers(1, 4))
def test_a_scenario_with_wrong_values_in_it_is_read_or_refused(
    data: st.DataObject, path: Path, rounds: int
) -> None:
    document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    for _ in range(rounds):
        place = data.draw(st.sampled_from(places(document)))
        junk = data.draw(JUNK)
        if not place:
            document = junk
            break
        parent = document
        for key in place[:-1]:
            parent = parent[key]
        if data.draw(st.booleans()):
            parent[place[-1]] = junk
        else:
            del parent[place[-1]]
    error = examined(yaml.safe_dump(document, sort_keys=False))
    if error is not None:
        assert error.problems
        for problem in error.problems:
            assert re.match(r"f:\d+:\d+: ", problem), problem


@given(text=st.text(alphabet="ab:-{}[]&*<! \n\t'\"#|>%@", max_size=40))
def test_any_text_at_all_is_refused_with_a_place(text: str) -> None:
    error = examined(text)
    assert error is not None
    for problem in error.problems:
        assert re.match(r"f:\d+:\d+: ", problem), problem


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_scenario_survives_a_round_trip_through_yaml(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert examined(yaml.safe_dump(yaml.safe_load(text))) is None
