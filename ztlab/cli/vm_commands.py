"""`ztlab vm`: commands on another kernel, which kernels there are, and one to build."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ztlab.cli.options import ENGINES, json_option
from ztlab.clikit import ZtGroup, echo_json
from ztlab.errors import ZtError

if TYPE_CHECKING:
    from ztlab.vm.engine import Choice, Wish
    from ztlab.vm.guest import Outcome
    from ztlab.vm.kernels import Kernel
    from ztlab.vm.run import Guest

_TAIL = 25  # lines of the console that are shown when a guest dies


@click.group("vm", cls=ZtGroup)
def vm_command() -> None:
    """Run commands on other kernels, over this machine's file system."""


@vm_command.command(
    "run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.option("--kernel", "name", metavar="NAME", help="6.12, 6.1, or a whole release.")
@click.option("--engine", type=ENGINES, default="auto", show_default=True)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="A directory that the command may write; it sees it as /run/out.",
)
@click.option(
    "--memory",
    "memory_mib",
    metavar="MIB",
    type=click.IntRange(min=256),
    default=3072,
    show_default=True,
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="End the guest after so long, with exit code 124.",
)
@click.option("--env", "more", metavar="NAME=VALUE", multiple=True, help="Set it in the guest.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run_command(
    ctx: click.Context,
    name: str | None,
    engine: Wish,
    out: Path | None,
    memory_mib: int,
    timeout_s: float | None,
    more: tuple[str, ...],
    command: tuple[str, ...],
) -> None:
    """Run COMMAND as root on another kernel: `ztlab vm run -- ip link add wg0 type wireguard`.

    It sees this machine's files in the same places; what it writes is gone when it ends, except
    in --out. Its output comes as it is made, and its exit code is ours, but for 122: the guest ran
    out of memory, 123: it did not boot, 124: --timeout, 125: it panicked, hung or vanished.
    """
    from ztlab.vm.run import Guest

    wanted = Guest(
        argv=command,
        out=_made(out),
        memory_mib=memory_mib,
        timeout_s=timeout_s,
        environment=_variables(more),
    )
    ctx.exit(run_in_guest(wanted, name, engine).exit_code)


def run_in_guest(wanted: Guest, name: str | None, engine: Wish) -> Outcome:
    """Run it, say on stderr which engine and kernel were chosen and why, and how it ended."""
    from ztlab.cli.signals import terminated_as_interrupted
    from ztlab.vm import run

    sys.stdout.flush()
    with terminated_as_interrupted():
        choice = run.choose(name, engine)
        _say_choice(choice)
        outcome = run.run(wanted, choice, on_retry=_say_retry)
    if outcome.why:
        _show_console(outcome)
        click.echo(f"error: {outcome.why} (exit code {outcome.exit_code})", err=True)
    return outcome


def _say_choice(choice: Choice) -> None:
    click.echo(f"ztlab vm: {choice.engine}, {choice.kernel.release}: {choice.reason}", err=True)


def _say_retry(outcome: Outcome) -> None:
    """A panic that is not the last word is shown all the same."""
    _show_console(outcome)
    click.echo("ztlab vm: the emulated kernel panicked at boot; booting it once more", err=True)


def _show_console(outcome: Outcome) -> None:
    for line in outcome.tail(_TAIL):
        click.echo(f"  | {line}", err=True)


def _made(out: Path | None) -> Path | None:
    """OUT, absolute, made if it is not there."""
    if out is None:
        return None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZtError(
            f"cannot make {out}: {error.strerror}", hint="--out takes a directory to write into"
        ) from None
    return out.resolve()


def _variables(texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name.isidentifier():
            raise click.BadParameter(f"want NAME=VALUE, got {text!r}", param_hint="--env")
        found[name] = value if equals else os.environ.get(name, "")
    return found


@vm_command.command("kernels")
@json_option
def kernels_command(as_json: bool) -> None:
    """List the kernels at hand, and what each can do."""
    from ztlab.vm import kernels

    found = kernels.everything()
    if as_json:
        echo_json([asdict(kernel) for kernel in found])
        return
    rows: list[tuple[str, ...]] = [("KERNEL", "KIND", "WIREGUARD", "NETEM", "BTF", "JIT", "WHERE")]
    rows += [_row(kernel) for kernel in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        click.echo("  ".join((*cells, row[-1])).rstrip())


def _row(kernel: Kernel) -> tuple[str, ...]:
    words = {True: "yes", False: "no", None: "?"}
    known = kernel.features
    features = (known.wireguard, known.netem, known.btf, known.jit)
    where = str(kernel.image or "")
    if kernel.hint:
        where = f"not here: {kernel.hint}"
    return (kernel.release, kernel.kind, *(words[feature] for feature in features), where)


@vm_command.command("build-uml")
def build_uml_command() -> None:
    """Build the User Mode Linux kernel from Debian's linux-source, into the cache.

    Ten minutes on two cores; at once if the one for this source and configuration is there.
    """
    from ztlab.cli.signals import terminated_as_interrupted
    from ztlab.vm import build

    with terminated_as_interrupted():
        click.echo(build.build(progress=lambda text: click.echo(text, err=True)))
