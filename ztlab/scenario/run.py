"""Run a scenario: build its lab or take a standing one, do the steps, watch the claims, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ztlab.errors import ZtError
from ztlab.lab import pace
from ztlab.model.management import ANY_TAG
from ztlab.model.verdict import AuthzMode
from ztlab.scenario import act
from ztlab.scenario.claims import Claim, Finding, Needs, State, judge
from ztlab.scenario.compiling import claims_of
from ztlab.scenario.model import Scenario
from ztlab.scenario.read import Reader
from ztlab.scenario.report import CheckReport, Report, StepReport
from ztlab.scenario.samples import ActionResult, Observed, describe_event
from ztlab.scenario.steps import SetLocal, Step

if TYPE_CHECKING:
    from ztlab.lab.lab import Lab

POLL_S = 0.05
_SAMPLES = 3
_EVENTS = 5

OnStep = Callable[[StepReport], None]
Progress = Callable[[str, str], None]


def _quiet(_phase: str, _seen: str) -> None:
    """The progress of a caller who wants none."""


def run(
    scenario: Scenario,
    *,
    lab: Lab | None = None,
    keep: bool = False,
    name: str | None = None,
    source: str = "",
    on_step: OnStep | None = None,
    progress: Progress = _quiet,
) -> Report:
    """SCENARIO from its first step to its last, whatever fails on the way.

    lab       a standing lab of this scenario: what the steps change there is put back at the end
    keep      leave the lab that was built for this run standing
    name      the name of the lab to build; default: the scenario's own
    on_step   called with each step's report as it comes
    progress  called with (phase, what is seen of it) while the lab is built
    Raises ZtError only where there is no lab to run in; a step that fails is in the report.
    """
    if lab is not None:
        _check_fit(scenario, lab)
        return _with_lab(scenario, lab, source, on_step, build_s=0.0, restore=True)
    from ztlab.lab import build, teardown  # netlink and TLS: not needed to load or to render

    began = time.monotonic()
    lab = build.up(scenario.plan(name), source=source or None, progress=progress)
    build_s = time.monotonic() - began
    try:
        return _with_lab(scenario, lab, source, on_step, build_s=build_s, restore=False)
    finally:
        if not keep:
            teardown.down(lab.name)


def _check_fit(scenario: Scenario, lab: Lab) -> None:
    """ZtError unless LAB stands and has what the steps speak of."""
    if lab.status != "up":
        raise ZtError(f"lab {lab.name!r} is {lab.status}", hint=f"ztlab down {lab.name}")
    standing = {node.name: set(node.listen) for node in lab.nodes}
    for node, spec in scenario.nodes.items():
        missing = set(spec.listen) - standing.get(node, set())
        if node not in standing or missing:
            what = f"listener {', '.join(sorted(missing))} at {node}" if missing else f"node {node}"
            raise ZtError(
                f"lab {lab.name!r} is not one of this scenario: it has no {what}",
                hint="run the file without --lab, and it builds its own",
            )


def _with_lab(
    scenario: Scenario,
    lab: Lab,
    source: str,
    on_step: OnStep | None,
    *,
    build_s: float,
    restore: bool,
) -> Report:
    began = time.monotonic()
    plans = [(step, claims_of(step)) for step in scenario.steps]
    reader = Reader(lab)
    undo = _Undo(lab, reader) if restore else None
    reports: list[StepReport] = []
    try:
        reader.watch(_agents(scenario))
        facts = _facts(scenario, reader)
        for step, claims in plans:
            if undo is not None:
                undo.remember(step)
            report = _step(lab, step, claims, reader)
            reports.append(report)
            if on_step is not None:
                on_step(report)
    finally:
        reader.close()
        if undo is not None:
            undo.restore()
    return Report(
        name=scenario.name,
        description=scenario.description,
        source=source,
        lab=lab.name,
        facts=facts,
        steps=tuple(reports),
        build_s=build_s,
        duration_s=time.monotonic() - began,
    )


def _agents(scenario: Scenario) -> list[str]:
    return [name for name, spec in scenario.nodes.items() if spec.kind == "node"]


def _facts(scenario: Scenario, reader: Reader) -> str:
    """Which WireGuard and which loader the first agent says it has."""
    for name, labels in reader.metrics(_agents(scenario)[0]).series:
        if name == "zt_agent_info":
            found = dict(labels)
            slow = f", deadlines x{pace.factor():g}" if pace.factor() != 1 else ""
            return f"{found.get('wireguard')} WireGuard, {found.get('loader')}{slow}"
    return ""


@dataclass(slots=True)
class _Pending:
    """A claim on its way to a decision."""

    claim: Claim
    state: State = State.WAITING
    finding: Finding | None = None
    true_since_s: float | None = None
    looks: list[_Look] = field(default_factory=list)

    def look(self, seen: Observed) -> None:
        if self.state is not State.WAITING:
            return
        now_s = seen.elapsed_s / pace.factor()
        self.finding = self.claim.find(seen)
        if self.looks and self.looks[-1].seen == self.finding.seen:
            self.looks[-1].last_s = now_s
        else:
            self.looks.append(_Look(now_s, now_s, self.finding.seen))
        if not self.finding.is_true:
            self.true_since_s = None
        elif self.true_since_s is None:
            self.true_since_s = now_s
        true_for_s = 0.0 if self.true_since_s is None else now_s - self.true_since_s
        self.state = judge(self.claim.quantifier, self.finding, now_s, true_for_s=true_for_s)

    def report(self) -> CheckReport:
        holds = self.state is State.HOLDS
        return CheckReport(
            text=self.claim.text,
            holds=holds,
            seen=self.finding.seen if self.finding else "nothing was read",
            figure=self.finding.figure if self.finding and holds else "",
            samples=() if holds else tuple(str(look) for look in self.looks[-_SAMPLES:]),
        )


@dataclass(slots=True)
class _Look:
    """What consecutive looks saw alike, from the first to the last of them."""

    first_s: float
    last_s: float
    seen: str

    def __str__(self) -> str:
        until = f" to {self.last_s:+.2f} s" if self.last_s > self.first_s else ""
        return f"{self.first_s:+.2f} s{until}: {self.seen}"


def _step(lab: Lab, step: Step, claims: tuple[Claim, ...], reader: Reader) -> StepReport:
    began, began_unix = time.monotonic(), time.time()
    needs = Needs()
    for claim in claims:
        needs |= claim.needs
    pending = [_Pending(claim) for claim in claims]
    result: ActionResult | None = None
    error = ""
    try:
        before = reader.before(needs)
        began_unix = time.time()
        result = act.perform(lab, step, reader)
        _watch(pending, needs, reader, result, before, began_unix)
    except ZtError as failure:
        error = f"{failure}" + (f" ({failure.hint})" if failure.hint else "")
    report = StepReport(
        name=step.name,
        action=str(step),
        resolved=result.resolved if result else "",
        checks=tuple(p.report() for p in pending) if result else (),
        notes=result.notes if result else (),
        error=error,
        duration_s=time.monotonic() - began,
    )
    if report.passed:
        return report
    return replace(report, events=_recent(reader, began_unix))


def _watch(
    pending: list[_Pending],
    needs: Needs,
    reader: Reader,
    result: ActionResult,
    before: Any,
    began_unix: float,
) -> None:
    """Look again and again until every claim is decided; each has a deadline of its own."""
    while True:
        seen = reader.after(needs, result, before, began_unix)
        for item in pending:
            item.look(seen)
        if all(item.state is not State.WAITING for item in pending):
            return
        time.sleep(POLL_S)


def _recent(reader: Reader, since: float) -> tuple[str, ...]:
    """The last events of every node since the step began; for a reader who wonders why."""
    lines = []
    for node in reader.watched:
        try:
            events = reader.events(node, since)
        except ZtError as error:
            lines.append(str(error))
            continue
        for event in events[-_EVENTS:]:
            lines.append(f"{node}: {event.get('at')} {describe_event(event)}")
    return tuple(lines)


class _Undo:
    """What the steps change in a lab that is not ours, as it was before."""

    def __init__(self, lab: Lab, reader: Reader) -> None:
        self._lab, self._reader = lab, reader
        self._policy: dict[str, Any] | None = None
        self._local: dict[str, SetLocal] = {}
        self._drained: dict[str, bool] = {}

    def remember(self, step: Step) -> None:
        """Before STEP: note down what it is about to change, the first time only."""
        if step.policy is not None and self._policy is None:
            self._policy = self._lab.admin().policy()
        if step.drain is not None and step.drain.gateway not in self._drained:
            for gateway in self._lab.admin().gateways(name=step.drain.gateway):
                self._drained[gateway.name] = gateway.is_drained
        if step.set is not None and step.set.node not in self._local:
            metrics = self._reader.metrics(step.set.node)
            self._local[step.set.node] = SetLocal(
                node=step.set.node,
                authz_mode=AuthzMode(int(metrics.total("zt_authz_enforce", {}))),
                logging_enabled=metrics.total("zt_logging_enabled", {}) == 1,
            )

    def restore(self) -> None:
        """Put it back."""
        for local in self._local.values():
            act.set_local(self._lab, local)
        for gateway, is_drained in self._drained.items():
            self._lab.admin().drain_gateway(gateway, is_drained=is_drained)
        if self._policy is not None:
            self._lab.admin().put_policy(self._policy, etag=ANY_TAG)
