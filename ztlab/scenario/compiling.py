"""What a step expects, as claims: one function per kind of expectation."""

from __future__ import annotations

from collections.abc import Iterator

from ztlab.scenario import findings
from ztlab.scenario.claims import Always, Claim, Eventually, Needs, Never, Quantifier
from ztlab.scenario.expect import (
    ALWAYS_S,
    EVENTUALLY_S,
    DropExpect,
    EventExpect,
    Expect,
    LogExpect,
    MetricExpect,
    Range,
    StreamExpect,
    TcExpect,
)
from ztlab.scenario.sense import judging_node
from ztlab.scenario.steps import Drain, Forge, PolicyChange, Probe, SetLocal, Step, Stream, Transfer

SETTLES_S = 0.2  # so long must an exact count stand still
SILENCE_S = 1.0  # so long must a stream be quiet to count as stopped, or be heard to be alive
_AT_ONCE = Eventually(within_s=0)
_EVENTUALLY = Eventually(within_s=EVENTUALLY_S)


def claims_of(step: Step) -> tuple[Claim, ...]:
    """Everything STEP claims, what its action implies included, in the order of a report."""
    expect = step.expect
    return (
        *_of_action(step),
        *_of_probe(expect, step.probe),
        *(claim for item in expect.drop for claim in _drop(item, step.probe)),
        *(_metric(item) for item in expect.metric),
        *(_event(item, step.probe) for item in expect.event),
        *(_log(item, step.probe) for item in expect.log),
        *(_stream(item) for item in expect.stream),
        *(_tc(item) for item in expect.tc),
    )


def _of_action(step: Step) -> Iterator[Claim]:
    expect, action = step.expect, step.action
    if isinstance(action, (PolicyChange, Drain)):
        quantifier = Eventually(within_s=expect.converged_within_s or EVENTUALLY_S)
        yield Claim(
            text=_timed("every node acknowledged the change", quantifier),
            quantifier=quantifier,
            needs=Needs(convergence=True),
            find=findings.converged,
        )
    if isinstance(action, SetLocal):
        yield from _of_set(action)
    if isinstance(action, Forge):
        yield from _of_forge(action, expect)
    if isinstance(action, Transfer):
        yield _exit_code("iperf3 ran to its end", 0)
    if isinstance(action, Stream) and action.id not in {item.id for item in expect.stream}:
        yield _stream(StreamExpect(id=action.id, is_alive=True))
    if expect.throughput_mbit is not None:
        yield _measured("received", "Mbit/s", expect.throughput_mbit, findings.throughput)
    if expect.exit_code is not None:
        yield _exit_code(f"the command ended with exit code {expect.exit_code}", expect.exit_code)
    if expect.stdout_contains is not None:
        yield Claim(
            text=f"the command printed {expect.stdout_contains!r}",
            quantifier=_AT_ONCE,
            needs=Needs(),
            find=findings.stdout_contains(expect.stdout_contains),
        )


def _timed(text: str, quantifier: Quantifier) -> str:
    """TEXT with its time; a deadline that nobody wrote is not worth a word."""
    is_default = isinstance(quantifier, Eventually) and quantifier.within_s == EVENTUALLY_S
    return text if is_default else f"{text}{quantifier}"


def _exit_code(text: str, wanted: int) -> Claim:
    return Claim(text=text, quantifier=_AT_ONCE, needs=Needs(), find=findings.exit_code(wanted))


def _of_set(action: SetLocal) -> Iterator[Claim]:
    """A switch that was thrown must show in the node's own metrics, whatever else is expected."""
    wanted = {}
    if action.authz_mode is not None:
        wanted["zt_authz_enforce"] = (int(action.authz_mode), action.authz_mode.word)
    if action.logging_enabled is not None:
        state = "logs" if action.logging_enabled else "does not log"
        wanted["zt_logging_enabled"] = (int(action.logging_enabled), state)
    for name, (value, word) in wanted.items():
        text = f"{action.node} says that it {word}" if "logging" in name else ""
        yield Claim(
            text=text or f"{action.node} says that its mode is {word}",
            quantifier=_EVENTUALLY,
            needs=Needs(metrics=frozenset({action.node})),
            find=findings.metric(
                MetricExpect(at=action.node, name=name, equals=float(value), within_s=EVENTUALLY_S)
            ),
        )


