"""docs/CONFIGURATION.md and README.md say what the programs know, no more and no less."""

from __future__ import annotations

import ast
import dataclasses
import re
import tomllib
import typing
from collections.abc import Iterator
from typing import Any

import click
import pytest

import agent.settings
import coordinator.settings
from tests.contract.tree import ROOT, sources
from ztlab.model.codec import decode

CONFIGURATION = (ROOT / "docs" / "CONFIGURATION.md").read_text()
README = (ROOT / "README.md").read_text()

SETTINGS = {
    "agent.toml": agent.settings.Settings,
    "coordinator.toml": coordinator.settings.Settings,
}


def documented_file(name: str) -> dict[str, Any]:
    """The example of the configuration file NAME."""
    found = re.search(
        rf"^## \S+: `{re.escape(name)}`\n```toml\n(.*?)^```", CONFIGURATION, re.M | re.S
    )
    assert found, f"docs/CONFIGURATION.md has no example of {name}"
    return tomllib.loads(found[1])


def paths_of_data(data: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from paths_of_data(value, f"{path}{key}.")
        else:
            yield path + key


def paths_of_kind(kind: Any, path: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for spec in dataclasses.fields(kind):
        name = path + (spec.metadata.get("key") or spec.name)
        options = typing.get_args(hints[spec.name]) or (hints[spec.name],)
        inner = [option for option in options if dataclasses.is_dataclass(option)]
        if inner:
            yield from paths_of_kind(inner[0], name + ".")
        else:
            yield name


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_documented_and_every_documented_setting_exists(name: str) -> None:
    documented = set(paths_of_data(documented_file(name)))
    assert documented == set(paths_of_kind(SETTINGS[name]))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_documented_file_is_one_that_the_program_reads(name: str) -> None:
    decode(SETTINGS[name], documented_file(name))


def registered_metrics() -> Iterator[str]:
    """Every text like zt_packets_total in the modules that use prometheus-client."""
    for path in sources():
        text = path.read_text()
        if "prometheus_client" in text:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield from re.findall(r"\Azt_[a-z_]+\Z", node.value)


def test_every_metric_is_documented_and_every_documented_metric_exists() -> None:
    tables = [part.split("\n## ")[0] for part in CONFIGURATION.split("\n## Metrics of a")[1:]]
    documented = set(re.findall(r"`(zt_[a-z_]+)`", "".join(tables)))
    # prometheus-client adds `_total` to a counter by itself, where the name has none.
    plain = {name.removesuffix("_total") for name in registered_metrics()}
    assert plain == {name.removesuffix("_total") for name in documented}


def commands_of(group: click.Command, prefix: str) -> Iterator[str]:
    """Every command of GROUP in full, as people type it."""
    assert isinstance(group, click.Group)
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def program(name: str) -> click.Command:
    """The click group behind an installed command."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, attribute = scripts[name].partition(":")
    command = getattr(__import__(module, fromlist=[attribute]), attribute)
    assert isinstance(command, click.Command)
    return command


@pytest.mark.parametrize("name", ["ztlab", "zt-agent", "zt-coordinator"])
def test_every_command_is_documented(name: str) -> None:
    # `ztlab list`, `inspect`, `logs`: a table's cell names the program once, for the first of them.
    text = re.sub(r"`, `(?!zt)", f"`, `{name} ", README if name == "ztlab" else CONFIGURATION)
    missing = [command for command in commands_of(program(name), name) if command not in text]
    assert not missing
