"""`ztlab test` and `ztlab validate`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ztlab.cli.options import ENGINES, json_option
from ztlab.clikit import echo_json
from ztlab.errors import SchemaError, ZtError
from ztlab.lab.lab import Lab, require_root
from ztlab.vm.job import OUT

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from ztlab.scenario.model import Scenario
    from ztlab.scenario.report import Report, StepReport
    from ztlab.vm.engine import Wish

_FILES = click.argument(
    "files",
    metavar="FILE…",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)


@click.command("test")
@_FILES
@click.option("--keep", is_flag=True, help="Leave the lab standing for a look around.")
@click.option("--lab", "lab_name", metavar="NAME", help="Use this standing lab of FILE.")
@click.option("--name", metavar="NAME", help="Name of the lab to build; default: the scenario's.")
@click.option(
    "--junit",
    metavar="PATH",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a JUnit XML report there.",
)
@click.option("--kernel", metavar="NAME", help="Run it on this kernel: 6.12, 6.1; see `ztlab vm`.")
@click.option("--engine", type=ENGINES, default="auto", help="What runs that kernel.")
@json_option
@click.pass_context
def test_command(
    ctx: click.Context,
    files: tuple[Path, ...],
    keep: bool,
    lab_name: str | None,
    name: str | None,
    junit: Path | None,
    kernel: str | None,
    engine: Wish,
    as_json: bool,
) -> None:
    """Run the scenarios in FILE…, one after the other, and print one line per check.

    Each builds a lab of its own and takes it down again; with --lab the steps run in a standing
    lab, and what they change there is put back. Exit code 1 if any check fails. With --kernel all
    of it happens on another kernel, and its reports come out.
    """
    if len(files) > 1 and (lab_name or name):
        raise click.UsageError("--lab and --name go with one FILE")
    if lab_name and (keep or name):
        raise click.UsageError("--lab takes a lab as it stands: no --keep, no --name")
    if kernel is not None or engine != "auto":
        if lab_name or keep:
            raise click.UsageError("a guest is gone when it ends: no --lab, no --keep")
        words = [*(["--name", name] if name else []), *(["--json"] if as_json else [])]
        ctx.exit(_test_in_guest([*words, *map(str, files)], junit, kernel, engine))
    require_root()
    from ztlab.scenario import load
    from ztlab.scenario.report import junit as junit_xml

    scenarios = [load(file) for file in files]  # a fault in the last file should not cost a lab
    reports = []
    for file, scenario in zip(files, scenarios, strict=True):
        reports.append(_run_one(file, scenario, keep, lab_name, name, as_json=as_json))
    if junit is not None:
        try:
            junit.write_text(junit_xml(tuple(reports)), encoding="utf-8")
        except OSError as error:
            raise ZtError(f"cannot write {junit}: {error.strerror}") from None
    if as_json:
        echo_json([report.as_json() for report in reports])
    ctx.exit(0 if all(report.passed for report in reports) else 1)


def _test_in_guest(words: list[str], junit: Path | None, kernel: str | None, engine: Wish) -> int:
    """`ztlab test WORDS` on another kernel: its exit code."""
    from ztlab.cli.vm_commands import run_in_guest
    from ztlab.vm.passing import passing_folder
    from ztlab.vm.run import Guest, brought_out

    program = "from ztlab.cli import main; main(prog_name='ztlab')"
    with passing_folder("ztlab-out-") as out:
        if junit is not None:
            words = ["--junit", f"{OUT}/junit.xml", *words]
        argv = (sys.executable, "-c", program, "test", *words)
        outcome = run_in_guest(Guest(argv=argv, out=out), kernel, engine)
        if junit is not None:
            brought_out(outcome, out / "junit.xml", junit)
    return outcome.exit_code


def _run_one(
    file: Path,
    scenario: Scenario,
    keep: bool,
    lab_name: str | None,
    name: str | None,
    *,
    as_json: bool,
) -> Report:
    from rich.console import Console

    from ztlab.cli.signals import terminated_as_interrupted
    from ztlab.scenario.report import step_lines
    from ztlab.scenario.run import run

    console = Console(highlight=False, soft_wrap=True, quiet=as_json)
    # While the lab is built, one line that changes; away before the first step prints its own.
    spinner = Console(stderr=True, quiet=as_json).status(f"{name or scenario.name}: building")

    def progress(phase: str, seen: str) -> None:
        spinner.start()
        spinner.update(f"{name or scenario.name}: {phase}  [dim]{seen}[/dim]")

    def show(step: StepReport) -> None:
        spinner.stop()
        for line in step_lines(step):
            console.print(line)

    _print_title(console, scenario)
    with terminated_as_interrupted(), _stopped(spinner):
        report = run(
            scenario,
            lab=Lab.open(lab_name) if lab_name else None,
            keep=keep,
            name=name,
            source=str(file),
            on_step=show,
            progress=progress,
        )
    console.print(report.summary())
    if keep:
        console.print(f"the lab stands: ztlab inspect {report.lab}, ztlab down {report.lab}")
    return report


@contextmanager
def _stopped(spinner: Status) -> Iterator[None]:
    """SPINNER is off when the block ends, however it ends."""
    try:
        yield
    finally:
        spinner.stop()


def _print_title(console: Console, scenario: Scenario) -> None:
    from rich.text import Text

    description = f": {scenario.description}" if scenario.description else ""
    console.print(Text.assemble((scenario.name, "bold"), description))


@click.command("validate")
@_FILES
@json_option
@click.pass_context
def validate_command(ctx: click.Context, files: tuple[Path, ...], as_json: bool) -> None:
    """Check scenario files, building nothing: faults (exit code 1) and warnings."""
    from ztlab.scenario.loading import examine

    results = []
    for file in files:
        faults: tuple[str, ...] = ()
        warnings: tuple[str, ...] = ()
        hint = ""
        try:
            warnings = examine(file).warnings
        except SchemaError as error:
            faults, hint = error.problems, error.hint
        results.append({"file": str(file), "faults": list(faults), "warnings": list(warnings)})
        if not as_json:
            _print_findings(file, faults, warnings, hint)
    if as_json:
        echo_json(results)
    ctx.exit(1 if any(result["faults"] for result in results) else 0)


def _print_findings(
    file: Path, faults: tuple[str, ...], warnings: tuple[str, ...], hint: str
) -> None:
    for fault in faults:
        click.echo(f"error: {fault}", err=True)
    if hint:
        click.echo(f" hint: {hint}", err=True)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if faults:
        return
    click.echo(f"{file}: sound" + (f", {len(warnings)} warnings" if warnings else ""))
    sys.stdout.flush()
