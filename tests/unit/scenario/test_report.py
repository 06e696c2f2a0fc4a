"""What a run showed, for people and for programs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

from ztlab.scenario.report import CheckReport, Report, StepReport, junit

HOLDS = CheckReport(text="bob answers", holds=True, seen="answered", figure="1.2 ms")
FAILS = CheckReport(
    text="bob counted drops",
    holds=False,
    seen="went from 3 to 3",
    samples=("+0.00 s: went from 3 to 2", "+0.10 s to +5.00 s: went from 3 to 3"),
)
GOOD = StepReport(name="good", action="probe a -> b", checks=(HOLDS,), duration_s=0.25)
BAD = StepReport(
    name="bad",
    action="probe a -> b tcp/80",
    resolved="10.77.0.2:4000 -> 10.77.0.3:80",
    checks=(HOLDS, FAILS),
    events=("bob: allowed ingress a",),
    duration_s=5.0,
)
BROKEN = StepReport(name="broken", action="run on b: x", error="no such command", duration_s=0.1)


def report(*steps: StepReport) -> Report:
    """A run of these STEPS."""
    return Report(
        name="x",
        description="what it is",
        source="x.yaml",
        lab="x-1",
        facts="userspace WireGuard, bcc",
        steps=steps,
        build_s=3.0,
        duration_s=5.25,
    )


def test_a_run_passes_if_every_check_of_every_step_holds() -> None:
    assert report(GOOD).passed
    assert not report(GOOD, BAD).passed
    assert not report(BROKEN).passed
    assert report(GOOD, BAD, BROKEN).failures == 2


def test_the_text_has_a_line_per_check_with_its_figure() -> None:
    lines = report(GOOD).as_text().splitlines()
    assert lines[0] == "x: what it is"
    assert lines[1] == "lab x-1, userspace WireGuard, bcc"
    (check,) = [line for line in lines if "bob answers" in line]
    assert check.startswith("    ✓ ") and check.endswith("1.2 ms")
    assert lines[-1] == "✓ x: 1 steps, 1 of 1 checks hold (up in 3.0 s, steps 5.2 s)"


def test_a_failure_shows_arguments_what_was_seen_when_and_recent_events() -> None:
    text = report(BAD).as_text()
    for part in (
        "10.77.0.2:4000 -> 10.77.0.3:80",
        "    ✗ bob counted drops",
        "seen: went from 3 to 3",
        "+0.00 s: went from 3 to 2",
        "+0.10 s to +5.00 s: went from 3 to 3",
        "bob: allowed ingress a",
        "✗ x: 1 steps, 1 of 2 checks hold, 1 steps failed",
    ):
        assert part in text


def test_one_sample_is_told_in_the_same_line() -> None:
    once = replace(FAILS, samples=("+0.00 s: went from 3 to 3",))
    text = report(replace(BAD, checks=(once,))).as_text()
    assert "seen: went from 3 to 3   (+0.00 s)" in text
    assert text.count("went from 3 to 3") == 1


def test_an_action_that_could_not_be_done_says_why() -> None:
    assert "could not be done: no such command" in report(BROKEN).as_text()


def test_no_line_ends_in_blanks() -> None:
    for line in report(GOOD, BAD, BROKEN).as_text().splitlines():
        assert line == line.rstrip()


def test_json_carries_everything_and_the_verdicts() -> None:
    data = json.loads(json.dumps(report(GOOD, BAD).as_json()))
    assert data["passed"] is False
    assert [step["passed"] for step in data["steps"]] == [True, False]
    assert data["steps"][1]["checks"][1]["samples"] == list(FAILS.samples)


def test_junit_has_a_suite_per_file_and_a_case_per_step() -> None:
    root = ET.fromstring(junit((report(GOOD, BAD), report(BROKEN))).partition("\n")[2])
    suites = root.findall("testsuite")
    assert [(s.get("tests"), s.get("failures")) for s in suites] == [("2", "1"), ("1", "1")]
    failure = suites[0].findall("testcase")[1].find("failure")
    assert failure is not None and failure.get("message") == "bob counted drops"
    assert "10.77.0.2:4000" in (failure.text or "")
    error = suites[1].findall("testcase")[0].find("failure")
    assert error is not None and error.get("message") == "no such command"


def test_junit_stays_xml_whatever_a_command_printed() -> None:
    nasty = replace(FAILS, seen="\x1b[31mred\x00 <&> \ud800")
    text = junit((report(replace(BAD, checks=(nasty,))),))
    ET.fromstring(text.encode("utf-8").partition(b"\n")[2])
