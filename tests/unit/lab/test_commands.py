"""The command line's table of commands."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import click
import pytest

from tests.unit.lab.plans import MESH
from ztlab.cli import main
from ztlab.cli.show_commands import lab_as_data
from ztlab.lab.draft import draft
from ztlab.lab.lab import Lab
from ztlab.lab.state import NamespaceFds


@pytest.fixture
def ctx() -> click.Context:
    return click.Context(main)


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_command_in_the_table_is_there_and_says_what_it_does(
    ctx: click.Context, name: str
) -> None:
    command = main.get_command(ctx, name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_help_imports_no_command() -> None:
    """Speed by absence: no rich, no netlink, no TLS for `ztlab --help`."""
    code = (
        "import sys\n"
        "from ztlab.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'rich', 'pyroute2', 'ssl', 'urllib3', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "observe" in done.stdout


def test_exec_needs_neither_netlink_nor_tls() -> None:
    code = (
        "import sys, ztlab.cli.enter_commands\n"
        "heavy = {'rich', 'pyroute2', 'ssl', 'urllib3', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    code = "from ztlab.cli import main; main(['upp'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "upp" in done.stderr


def test_whoever_cannot_see_processes_is_not_told_that_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = draft(MESH, source=None)
    nodes = tuple(replace(n, namespaces=NamespaceFds(net=3, mnt=4)) for n in record.nodes)
    lab = Lab(replace(record, nodes=nodes))

    def processes() -> list[object]:
        return [node["processes"] for node in lab_as_data(lab)["nodes"]]

    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert processes() == [[]] * len(nodes)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert processes() == [None] * len(nodes)
