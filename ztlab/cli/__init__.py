"""The command `ztlab`. A command's module is imported when it is called, and not before."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import click

from ztlab.clikit import ZtGroup


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is, and its line in `ztlab --help`."""

    module: str
    attribute: str
    help: str


_COMMANDS = {
    "up": LazyCommand("ztlab.cli.build_commands", "up_command", "Build the lab of a scenario."),
    "down": LazyCommand("ztlab.cli.build_commands", "down_command", "Remove a lab, all of it."),
    "list": LazyCommand("ztlab.cli.show_commands", "list_command", "List the labs."),
    "inspect": LazyCommand("ztlab.cli.show_commands", "inspect_command", "Show a lab's nodes."),
    "exec": LazyCommand("ztlab.cli.enter_commands", "exec_command", "Run a command in a node."),
    "shell": LazyCommand("ztlab.cli.enter_commands", "shell_command", "Open a shell in a node."),
    "logs": LazyCommand("ztlab.cli.log_commands", "logs_command", "Show a program's log."),
    "observe": LazyCommand(
        "ztlab.cli.observe_commands", "observe_command", "Watch the nodes' events live."
    ),
    "ui": LazyCommand("ztlab.cli.ui_command", "ui_command", "Open the way to the pages."),
    "test": LazyCommand(
        "ztlab.cli.scenario_commands", "test_command", "Run scenarios, one line per check."
    ),
    "validate": LazyCommand(
        "ztlab.cli.scenario_commands", "validate_command", "Check scenario files for faults."
    ),
    "vm": LazyCommand("ztlab.cli.vm_commands", "vm_command", "Run commands on other kernels."),
    "doctor": LazyCommand(
        "ztlab.cli.doctor_commands", "doctor_command", "Say what this machine can run."
    ),
}


class LazyGroup(ZtGroup):
    """A group whose commands live elsewhere until they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        where = _COMMANDS.get(cmd_name)
        if where is None:
            return None
        command = getattr(importlib.import_module(where.module), where.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, where.help) for name, where in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ztlab", message="%(prog)s %(version)s")
def main() -> None:
    """A zero-trust network of real namespaces, real WireGuard and real eBPF on one machine.

    NODE is a node's name while one lab stands, else LAB.NODE, or with --lab.
    """
