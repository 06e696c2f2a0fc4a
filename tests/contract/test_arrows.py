"""Everything points down, siblings never touch: who may import whom, read from the syntax trees.

Every import counts, wherever it stands: at the top, inside a function, under TYPE_CHECKING, or as
a literal given to `importlib.import_module` or `__import__`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.tree import PACKAGES, ROOT, shown, sources

# Who may not use what, and why. `who` is a folder or a file, as a path from the root.
PRODUCTION = "production never imports the lab"
FORBIDDEN: dict[str, dict[str, str]] = {
    "ztlab": {
        "agent": "the lab meets the agent as a process and on the wire",
        "coordinator": "the lab meets the coordinator as a process and on the wire",
        "bcc": "programs are loaded by the agent",
    },
    "ztlab/client": {
        "ztlab.lab": PRODUCTION,
        "ztlab.scenario": PRODUCTION,
        "ztlab.cli": "the client sits below the commands",
        "ztlab.clikit": "a library does not print",
    },
    "ztlab/lab": {
        "ztlab.scenario": "the lab sits below scenarios: it builds any plan",
        "ztlab.cli": "the lab sits below the commands",
    },
    "ztlab/scenario": {"ztlab.cli": "scenarios sit below the commands"},
    "coordinator": {
        "pyroute2": "the coordinator never touches the datapath",
        "bcc": "the coordinator never touches the datapath",
        "scapy": "the coordinator never processes packets",
    },
}

SHARED = ("ztlab.model", "ztlab.errors", "ztlab.clikit", "ztlab.log", "ztlab.notify")
# Who may use nothing of our own but this (and itself), and why.
ALLOWED: dict[str, tuple[tuple[str, ...], str]] = {
    "ztlab/model": (("ztlab.errors",), "the model is what both planes share: pure values"),
    "ztlab/errors.py": ((), "errors are at the bottom of everything"),
    "ztlab/log.py": (("ztlab.model", "ztlab.errors"), "one floor, above the model only"),
    "ztlab/clikit.py": (("ztlab.model", "ztlab.errors"), "one floor, above the model only"),
    "ztlab/notify.py": ((), "it speaks to the service manager and knows nothing of ours"),
    "agent": (
        (*SHARED, "ztlab.client"),
        "the agent runs in production: "
        + PRODUCTION
        + ", and it meets the coordinator on the wire",
    ),
    "coordinator": (
        (*SHARED, "ztlab.client"),
        "the coordinator runs in production: " + PRODUCTION + ", and it meets agents on the wire",
    ),
}

# Untyped or kernel-bound packages, and the only files behind which they may hide.
FENCES: dict[str, str] = {
    "pyroute2": r"agent/wireguard/\w+\.py|agent/netlink\.py"
    r"|ztlab/lab/(namespaces?|links?)\.py",
    "bcc": r"agent/datapath/\w+\.py",
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything PATH imports; `from a import b` gives a.b."""
    package = shown(path).removesuffix(".py").removesuffix("/__init__").split("/")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and _is_import_call(node.func) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value


def _is_import_call(function: ast.expr) -> bool:
    name = getattr(function, "attr", getattr(function, "id", ""))
    return name in ("import_module", "__import__")


def is_within(name: str, package: str) -> bool:
    """Is the dotted NAME the PACKAGE or something in it?"""
    return name == package or name.startswith(package + ".")


def files_of(who: str) -> list[Path]:
    return [p for p in sources() if shown(p) == who or shown(p).startswith(who + "/")]


@pytest.mark.parametrize("who", FORBIDDEN)
def test_nobody_imports_what_is_forbidden_to_him(who: str) -> None:
    broken = [
        f"{shown(path)}:{line}: imports {name}: {reason}"
        for path in files_of(who)
        for line, name in imports(path)
        for what, reason in FORBIDDEN[who].items()
        if is_within(name, what)
    ]
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize("who", ALLOWED)
def test_a_floor_uses_only_the_floors_below_it(who: str) -> None:
    below, reason = ALLOWED[who]
    own = who.removesuffix(".py").replace("/", ".")
    broken = [
        f"{shown(path)}:{line}: imports {name}: {reason}"
        for path in files_of(who)
        for line, name in imports(path)
        if name.split(".")[0] in PACKAGES
        and not any(is_within(name, package) for package in (own, *below))
    ]
    assert not broken, "\n" + "\n".join(broken)


def test_the_model_is_standard_library_only() -> None:
    broken = [
        f"{shown(path)}:{line}: imports {name}: models run in every program, with no dependency"
        for path in files_of("ztlab/model")
        for line, name in imports(path)
        if name.split(".")[0] not in {*sys.stdlib_module_names, "ztlab"}
    ]
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize("package", FENCES)
def test_an_untyped_package_stays_behind_its_fence(package: str) -> None:
    broken = [
        f"{shown(path)}:{line}: imports {name}: only {FENCES[package]} may"
        for path in sources()
        for line, name in imports(path)
        if is_within(name, package) and not re.fullmatch(FENCES[package], shown(path))
    ]
    assert not broken, "\n" + "\n".join(broken)


def test_one_module_alone_knows_bcc() -> None:
    users = {shown(p) for p in sources() for _, name in imports(p) if is_within(name, "bcc")}
    assert len(users) == 1, f"bcc is imported by {sorted(users)}"


def test_every_name_in_the_tables_still_exists() -> None:
    """Or a rule would go on standing there after a move, and forbid nothing."""
    who = {*FORBIDDEN, *ALLOWED}
    what = {name for table in FORBIDDEN.values() for name in table}
    what |= {name for below, _ in ALLOWED.values() for name in below}
    own = {name.replace(".", "/") for name in what if name.split(".")[0] in PACKAGES}
    gone = [name for name in who | own if not _exists(name)]
    assert not gone, f"the tables name what is not there: {gone}"


def _exists(name: str) -> bool:
    return (ROOT / name).is_file() or any(
        (ROOT / candidate).is_file() for candidate in (f"{name}.py", f"{name}/__init__.py")
    )


def test_an_import_is_found_wherever_it_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.contract.tree.ROOT", tmp_path)
    (tmp_path / "agent" / "deep").mkdir(parents=True)
    module = tmp_path / "agent" / "deep" / "module.py"
    module.write_text(
        "import os.path\n"
        "from . import near\n"
        "from ..up import thing\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    import ztlab.lab\n"
        "def lazy():\n"
        "    from coordinator import app\n"
        "    importlib.import_module('bcc.table')\n"
        "    __import__('scapy')\n"
    )
    assert [name for _, name in imports(module)] == [
        "os.path",
        "agent.deep.near",
        "agent.up.thing",
        "typing.TYPE_CHECKING",
        "ztlab.lab",
        "coordinator.app",
        "bcc.table",
        "scapy",
    ]
