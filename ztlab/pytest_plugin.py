"""The pytest plugin `ztlab`: every scenario file is a test item, and `ztlab_lab` builds labs.

`pytest scenarios/` runs each YAML file there that has the top keys `nodes` and `steps`; other YAML
is left alone. Labs are named for the process that builds them, so parallel runs (pytest-xdist)
share nothing. Where the machine cannot run a lab the item is skipped and says why; it fails
instead if ZT_REQUIRE names "lab".

This module is loaded in every pytest run, so it imports nothing of the lab until it is needed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ztlab.errors import HostUnfit
    from ztlab.lab.lab import Lab
    from ztlab.scenario.report import Report

_TOP_KEYS = (re.compile(rb"^nodes\s*:", re.MULTILINE), re.compile(rb"^steps\s*:", re.MULTILINE))
_NAME_MAX = 32


class ScenarioFailed(Exception):
    """A scenario ran and did not hold; carries the report."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"{report.name}: {report.failures} steps failed")
        self.report = report


class ScenarioFile(pytest.File):
    """A scenario file; it has one item."""

    def collect(self) -> Iterator[ScenarioItem]:
        yield ScenarioItem.from_parent(self, name="scenario")


class ScenarioItem(pytest.Item):
    """The run of one scenario in a lab of its own."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.add_marker("lab")

    def runtest(self) -> None:
        from ztlab.errors import HostUnfit
        from ztlab.lab.lab import require_root
        from ztlab.scenario import load
        from ztlab.scenario.run import run

        scenario = load(self.path)
        try:
            require_root()
            name = _lab_name(scenario.name, self.config)
            report = run(scenario, name=name, source=str(self.path))
        except HostUnfit as error:
            _unfit(error)
        self.add_report_section("call", "scenario", report.as_text())
        self.user_properties.append(("checks", sum(len(step.checks) for step in report.steps)))
        if not report.passed:
            raise ScenarioFailed(report)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The report, or what an operator would read; a traceback only for a bug."""
        from ztlab.errors import ZtError

        error = excinfo.value
        if isinstance(error, ScenarioFailed):
            return error.report.as_text()
        if isinstance(error, ZtError):
            return f"error: {error}" + (f"\n hint: {error.hint}" if error.hint else "")
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"scenario {self.path.name}"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ztlab", "scenarios and labs")
    group.addoption(
        "--ztlab-kernel",
        metavar="NAME",
        help="Run the whole of pytest on this kernel: 6.12, 6.1; see `ztlab vm`.",
    )
    group.addoption(
        "--ztlab-engine",
        choices=("auto", "kvm", "uml", "tcg"),
        default="auto",
        help="What runs that kernel.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With --ztlab-kernel: the same pytest in a guest, and its exit code; its JUnit comes out."""
    kernel, engine = config.option.ztlab_kernel, config.option.ztlab_engine
    if not kernel and engine == "auto":
        return None
    from ztlab.cli.vm_commands import run_in_guest
    from ztlab.errors import ZtError
    from ztlab.vm.job import OUT
    from ztlab.vm.passing import passing_folder
    from ztlab.vm.run import Guest, brought_out

    # No guest in the guest: of an option the last one counts, and those of an ini file and of
    # PYTEST_ADDOPTS come before the command line's.
    words = map(os.fspath, config.invocation_params.args)
    argv = [sys.executable, "-m", "pytest", *words, "--ztlab-kernel=", "--ztlab-engine=auto"]
    report = config.option.xmlpath
    with passing_folder("ztlab-out-") as out:
        if report:
            argv.append(f"--junit-xml={OUT}/junit.xml")
        wanted = Guest(argv=argv, cwd=config.invocation_params.dir, out=out)
        try:
            outcome = run_in_guest(wanted, kernel, engine)
            if report:
                target = config.invocation_params.dir / os.path.expanduser(report)
                brought_out(outcome, out / "junit.xml", target)
        except ZtError as error:
            hint = f"\n hint: {error.hint}" if error.hint else ""
            raise pytest.UsageError(f"{error}{hint}") from None
    return outcome.exit_code


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known where the project's own settings are not."""
    config.addinivalue_line("markers", "lab: builds a whole lab, with coordinator and agents")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    """A scenario, if FILE_PATH looks like one."""
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    try:
        text = file_path.read_bytes()
    except OSError:
        return None  # pytest itself complains about what was named and cannot be read
    if not all(key.search(text) for key in _TOP_KEYS):
        return None
    return ScenarioFile.from_parent(parent, path=file_path)


def _lab_name(base: str, config: pytest.Config) -> str:
    """BASE with the xdist worker and our pid, at most 32 characters: nobody else's name."""
    worker = getattr(config, "workerinput", {}).get("workerid", "")
    suffix = "-".join(part for part in (worker, str(os.getpid())) if part)
    return f"{base[: _NAME_MAX - len(suffix) - 1].rstrip('-')}-{suffix}"


def _unfit(error: HostUnfit) -> None:
    """Skip, naming what is missing; fail if ZT_REQUIRE says that labs must run here."""
    reason = f"no lab on this machine: {error}" + (f" ({error.hint})" if error.hint else "")
    if "lab" in re.split(r"[,\s]+", os.environ.get("ZT_REQUIRE", "")):
        pytest.fail(f"ZT_REQUIRE names lab, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def ztlab_lab(request: pytest.FixtureRequest) -> Iterator[Callable[..., Lab]]:
    """`ztlab_lab("scenarios/3node.yaml")`, or a mapping as that file has it: a standing lab.

    Every lab made this way is taken down when the test ends.
    """
    from ztlab.errors import HostUnfit
    from ztlab.lab import build, teardown
    from ztlab.scenario import load
    from ztlab.scenario.loading import from_data

    standing: list[str] = []

    def up(scenario: str | Path | Mapping[str, Any]) -> Lab:
        if isinstance(scenario, Mapping):
            loaded = from_data(scenario)
        else:
            loaded = load(scenario)
        number = f"{len(standing)}-" if standing else ""
        name = _lab_name(f"{number}{loaded.name}", request.config)
        try:
            lab = build.up(loaded.plan(name))
        except HostUnfit as error:
            _unfit(error)
        standing.append(name)
        return lab

    yield up
    for name in reversed(standing):
        teardown.down(name)
