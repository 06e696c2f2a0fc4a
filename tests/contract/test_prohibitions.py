"""What no part may do, held where a reader would look for it: in the sources themselves."""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.tree import files, shown
from ztlab.model.config import NodeConfig, Revision

LOCAL_SWITCHES = ("authz_mode", "logging_enabled")


@pytest.mark.parametrize("switch", LOCAL_SWITCHES)
def test_the_coordinator_has_no_word_for_a_nodes_local_switches(switch: str) -> None:
    """No field, no endpoint, no code: not in sources, migrations, templates or API descriptions."""
    spellings = (switch, switch.replace("_", "-"), switch.title().replace("_", ""))
    found = [
        f"{shown(path)}: {spelling}"
        for path in files(under="coordinator")
        for spelling in spellings
        if spelling in path.read_text(errors="replace")
    ]
    assert not found


def keys_of(kind: Any, seen: set[Any] | None = None) -> Iterator[str]:
    """The name of every field of KIND and of all that its fields can hold."""
    seen = set() if seen is None else seen
    if dataclasses.is_dataclass(kind) and kind not in seen:
        seen.add(kind)
        hints = typing.get_type_hints(kind)
        for spec in dataclasses.fields(kind):
            yield spec.metadata.get("key") or spec.name
            yield from keys_of(hints[spec.name], seen)
    for part in typing.get_args(kind):
        yield from keys_of(part, seen)


@pytest.mark.parametrize("switch", LOCAL_SWITCHES)
def test_a_distributed_configuration_cannot_carry_a_local_switch(switch: str) -> None:
    keys = {*keys_of(NodeConfig), *keys_of(Revision)}
    assert {"policy", "rules", "from", "prefixes", "epoch"} <= keys  # it looks inside
    assert switch not in keys


def test_nothing_runs_a_command_through_a_shell() -> None:
    found = [
        f"{shown(path)}:{node.lineno}: {ast.unparse(node.func)}"
        for package in ("ztlab", "agent", "coordinator")
        for path in files(".py", under=package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (
            ast.unparse(node.func) in ("os.system", "os.popen")
            or any(word.arg == "shell" for word in node.keywords)
        )
    ]
    assert not found
