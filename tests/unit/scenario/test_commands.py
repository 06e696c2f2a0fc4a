"""`ztlab validate`, and what `ztlab test` refuses before it builds anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ztlab.cli import main

SOUND = """\
name: sound
nodes: {a: {}, b: {listen: [tcp/80]}}
steps:
  - name: s
    probe: {from: a, to: b, tcp: 80}
    expect: {answered: false}
"""


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A sound scenario with one doubt."""
    path = tmp_path / "sound.yaml"
    path.write_text(SOUND)
    return path


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A scenario with two faults."""
    path = tmp_path / "broken.yaml"
    path.write_text(SOUND.replace("to: b", "to: bb").replace("name: s\n", "nam: s\n"))
    return path


def test_validate_says_that_a_file_is_sound_and_warns_of_doubts(sound: Path) -> None:
    result = CliRunner().invoke(main, ["validate", str(sound)])
    assert result.exit_code == 0
    assert result.stdout == f"{sound}: sound, 1 warnings\n"
    assert f"warning: {sound}:5:5: steps[0].probe: no positive control" in result.stderr


def test_validate_shows_every_fault_of_every_file(sound: Path, broken: Path) -> None:
    result = CliRunner().invoke(main, ["validate", str(broken), str(sound)])
    assert result.exit_code == 1
    assert result.stderr.count("error: ") == 2
    assert f"error: {broken}:4:5: steps[0].nam: unknown key" in result.stderr
    assert f"{sound}: sound" in result.stdout


def test_validate_as_json_has_faults_and_warnings_by_file(sound: Path, broken: Path) -> None:
    result = CliRunner().invoke(main, ["validate", "--json", str(broken), str(sound)])
    first, second = json.loads(result.stdout)
    assert (len(first["faults"]), len(first["warnings"])) == (2, 0)
    assert (len(second["faults"]), len(second["warnings"])) == (0, 1)
    assert result.exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lab", "x", "--keep"],
        ["--lab", "x", "--name", "y"],
        ["--name", "y", "SECOND"],
        ["--lab", "y", "SECOND"],
    ],
)
def test_options_of_test_that_contradict_each_other_are_a_usage_error(
    arguments: list[str], sound: Path
) -> None:
    given = [str(sound) if word == "SECOND" else word for word in arguments]
    result = CliRunner().invoke(main, ["test", str(sound), *given])
    assert result.exit_code == 2


@pytest.mark.root
def test_a_fault_in_the_last_file_costs_no_lab(sound: Path, broken: Path) -> None:
    result = CliRunner().invoke(main, ["test", str(sound), str(broken)])
    assert result.exit_code == 1
    assert "unknown key" in result.stderr
    assert "namespaces" not in result.stderr
