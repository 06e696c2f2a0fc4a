"""One look at what was observed: is it so, and what was seen. Pure functions, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ztlab.lab.pace import scaled
from ztlab.scenario.claims import Finding
from ztlab.scenario.expect import DropExpect, EventExpect, LogExpect, MetricExpect, Range, TcExpect
from ztlab.scenario.samples import Event, FlowKey, Observed, describe_event

Find = Callable[[Observed], Finding]
Measure = Callable[[Observed], float | None]


def answered(seen: Observed) -> Finding:
    """Every message of the probe came back."""
    probe = seen.action.probe
    rtt = probe.get("rtt_ms")
    return Finding(
        is_true=probe.get("outcome") == "answered",
        seen=_probe_words(seen),
        figure=f"{rtt:.1f} ms" if rtt is not None else "",
    )


def silent(seen: Observed) -> Finding:
    """Nothing at all came back: no answer, and no reset or ICMP error either, which is one."""
    return Finding(is_true=seen.action.probe.get("outcome") == "silent", seen=_probe_words(seen))


_OUTCOMES = {
    "answered": "answered",
    "partly": "only some messages were answered",
    "silent": "silence until the deadline",
    "refused": "refused: the packets arrived, and nobody listens",
    "unreachable": "no path",
    "unresolved": "the name means nothing on that node",
}


def _probe_words(seen: Observed) -> str:
    probe = seen.action.probe
    outcome = str(probe.get("outcome"))
    words = _OUTCOMES.get(outcome, outcome)
    if outcome == "partly":
        words += f" ({probe.get('answers')} of {probe.get('sent')})"
    if probe.get("error") and outcome not in ("silent", "answered"):
        words += f" ({probe['error']})"
    return words


def rtt(seen: Observed) -> float | None:
    """The probe's median round trip in milliseconds."""
    value = seen.action.probe.get("rtt_ms")
    return None if value is None else float(value)


def throughput(seen: Observed) -> float | None:
    """The transfer's rate in Mbit/s."""
    return seen.action.mbit


def within(bounds: Range, unit: str, measure: Measure) -> Find:
    """The measured figure lies within BOUNDS."""

    def find(seen: Observed) -> Finding:
        value = measure(seen)
        if value is None:
            return Finding(is_true=False, seen="nothing was measured")
        too_low = bounds.at_least is not None and value < bounds.at_least
        too_high = bounds.at_most is not None and value > bounds.at_most
        text = f"{value:.4g} {unit}"
        return Finding(is_true=not (too_low or too_high), seen=text, figure=text)

    return find


def exit_code(wanted: int) -> Find:
    """The command ended with that code."""

    def find(seen: Observed) -> Finding:
        code, said = seen.action.exit_code, seen.action.stdout.strip()
        words = f"exit code {code}" + (f": {said[-300:]}" if code != wanted and said else "")
        return Finding(is_true=code == wanted, seen=words)

    return find


def stdout_contains(wanted: str) -> Find:
    """The command printed that text."""

    def find(seen: Observed) -> Finding:
        return Finding(is_true=wanted in seen.action.stdout, seen=f"{seen.action.stdout[-400:]!r}")

    return find


def converged(seen: Observed) -> Finding:
    """No node is waited for any more."""
    if seen.waiting is None:
        return Finding(is_true=False, seen="the coordinator was not asked")
    if seen.waiting:
        return Finding(is_true=False, seen=f"waiting for {', '.join(seen.waiting)}")
    return Finding(is_true=True, seen="converged", figure=f"{seen.elapsed_s:.2f} s")


def metric(item: MetricExpect) -> Find:
    """The metric has, or moved by, what ITEM wants."""

    def find(seen: Observed) -> Finding:
        now = seen.metrics[item.at]
        if why := now.why_unknown(item.name):
            return Finding(is_true=False, seen=why)
        value = now.total(item.name, item.labels)
        if item.equals is not None:
            return Finding(is_true=value == item.equals, seen=f"is {value:g}", figure=f"{value:g}")
        if item.at_least is not None:
            return Finding(
                is_true=value >= item.at_least, seen=f"is {value:g}", figure=f"{value:g}"
            )
        delta = value - seen.before[item.at].total(item.name, item.labels)
        return _moved(item, value, delta)

    return find


