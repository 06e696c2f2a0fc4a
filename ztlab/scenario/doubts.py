"""What a scenario says that may hold for the wrong reason: silence is no proof of a denial."""

from __future__ import annotations

from collections.abc import Iterator

from ztlab.scenario.model import Scenario
from ztlab.scenario.sense import listens
from ztlab.scenario.steps import Probe, Step, Target


def doubts(scenario: Scenario) -> Iterator[str]:
    """Lines of "path: warning" about SCENARIO.

    An unanswered probe proves a denial if the same node got an answer from the same target in
    another step, or if a drop or verdict shows that the packet arrived and somebody got an answer
    there. Otherwise a broken path would satisfy it as well.
    """
    for i, step in enumerate(scenario.steps):
        probe = step.probe
        if probe is None:
            continue
        path = f"steps[{i}].probe"
        if step.expect.answered is None and not _expects_anything(step):
            yield f"{path}: nothing is expected of this probe"
        if step.expect.answered is not False:
            continue
        if not listens(scenario, probe.target):
            yield (
                f"{path}.{probe.target.proto}: nobody listens there, "
                f"so the silence of this probe proves nothing"
            )
        elif not _has_control(scenario, probe, arrives=_arrives(step)):
            yield (
                f"{path}: no positive control: in no step does {_who(step, probe)} get an answer "
                f"from {probe.target}, so a broken path would look like a denial"
            )


def _expects_anything(step: Step) -> bool:
    expect = step.expect
    return any(
        (expect.verdict, expect.identity, expect.rtt_ms, expect.drop, expect.metric, expect.event)
    ) or any((expect.log, expect.stream, expect.tc))


def _arrives(step: Step) -> bool:
    """Does something besides silence show that the probe's packet came to where it is judged?"""
    return bool(step.expect.drop or step.expect.verdict is not None)


def _who(step: Step, probe: Probe) -> str:
    return "anybody" if _arrives(step) else probe.source_node


def _has_control(scenario: Scenario, probe: Probe, *, arrives: bool) -> bool:
    for source, target in _answered(scenario):
        if target == probe.target and (arrives or source == probe.source_node):
            return True
    return False


def _answered(scenario: Scenario) -> Iterator[tuple[str, Target]]:
    for step in scenario.steps:
        if step.probe is not None and step.expect.answered:
            yield step.probe.source_node, step.probe.target
        elif step.transfer is not None:
            yield step.transfer.source_node, step.transfer.target
        elif step.stream is not None:
            yield step.stream.source_node, step.stream.target
