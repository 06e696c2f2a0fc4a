"""What a look shows: each finding with what must hold it and what must not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.scenario.seen import FLOW, action, event, metrics, seen
from ztlab.model.verdict import Verdict
from ztlab.scenario import findings
from ztlab.scenario.expect import (
    DropExpect,
    EventExpect,
    LogExpect,
    MetricExpect,
    Range,
    TcExpect,
)
from ztlab.scenario.samples import Echo, Observed


def probed(outcome: str, **fields: Any) -> Observed:
    """A look after a probe that had this OUTCOME."""
    probe = {"outcome": outcome, "rtt_ms": None, "sent": 2, "answers": 0, "error": "", **fields}
    return seen(action=action(probe=probe, flows=(FLOW,)))


def test_answered_means_every_message_was() -> None:
    assert findings.answered(probed("answered", rtt_ms=1.25)).figure == "1.2 ms"
    assert findings.answered(probed("answered")).is_true
    for outcome in ("partly", "silent", "refused", "unreachable", "unresolved"):
        assert not findings.answered(probed(outcome)).is_true


@pytest.mark.parametrize("outcome", ["answered", "partly", "refused", "unreachable", "unresolved"])
def test_only_silence_is_silence(outcome: str) -> None:
    assert findings.silent(probed("silent")).is_true
    assert not findings.silent(probed(outcome)).is_true


def test_a_broken_path_is_named_as_one_and_not_taken_for_a_denial() -> None:
    found = findings.silent(probed("unreachable", error="Network is unreachable"))
    assert found.seen == "no path (Network is unreachable)"


METRIC = 'zt_drops_total{identity="guest",reason="no_rule"}'


def moved(before: float, after: float) -> Observed:
    """bob's drops of guest went from BEFORE to AFTER."""
    return seen(
        before={"bob": metrics(f"{METRIC} {before}")},
        metrics={"bob": metrics(f"{METRIC} {after}")},
    )


def on_metric(**test: Any) -> findings.Find:
    """The finding of a metric expectation on bob's drops."""
    labels = {"identity": "guest"}
    return findings.metric(MetricExpect(at="bob", name="zt_drops_total", labels=labels, **test))


@pytest.mark.parametrize(
    ("test", "before", "after", "is_true"),
    [
        ({"increases": True}, 3, 4, True),
        ({"increases": True}, 3, 3, False),
        ({"increases": True}, 3, 0, False),
        ({"increases_by": 2}, 3, 5, True),
        ({"increases_by": 2}, 3, 4, False),
        ({"increases_by": 2}, 3, 6, False),
        ({"equals": 0}, 3, 0, True),
        ({"equals": 4}, 4, 3, False),
        ({"at_least": 3}, 0, 3, True),
        ({"at_least": 3}, 9, 2, False),
        ({"unchanged": True}, 3, 3, True),
        ({"unchanged": True}, 3, 4, False),
        ({"unchanged": True}, 3, 2, False),
    ],
)
def test_a_metric_is_compared_with_itself_before_the_action(
    test: Mapping[str, Any], before: float, after: float, is_true: bool
) -> None:
    assert on_metric(**test)(moved(before, after)).is_true is is_true


def test_a_counter_that_went_past_an_exact_count_cannot_come_back() -> None:
    assert on_metric(increases_by=2)(moved(0, 3)).is_beyond
    assert not on_metric(increases_by=2)(moved(0, 1)).is_beyond


def test_a_series_that_was_not_there_before_counts_from_nothing() -> None:
    look = seen(before={"bob": metrics()}, metrics={"bob": metrics(f"{METRIC} 2")})
    assert on_metric(increases_by=2)(look).is_true


def test_a_metric_nobody_exports_never_holds_not_even_unchanged() -> None:
    look = seen(before={"bob": metrics()}, metrics={"bob": metrics()})
    wanted = MetricExpect(at="bob", name="zt_drop_total", unchanged=True)
    found = findings.metric(wanted)(look)
    assert not found.is_true
    assert "did you mean" in found.seen