def _of_forge(action: Forge, expect: Expect) -> Iterator[Claim]:
    needs = Needs(events=frozenset({action.to}))
    yield Claim(
        text=f"control: under {action.source_node}'s true address it arrives at {action.to}",
        quantifier=_EVENTUALLY,
        needs=needs,
        find=findings.control_arrived(action.to),
    )
    if expect.arrived_as_anybody is not None:
        arrives = expect.arrived_as_anybody
        yield Claim(
            text=f"a forged packet arrives at {action.to} as anybody"
            if arrives
            else f"no forged packet arrives at {action.to} as anybody",
            quantifier=_EVENTUALLY if arrives else Never(within_s=ALWAYS_S),
            needs=needs,
            find=findings.forged_arrived(action.to),
        )


def _of_probe(expect: Expect, probe: Probe | None) -> Iterator[Claim]:
    if probe is None:
        return
    target = probe.target
    if expect.answered is not None:
        yield Claim(
            text=f"{target} answers {probe.source_node}"
            if expect.answered
            else f"{target} is silent to {probe.source_node}",
            quantifier=_AT_ONCE,
            needs=Needs(),
            find=findings.answered if expect.answered else findings.silent,
        )
    if expect.rtt_ms is not None:
        yield _measured("round trip", "ms", expect.rtt_ms, findings.rtt)
    judge = judging_node(expect, probe)
    if judge is not None and (expect.identity is not None or expect.verdict is not None):
        wanted = EventExpect(at=judge, identity=expect.identity, verdict=expect.verdict)
        verdict = f"{expect.verdict.word}" if expect.verdict is not None else "seen"
        identity = f", as {expect.identity}" if expect.identity is not None else ""
        yield Claim(
            text=f"{judge}: {verdict}{identity}, by the event of this five-tuple",
            quantifier=_EVENTUALLY,
            needs=Needs(events=frozenset({judge})),
            find=findings.event(judge, wanted, only_flows=True),
        )


def _measured(what: str, unit: str, bounds: Range, find: findings.Measure) -> Claim:
    parts = []
    if bounds.at_least is not None:
        parts.append(f"at least {bounds.at_least:g} {unit}")
    if bounds.at_most is not None:
        parts.append(f"at most {bounds.at_most:g} {unit}")
    return Claim(
        text=f"{what} {' and '.join(parts)}",
        quantifier=_AT_ONCE,
        needs=Needs(),
        find=findings.within(bounds, unit, find),
    )


def _drop(item: DropExpect, probe: Probe | None) -> Iterator[Claim]:
    count = f"exactly {item.count}" if item.count is not None else "packets"
    yield Claim(
        text=f"{item.at} counted {count} of {item.identity} dropped for {item.reason.word}",
        quantifier=Eventually(
            within_s=item.within_s, settles_s=0 if item.count is None else SETTLES_S
        ),
        needs=Needs(metrics=frozenset({item.at})),
        find=findings.dropped(item),
    )
    wanted = EventExpect(at=item.at, identity=item.identity, verdict=item.reason)
    yield Claim(
        text=f"{item.at}'s event names {item.identity} and {item.reason.word}",
        quantifier=Eventually(within_s=item.within_s),
        needs=Needs(metrics=frozenset({item.at}), events=frozenset({item.at})),
        find=findings.event(item.at, wanted, only_flows=probe is not None, if_it_logs=True),
    )


