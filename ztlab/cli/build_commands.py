"""`ztlab up` and `ztlab down`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ztlab.cli.options import json_option
from ztlab.cli.signals import terminated_as_interrupted
from ztlab.clikit import echo_json
from ztlab.errors import NotFound
from ztlab.lab import teardown
from ztlab.lab.lab import Lab, require_root
from ztlab.lab.names import check_lab_name

if TYPE_CHECKING:
    from ztlab.lab.build import Progress


@click.command("up")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", metavar="NAME", help="Name of the lab; default: the scenario's.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up, and clean up, if it is not ready by then.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show how long each part took.")
@json_option
def up_command(
    file: Path, name: str | None, timeout_s: float, verbose: bool, as_json: bool
) -> None:
    """Build the lab of the scenario in FILE, and return when it is ready.

    Ready: every agent enrolled and its programs attached, the network converged, a completed
    handshake on every tunnel.
    """
    require_root()
    from ztlab.lab import build
    from ztlab.scenario import load

    began = time.monotonic()
    plan = load(file).plan(name)
    if name is not None:
        plan = replace(plan, name=check_lab_name(name))
    with terminated_as_interrupted(), _progress(plan.name, quiet=as_json) as progress:
        lab = build.up(plan, progress=progress, timeout_s=timeout_s, source=str(file.absolute()))
    took_s = round(time.monotonic() - began, 3)
    if as_json:
        from ztlab.cli.show_commands import lab_as_data

        echo_json({**lab_as_data(lab), "took_s": took_s})
        return
    if verbose:
        for phase, seconds in lab.record.phases_s.items():
            click.echo(f"  {phase:<16} {seconds:6.2f} s")
    nodes = ", ".join(node.name for node in lab.nodes)
    click.echo(f"lab {lab.name} is up in {took_s:.1f} s: {nodes}")


@contextmanager
def _progress(lab: str, *, quiet: bool) -> Iterator[Progress]:
    """On a terminal one line that changes; else a plain line for each phase, on stderr."""
    if quiet:
        yield lambda _phase, _seen: None
    elif not sys.stderr.isatty():
        yield lambda phase, seen: click.echo(
            f"{lab}: {phase}{': ' + seen if seen else ''}", err=True
        )
    else:
        from rich.console import Console
        from rich.markup import escape

        with Console(stderr=True).status(f"{lab}: starting") as status:
            yield lambda phase, seen: status.update(
                f"{lab}: {phase}" + (f"  [dim]{escape(seen)}[/dim]" if seen else "")
            )


@click.command("down")
@click.argument("name", required=False)
@click.option("--all", "is_all", is_flag=True, help="Every lab.")
@json_option
def down_command(name: str | None, is_all: bool, as_json: bool) -> None:
    """Remove lab NAME (or the only one): processes, namespaces, names, files.

    Works whatever is left of it, also after `kill -9` of any part. With --all no lab is fine too.
    """
    require_root()
    if is_all and name is not None:
        raise click.UsageError("either NAME or --all")
    if is_all:
        removed = teardown.down_all()
    else:
        removed = (name if name is not None else _only_lab(),)
        teardown.down(removed[0])
    if as_json:
        echo_json({"removed": list(removed)})
    else:
        click.echo("\n".join(f"lab {lab} is gone" for lab in removed) or "no lab was standing")


def _only_lab() -> str:
    """The name alone: a lab whose record cannot be read must still go down."""
    names = Lab.names()
    if len(names) != 1:
        raise NotFound(
            f"{len(names)} labs are standing: {', '.join(names)}"
            if names
            else "no lab is standing",
            hint="name one, or use --all" if names else "",
        )
    return names[0]
