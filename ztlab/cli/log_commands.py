"""`ztlab logs`."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path

import click

from ztlab.cli.options import find, json_option, lab_option
from ztlab.clikit import echo_json
from ztlab.errors import NotFound


@click.command("logs")
@click.argument("node", metavar="NODE|coordinator")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Only the last N lines."
)
@json_option
@lab_option
def logs_command(
    node: str, follow: bool, lines: int | None, as_json: bool, lab_name: str | None
) -> None:
    """Show the log of NODE's agent, or of the coordinator."""
    if follow and as_json:
        raise click.UsageError("--json prints one document: not with --follow")
    lab, name = find(node, lab_name)
    path = lab.log_path(name)
    try:
        file = open(path, errors="replace")
    except FileNotFoundError:
        raise NotFound(f"{path} is not there (yet)") from None
    with file:
        shown = deque(file, maxlen=lines)
        if as_json:
            echo_json({"lab": lab.name, "node": name, "lines": [s.rstrip("\n") for s in shown]})
            return
        for line in shown:
            click.echo(line, nl=False)
        while follow and _is_there(path, file.fileno()):
            text = file.read()
            if text:
                click.echo(text, nl=False)
            else:
                time.sleep(0.1)


def _is_there(path: Path, fd: int) -> bool:
    """Is the open file still the one at PATH? It goes with the lab."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