def _moved(item: MetricExpect, value: float, delta: float) -> Finding:
    words = f"went from {value - delta:g} to {value:g}"
    figure = f"{delta:+g}"
    if item.increases_by is not None:
        is_beyond = delta > item.increases_by
        return Finding(
            is_true=delta == item.increases_by, seen=words, figure=figure, is_beyond=is_beyond
        )
    if item.unchanged:
        return Finding(is_true=delta == 0, seen=words, figure=figure)
    return Finding(is_true=delta > 0, seen=words, figure=figure)


def dropped(item: DropExpect) -> Find:
    """The node's own count of drops moved, by exactly so many where ITEM says how many."""
    labels = {"identity": item.identity, "reason": item.reason.word}

    def find(seen: Observed) -> Finding:
        name = "zt_drops_total"
        if why := seen.metrics[item.at].why_unknown(name):
            return Finding(is_true=False, seen=why)
        value = seen.metrics[item.at].total(name, labels)
        before = seen.before[item.at].total(name, labels)
        wanted = MetricExpect(
            at=item.at,
            name=name,
            increases=item.count is None,
            increases_by=None if item.count is None else float(item.count),
        )
        return _moved(wanted, value, value - before)

    return find


def event(
    node: str, item: EventExpect, *, only_flows: bool = False, if_it_logs: bool = False
) -> Find:
    """An event of NODE is what ITEM describes.

    only_flows   it must be of a flow the action opened
    if_it_logs   hold without an event where the node says that it does not log
    """

    def find(seen: Observed) -> Finding:
        if if_it_logs and not seen.logs_at(node):
            return Finding(is_true=True, seen=f"{node} does not log", figure="not logged")
        return _search(seen.events.get(node, ()), item, seen.action.flows if only_flows else None)

    return find


def log(item: LogExpect, *, only_flows: bool = False) -> Find:
    """A record in the coordinator's log is what ITEM describes."""

    def find(seen: Observed) -> Finding:
        records = [r for r in seen.logs if item.node is None or r.get("node") == item.node]
        found = _search(records, item, seen.action.flows if only_flows else None)
        if not found.is_true:
            return found
        return Finding(is_true=True, seen=found.seen, figure=f"{max(seen.elapsed_s, 0):.1f} s")

    return find


def _search(
    events: Iterable[Event], item: EventExpect | LogExpect, flows: tuple[FlowKey, ...] | None
) -> Finding:
    if flows is not None:
        events = [e for e in events if any(flow.matches(e) for flow in flows)]
    events = list(events)
    hits = [e for e in events if fits(item, e)]
    if hits:
        return Finding(is_true=True, seen=describe_event(hits[0]), figure=_rule(hits[0]))
    if not events:
        return Finding(is_true=False, seen="no event")
    others = list(dict.fromkeys(describe_event(e) for e in events))
    more = f", and {len(others) - 2} others before" if len(others) > 2 else ""
    return Finding(is_true=False, seen=f"only {'; '.join(others[-2:])}{more}")


def _rule(event_: Event) -> str:
    return f"rule {event_['rule']}" if event_.get("rule") else ""


def fits(item: EventExpect | LogExpect, event_: Event) -> bool:
    """Has EVENT_ everything that ITEM names? What ITEM leaves out may be anything."""
    wanted = {
        "source_identity": item.identity,
        "destination_identity": item.to_identity,
        "verdict": item.verdict.word if item.verdict is not None else None,
        "hook": item.hook,
        "rule": item.rule,
        "destination_port": item.port,
    }
    return all(event_.get(key) == value for key, value in wanted.items() if value is not None)


