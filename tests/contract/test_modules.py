"""A module is small, and says in its first line what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.contract.tree import files, shown, sources

MODULE_LINES = 500
FUNCTION_LINES = 60

MODULES = [*sources(), *files(".py", under="tests"), *files(".py", under="tools")]


@pytest.mark.parametrize("path", [*sources(), *files(".py", under="tools")], ids=shown)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body, f"{shown(path)} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_a_module_and_its_functions_fit_into_a_head(path: Path) -> None:
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= MODULE_LINES, f"{shown(path)} has {lines} lines: cut it in two"
    if "/migrations/versions/" in shown(path):
        return  # one function that names every table and column of that day
    long = [
        f"{shown(path)}:{node.lineno}: {node.name} has {length} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_a_package_has_an_init_that_says_what_it_is_for() -> None:
    folders = {path.parent for path in sources()}
    without = [
        shown(folder)
        for folder in sorted(folders)
        if not (folder / "__init__.py").is_file()
        or not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    ]
    assert not without