def test_a_drop_of_another_identity_or_reason_is_another_drop() -> None:
    wanted = DropExpect(at="bob", identity="guest", reason=Verdict.NO_RULE)
    others = (
        'zt_drops_total{identity="web",reason="no_rule"} 9',
        'zt_drops_total{identity="guest",reason="deny_rule"} 9',
    )
    look = seen(before={"bob": metrics()}, metrics={"bob": metrics(*others)})
    assert not findings.dropped(wanted)(look).is_true
    assert findings.dropped(wanted)(moved(1, 2)).is_true


def test_a_drop_count_is_exact_where_one_is_given() -> None:
    wanted = DropExpect(at="bob", identity="guest", reason=Verdict.NO_RULE, count=5)
    assert findings.dropped(wanted)(moved(10, 15)).is_true
    assert findings.dropped(wanted)(moved(10, 16)).is_beyond


WANTED = EventExpect(at="bob", identity="guest", verdict=Verdict.NO_RULE)


@pytest.mark.parametrize(
    ("change", "is_true"),
    [
        ({}, True),
        ({"verdict": "deny_rule"}, False),
        ({"source_identity": "web"}, False),
        ({"source_port": 1}, False),
    ],
)
def test_an_event_counts_if_flow_identity_and_verdict_are_right(
    change: dict[str, Any], is_true: bool
) -> None:
    look = seen(action=action(flows=(FLOW,)), events={"bob": (event(**change),)})
    assert findings.event("bob", WANTED, only_flows=True)(look).is_true is is_true


def test_an_event_of_another_node_is_no_witness() -> None:
    look = seen(events={"alice": (event(),)})
    assert not findings.event("bob", WANTED)(look).is_true


def test_without_logging_a_drop_needs_no_event_and_with_it_it_does() -> None:
    find = findings.event("bob", WANTED, if_it_logs=True)
    assert find(seen(metrics={"bob": metrics(logging=False)})).is_true
    assert not find(seen(metrics={"bob": metrics(logging=True)})).is_true


def test_a_log_record_is_told_apart_by_the_node_that_sent_it() -> None:
    look = seen(logs=(event(node="bob"),))
    assert findings.log(LogExpect(node="bob", verdict=Verdict.NO_RULE))(look).is_true
    assert not findings.log(LogExpect(node="carol", verdict=Verdict.NO_RULE))(look).is_true


def test_what_was_seen_instead_is_said() -> None:
    look = seen(events={"bob": (event(verdict="allowed"),)})
    assert findings.event("bob", WANTED)(look).seen.startswith("only allowed ingress guest")


def forged(*events: dict[str, Any]) -> Observed:
    """A look after a forge: FLOW under the true address, one packet as 10.77.0.2."""
    from dataclasses import replace

    lie = replace(FLOW, source="10.77.0.2")
    return seen(action=action(control=FLOW, forged=(lie,)), events={"bob": events})


def test_a_forgery_is_only_judged_with_its_control() -> None:
    control, arrived = findings.control_arrived("bob"), findings.forged_arrived("bob")
    assert not control(forged()).is_true
    assert control(forged(event())).is_true
    assert not arrived(forged(event())).is_true
    assert arrived(forged(event(source="10.77.0.2", source_identity="web"))).is_true
    assert arrived(forged(event(source="10.77.0.2", verdict="unknown_source"))).is_true


def streamed(*received_s: float, elapsed_s: float) -> Observed:
    """Echoes at these seconds after the action, each sent 1 ms before it came."""
    echoes = tuple(Echo(sent_at=101 + s - 0.001, received_at=101 + s) for s in received_s)
    return seen(echoes={"s": echoes}, elapsed_s=elapsed_s)


@pytest.mark.parametrize(
    ("received_s", "elapsed_s", "is_true", "is_beyond"),
    [
        ((-0.5, 0.3), 1.9, False, False),  # it may still go on
        ((-0.5, 0.3), 2.0, True, False),
        ((-0.5,), 2.0, True, False),
        ((-0.5, 0.3, 1.1), 1.2, False, True),  # too late
        ((-5.0,), 2.0, False, True),  # it had stopped long before
        ((), 2.0, False, True),
    ],
)
def test_a_stream_stops_if_it_ran_before_and_is_silent_after(
    received_s: tuple[float, ...], elapsed_s: float, is_true: bool, is_beyond: bool
) -> None:
    found = findings.stream_stops("s", 1.0, 1.0)(streamed(*received_s, elapsed_s=elapsed_s))
    assert (found.is_true, found.is_beyond) == (is_true, is_beyond)


