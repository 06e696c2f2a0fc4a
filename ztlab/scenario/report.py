"""What a run showed: for people, as JSON, and as JUnit XML."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from ztlab.model.codec import encode

_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """One claim and whether it holds.

    text       what was wanted
    seen       what was seen when it was decided
    figure     the number in it
    samples    on failure, the last looks, oldest first: "+0.35 s: went from 3 to 3"
    """

    text: str
    holds: bool
    seen: str
    figure: str = ""
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One step.

    resolved  its arguments as resolved: addresses, ports
    error     why the action could not be done at all; then nothing was checked
    events    on failure, the last events of the nodes that judged
    """

    name: str
    action: str
    resolved: str = ""
    checks: tuple[CheckReport, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    events: tuple[str, ...] = ()
    duration_s: float

    @property
    def passed(self) -> bool:
        return not self.error and all(check.holds for check in self.checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole run.

    source  the scenario file
    facts   what it ran on: which WireGuard, which loader
    """

    name: str
    description: str
    source: str
    lab: str
    facts: str
    steps: tuple[StepReport, ...]
    build_s: float
    duration_s: float

    @property
    def passed(self) -> bool:
        return all(step.passed for step in self.steps)

    @property
    def failures(self) -> int:
        """How many steps failed."""
        return sum(not step.passed for step in self.steps)

    def as_text(self) -> str:
        """The table for people, without colour."""
        return "\n".join(line.plain for line in self.lines())

    def lines(self) -> list[Text]:
        """The table, line by line, styled for a terminal."""
        lines = [self._title()]
        for step in self.steps:
            lines += step_lines(step)
        return [*lines, self.summary()]

    def _title(self) -> Text:
        facts = f", {self.facts}" if self.facts else ""
        return Text.assemble(
            (self.name, "bold"), f": {self.description}" if self.description else "", "\n"
        ).append(f"lab {self.lab}{facts}\n", style="dim")

    def summary(self) -> Text:
        """The last line: how many hold, and how long it took."""
        checks = [check for step in self.steps for check in step.checks]
        holding = sum(check.holds for check in checks)
        counts = f"{len(self.steps)} steps, {holding} of {len(checks)} checks hold"
        took = f"up in {self.build_s:.1f} s, " if self.build_s else ""
        failed = f", {self.failures} steps failed" if self.failures else ""
        mark = ("✓ ", "bold green") if self.passed else ("✗ ", "bold red")
        return Text.assemble(
            mark, (f"{self.name}: {counts}{failed} ({took}steps {self.duration_s:.1f} s)", "bold")
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        data: dict[str, Any] = encode(self)
        data["passed"] = self.passed
        for step, report in zip(data["steps"], self.steps, strict=True):
            step["passed"] = report.passed
        return data


def step_lines(step: StepReport) -> list[Text]:
    """One step of the table, styled."""
    mark = ("✓ ", "green") if step.passed else ("✗ ", "red")
    took = f"{step.duration_s:.1f} s"
    lines = [
        Text.assemble(mark, (step.name.ljust(_WIDTH - 2), "bold"), (took.rjust(8), "dim")),
        Text(f"    {step.action}" + (f"   {step.resolved}" if step.resolved else ""), style="dim"),
    ]
    if step.error:
        lines.append(Text(f"    could not be done: {step.error}", style="red"))
    for check in step.checks:
        lines += _check_lines(check)
    lines += [Text(f"      note: {note}", style="dim") for note in step.notes]
    if step.events:
        lines.append(Text("      recent events:", style="yellow"))
        lines += [Text(f"        {event}") for event in step.events]
    return lines


def _check_lines(check: CheckReport) -> list[Text]:
    mark = ("    ✓ ", "green") if check.holds else ("    ✗ ", "red")
    # A long text takes from the figure's room before it pushes the line.
    room = max(_WIDTH + 2 - len(check.text), len(check.figure) + 2)
    lines = [Text.assemble(mark, check.text, (check.figure.rjust(room).rstrip(), "cyan"))]
    if not check.holds:
        lines.append(Text(f"        seen: {check.seen}", style="red"))
        if len(check.samples) > 1 or not check.samples[0].endswith(check.seen):
            lines += [Text(f"          {sample}", style="dim") for sample in check.samples]
        else:
            lines[-1].append(f"   ({check.samples[0].partition(': ')[0]})", style="dim")
    return lines


def junit(reports: tuple[Report, ...]) -> str:
    """REPORTS as JUnit XML: a suite per file, a case per step."""
    root = ET.Element("testsuites", name="ztlab")
    for report in reports:
        suite = ET.SubElement(
            root,
            "testsuite",
            name=report.name,
            tests=str(len(report.steps)),
            failures=str(report.failures),
            errors="0",
            skipped="0",
            time=f"{report.build_s + report.duration_s:.3f}",
        )
        for step in report.steps:
            case = ET.SubElement(
                suite,
                "testcase",
                classname=report.name,
                name=step.name,
                file=report.source,
                time=f"{step.duration_s:.3f}",
            )
            text = _xml_safe("\n".join(line.plain for line in step_lines(step)))
            if step.passed:
                ET.SubElement(case, "system-out").text = text
            else:
                failed = [check.text for check in step.checks if not check.holds]
                message = _xml_safe(step.error or "; ".join(failed))
                ET.SubElement(case, "failure", message=message).text = text
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _xml_safe(text: str) -> str:
    """TEXT with what XML 1.0 has no way to write (section 2.2) replaced."""
    return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
