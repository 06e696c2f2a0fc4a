"""Sound scenario files, their short forms, and what is doubtful about them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from ztlab.errors import NotFound, SchemaError
from ztlab.model.verdict import AuthzMode
from ztlab.scenario.document import Document
from ztlab.scenario.loading import examine, examine_document, from_data, load

SHIPPED = sorted((Path(__file__).parents[3] / "scenarios").glob("*.yaml"))
MINIMAL: dict[str, Any] = {
    "name": "m",
    "nodes": {"a": None, "b": {"identity": "api", "listen": ["tcp/80", "udp/53"]}},
    "steps": [
        {
            "name": "s",
            "probe": {"from": "a", "to": "b", "tcp": 80},
            "expect": {"answered": True},
        }
    ],
}


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """MINIMAL with the value at PATH replaced."""
    data = copy.deepcopy(MINIMAL)
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return data


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_scenario_is_sound_and_beyond_doubt(path: Path) -> None:
    examined = examine(path)
    assert examined.scenario.name == path.stem
    assert examined.warnings == ()


def test_all_four_scenarios_are_shipped() -> None:
    assert {p.stem for p in SHIPPED} >= {"3node", "gateway", "policy-change", "ipv6"}


def test_a_node_without_settings_has_the_defaults_and_its_own_identity() -> None:
    scenario = from_data(MINIMAL)
    assert scenario.all_identities() == ("a", "api")
    assert scenario.mode_at_start("a") is AuthzMode.ENFORCE
    assert scenario.logs_at_start("a")


@pytest.mark.parametrize("word", [True, "on", "ON"])
def test_on_may_be_a_word_or_what_yaml_makes_of_it(word: object) -> None:
    assert from_data(changed("nodes", "a", to={"logging_enabled": word})).logs_at_start("a")


def test_one_expectation_may_stand_without_a_list() -> None:
    one = {"at": "b", "name": "zt_flows", "at_least": 0}
    single = from_data(changed("steps", 0, "expect", to={"metric": one}))
    listed = from_data(changed("steps", 0, "expect", to={"metric": [one]}))
    assert single == listed


def test_an_expected_zero_is_an_expectation() -> None:
    metric = {"at": "b", "name": "zt_identity_drift", "equals": 0}
    scenario = from_data(changed("steps", 0, "expect", to={"metric": metric}))
    assert scenario.steps[0].expect.metric[0].equals == 0


def test_a_file_that_is_not_there_is_an_error_of_the_operator(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cannot read"):
        load(tmp_path / "none.yaml")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: \xe4\n")
    with pytest.raises(SchemaError, match="not UTF-8"):
        load(path)


def warnings_of(*steps: dict[str, Any]) -> list[str]:
    """The warnings about MINIMAL with these STEPS, without their places."""
    data = changed("steps", to=[{"name": str(i), **step} for i, step in enumerate(steps)])
    examined = examine_document(Document(source="f", data=data))
    return [warning.split(": ", 1)[1] for warning in examined.warnings]


SILENT = {"probe": {"from": "a", "to": "b", "tcp": 80}, "expect": {"answered": False}}
ANSWERED = {"probe": {"from": "a", "to": "b", "tcp": 80}, "expect": {"answered": True}}


def test_silence_without_a_positive_control_is_doubtful() -> None:
    assert warnings_of(SILENT) == [
        "steps[0].probe: no positive control: in no step does a get an answer from b tcp/80, "
        "so a broken path would look like a denial"
    ]


def test_an_answer_from_the_same_target_is_a_control() -> None:
    assert warnings_of(SILENT, ANSWERED) == []


def test_an_answer_from_another_port_or_family_is_none() -> None:
    other = {"probe": {"from": "a", "to": "b", "udp": 53}, "expect": {"answered": True}}
    six = {"probe": {"from": "a", "to": "b", "tcp": 80, "family": 6}, "expect": {"answered": True}}
    assert len(warnings_of(SILENT, other, six)) == 1


def test_with_a_drop_that_names_it_anybodys_answer_is_a_control() -> None:
    drop = {"at": "b", "identity": "a", "reason": "no_rule"}
    named = {**SILENT, "expect": {"answered": False, "drop": drop}}
    by_itself = {"probe": {"from": "b", "to": "b", "tcp": 80}, "expect": {"answered": True}}
    assert len(warnings_of(named)) == 1
    assert warnings_of(named, by_itself) == []
    assert len(warnings_of(SILENT, by_itself)) == 1


def test_silence_where_nobody_listens_proves_nothing() -> None:
    deaf = {"probe": {"from": "a", "to": "b", "tcp": 81}, "expect": {"answered": False}}
    (warning,) = warnings_of(deaf)
    assert warning == (
        "steps[0].probe.tcp: nobody listens there, so the silence of this probe proves nothing"
    )


def test_a_probe_of_which_nothing_is_expected_is_doubtful() -> None:
    (warning,) = warnings_of({"probe": {"from": "a", "to": "b", "tcp": 80}})
    assert warning == "steps[0].probe: nothing is expected of this probe"