@pytest.mark.parametrize(
    ("received_s", "is_true"),
    [
        ((0.2,), True),
        ((1.2,), False),
        ((), False),
        ((0.0005,), False),  # came after the action, but was sent before it
    ],
)
def test_a_stream_runs_if_something_sent_since_came_back_in_time(
    received_s: tuple[float, ...], is_true: bool
) -> None:
    find = findings.stream_runs("s", 1.0)
    assert find(streamed(*received_s, elapsed_s=1.3)).is_true is is_true


def test_a_stream_that_never_stopped_does_not_resume() -> None:
    find = findings.stream_runs("s", 1.0, was_silent=True)
    assert find(streamed(-1.1, 0.2, elapsed_s=0.3)).is_beyond  # echoed 0.1 s before the action
    assert find(streamed(-3.0, 0.2, elapsed_s=0.3)).is_true


def test_a_silent_stream_has_no_echo_after_the_action() -> None:
    find = findings.stream_silent("s", 1.0)
    assert not find(streamed(elapsed_s=0.9)).is_true
    assert find(streamed(-0.1, elapsed_s=1.0)).is_true
    assert find(streamed(0.1, elapsed_s=0.2)).is_beyond


@pytest.mark.parametrize(
    ("bounds", "value", "is_true"),
    [
        (Range(at_least=10), 10.0, True),
        (Range(at_least=10), 9.9, False),
        (Range(at_most=10), 10.1, False),
        (Range(at_least=1, at_most=2), 1.5, True),
        (Range(at_least=1), None, False),
    ],
)
def test_a_figure_lies_within_its_bounds_and_must_exist(
    bounds: Range, value: float | None, is_true: bool
) -> None:
    find = findings.within(bounds, "Mbit/s", findings.throughput)
    assert find(seen(action=action(mbit=value))).is_true is is_true


def test_a_network_converges_when_nobody_is_waited_for_and_somebody_asked() -> None:
    assert findings.converged(seen(waiting=())).is_true
    assert findings.converged(seen(waiting=("bob",))).seen == "waiting for bob"
    assert not findings.converged(seen(waiting=None)).is_true


TC = (
    "filter protocol all pref 1 bpf chain 0 \n"
    "filter protocol all pref 1 bpf chain 0 handle 0x1 zt_ingress direct-action "
    "not_in_hw id 41 tag 5 jited\n"
)


@pytest.mark.parametrize(
    ("text", "program", "present", "is_true"),
    [
        (TC, None, True, True),
        (TC, "zt_ingress", True, True),
        (TC, "zt_egress", True, False),
        ("", None, True, False),
        ("", None, False, True),
        (TC, None, False, False),
    ],
)
def test_tc_shows_a_program_that_may_act_or_none(
    text: str, program: str | None, present: bool, is_true: bool
) -> None:
    item = TcExpect(at="bob", hook="ingress", program=program, present=present)
    assert findings.tc(item)(seen(filters={("bob", "ingress"): text})).is_true is is_true


def test_a_commands_code_and_output_are_compared() -> None:
    look = seen(action=action(exit_code=0, stdout="one\ntwo\n"))
    assert findings.exit_code(0)(look).is_true
    assert not findings.exit_code(1)(look).is_true
    assert findings.stdout_contains("two")(look).is_true
    assert not findings.stdout_contains("three")(look).is_true


def test_a_stream_that_could_not_be_begun_neither_runs_nor_stops_nor_is_silent() -> None:
    look = seen(echoes={}, elapsed_s=9)
    for find in (
        findings.stream_stops("s", 1.0, 1.0),
        findings.stream_runs("s", 1.0),
        findings.stream_silent("s", 1.0),
    ):
        assert not find(look).is_true
        assert find(look).is_beyond