def _metric(item: MetricExpect) -> Claim:
    labels = ",".join(f'{k}="{v}"' for k, v in item.labels.items())
    series = f"{item.name}{{{labels}}}" if labels else item.name
    if item.increases:
        what = "increases"
    elif item.increases_by is not None:
        what = f"increases by {item.increases_by:g}"
    elif item.equals is not None:
        what = f"is {item.equals:g}"
    elif item.at_least is not None:
        what = f"is at least {item.at_least:g}"
    else:
        what = "stays as it was"
    quantifier: Quantifier = Eventually(
        within_s=item.within_s or EVENTUALLY_S,
        settles_s=0 if item.increases_by is None else SETTLES_S,
    )
    if item.unchanged or item.for_s is not None:
        quantifier = Always(for_s=item.for_s or ALWAYS_S)
    return Claim(
        text=_timed(f"{item.at}: {series} {what}", quantifier),
        quantifier=quantifier,
        needs=Needs(metrics=frozenset({item.at})),
        find=findings.metric(item),
    )


def _event(item: EventExpect, probe: Probe | None) -> Claim:
    return Claim(
        text=_timed(f"{item.at}'s events: {_words(item)}", _quantifier(item)),
        quantifier=_quantifier(item),
        needs=Needs(events=frozenset({item.at})),
        find=findings.event(item.at, item, only_flows=probe is not None and not item.any_flow),
    )


def _log(item: LogExpect, probe: Probe | None) -> Claim:
    return Claim(
        text=_timed(f"coordinator's log: {_words(item)}", _quantifier(item)),
        quantifier=_quantifier(item),
        needs=Needs(logs=True),
        find=findings.log(item, only_flows=probe is not None and not item.any_flow),
    )


def _quantifier(item: EventExpect | LogExpect) -> Quantifier:
    if item.never_within_s is not None:
        return Never(within_s=item.never_within_s)
    return Eventually(within_s=item.within_s or EVENTUALLY_S)


def _words(item: EventExpect | LogExpect) -> str:
    words = [item.verdict.word if item.verdict is not None else "any verdict"]
    if item.identity is not None:
        words.append(f"from {item.identity}")
    if item.to_identity is not None:
        words.append(f"to {item.to_identity}")
    if item.port is not None:
        words.append(f"port {item.port}")
    if item.rule is not None:
        words.append(f"by rule {item.rule}")
    if item.hook is not None:
        words.append(f"at {item.hook}")
    if isinstance(item, LogExpect) and item.node is not None:
        words.append(f"sent by {item.node}")
    return " ".join(words)


def _stream(item: StreamExpect) -> Claim:
    if item.stops_within_s is not None:
        text = f"stream {item.id} stops within {item.stops_within_s:g} s"
        deadline = item.stops_within_s + SILENCE_S
        find = findings.stream_stops(item.id, item.stops_within_s, SILENCE_S)
    elif item.resumes_within_s is not None:
        text = f"stream {item.id} resumes within {item.resumes_within_s:g} s"
        deadline = item.resumes_within_s
        find = findings.stream_runs(item.id, item.resumes_within_s, was_silent=True)
    elif item.is_alive:
        text, deadline = f"stream {item.id} is alive", SILENCE_S
        find = findings.stream_runs(item.id, SILENCE_S)
    else:
        text, deadline = f"stream {item.id} is silent", SILENCE_S
        find = findings.stream_silent(item.id, SILENCE_S)
    return Claim(
        text=text, quantifier=Eventually(within_s=deadline + 0.5), needs=Needs(), find=find
    )


def _tc(item: TcExpect) -> Claim:
    program = f" {item.program}" if item.program else ""
    return Claim(
        text=f"tc shows {'the program' if item.present else 'no program'}{program} on "
        f"{item.at}'s {item.hook}",
        quantifier=Eventually(within_s=item.within_s),
        needs=Needs(filters=frozenset({(item.at, item.hook)})),
        find=findings.tc(item),
    )