def control_arrived(node: str) -> Find:
    """The packet a forge sent under the true address shows in NODE's events."""

    def find(seen: Observed) -> Finding:
        control = seen.action.control
        hits = [e for e in seen.events.get(node, ()) if control and control.matches(e)]
        if hits:
            return Finding(is_true=True, seen=describe_event(hits[0]))
        return Finding(is_true=False, seen=f"no event of {control}")

    return find


def forged_arrived(node: str) -> Find:
    """Some packet a forge sent under the false address shows in NODE's events."""

    def find(seen: Observed) -> Finding:
        hits = [
            e
            for e in seen.events.get(node, ())
            if any(flow.matches(e) for flow in seen.action.forged)
        ]
        if hits:
            return Finding(is_true=True, seen=describe_event(hits[0]), figure=f"{len(hits)}")
        sent = len(seen.action.forged)
        return Finding(is_true=False, seen=f"none of {sent} arrived", figure=f"0 of {sent}")

    return find


_NEVER_BEGAN = Finding(is_true=False, seen="the stream could not be begun", is_beyond=True)


def stream_stops(stream: str, within_s: float, silence_s: float) -> Find:
    """It ran before the action; its last echo came in time; then there was silence."""

    def find(seen: Observed) -> Finding:
        done_at = seen.action.done_at
        echoes = seen.echoes.get(stream)
        if echoes is None:
            return _NEVER_BEGAN
        if not any(seen.action.began_at - 1 <= e.received_at < done_at for e in echoes):
            return Finding(is_true=False, seen="it was silent before the action", is_beyond=True)
        last_s = max(e.received_at for e in echoes) - done_at
        figure = f"{max(last_s, 0):.3f} s"
        if last_s > scaled(within_s):
            return Finding(is_true=False, seen=f"an echo came {last_s:.3f} s after", is_beyond=True)
        quiet = seen.elapsed_s >= scaled(within_s + silence_s)
        return Finding(is_true=quiet, seen=f"last echo after {figure}", figure=figure)

    return find


def stream_runs(stream: str, within_s: float, *, was_silent: bool = False) -> Find:
    """A message sent after the action came back in time; if WAS_SILENT, none did before."""

    def find(seen: Observed) -> Finding:
        began_at, done_at = seen.action.began_at, seen.action.done_at
        echoes = seen.echoes.get(stream)
        if echoes is None:
            return _NEVER_BEGAN
        if was_silent and any(began_at - 0.5 <= e.received_at < began_at for e in echoes):
            return Finding(is_true=False, seen="it was not silent before", is_beyond=True)
        after = [e.received_at - done_at for e in echoes if e.sent_at >= done_at]
        if not after:
            return Finding(is_true=False, seen="no echo of anything sent since")
        first_s = min(after)
        return Finding(
            is_true=first_s <= scaled(within_s),
            seen=f"first echo after {first_s:.3f} s",
            figure=f"{first_s:.3f} s",
            is_beyond=first_s > scaled(within_s),
        )

    return find


def stream_silent(stream: str, for_s: float) -> Find:
    """No echo came for so long after the action."""

    def find(seen: Observed) -> Finding:
        echoes = seen.echoes.get(stream)
        if echoes is None:
            return _NEVER_BEGAN
        late = [e for e in echoes if e.received_at > seen.action.done_at]
        if late:
            return Finding(is_true=False, seen=f"{len(late)} echoes came", is_beyond=True)
        return Finding(is_true=seen.elapsed_s >= scaled(for_s), seen="silence")

    return find


def tc(item: TcExpect) -> Find:
    """tc shows a direct-action program of that name there, or none."""

    def find(seen: Observed) -> Finding:
        text = seen.filters[item.at, item.hook]
        lines = [line.strip() for line in text.splitlines() if "direct-action" in line]
        hits = [line for line in lines if item.program is None or item.program in line]
        shown = hits or lines or ["no direct-action program"]
        return Finding(is_true=bool(hits) == item.present, seen="; ".join(shown))

    return find
