"""What a step must show, in words an operator could check: metrics, events, logs, tc.

Time is always said. `within_s` is "eventually": true at some moment until then. `for_s` is
"always": true all along. `never_within_s` is "never": false all along. All count from the end of
the action; of a policy, from the moment the management API took it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ztlab.model.codec import field
from ztlab.model.verdict import DROP_REASONS, Verdict

EVENTUALLY_S = 5.0  # the deadline where none is written
ALWAYS_S = 1.0  # how long "unchanged" is watched where nothing is written


def _check_seconds(value: float) -> None:
    if not 0 < value <= 300:
        raise ValueError(f"want seconds, more than 0 and at most 300, got {value:g}")


def _check_reason(reason: Verdict) -> None:
    if not reason.is_drop:
        words = [r.word for r in DROP_REASONS]
        raise ValueError(f"want a drop reason ({' | '.join(words)}), got {reason.word!r}")


def _one_quantifier(**given: float | None) -> None:
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"want one of {', '.join(given)}, got {' and '.join(names)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DropExpect:
    """AT dropped packets of IDENTITY for REASON: by its metrics and, if it logs, by an event.

    count  exactly so many packets; by default at least one
    """

    at: str
    identity: str
    reason: Verdict = field(check=_check_reason)
    count: int | None = None
    within_s: float = field(default=EVENTUALLY_S, check=_check_seconds)


_TESTS = ("increases", "increases_by", "equals", "at_least", "unchanged")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricExpect:
    """A metric of AT, summed over every series that has these LABELS.

    increases, increases_by, unchanged  against the value before the action
    equals, at_least                    against the value itself
    """

    at: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    increases: bool = False
    increases_by: float | None = None
    equals: float | None = None
    at_least: float | None = None
    unchanged: bool = False
    within_s: float | None = field(default=None, check=_check_seconds)
    for_s: float | None = field(default=None, check=_check_seconds)

    def __post_init__(self) -> None:
        # `is`: an expected 0 equals False, but it is given.
        given = [
            name
            for name in _TESTS
            if getattr(self, name) is not None and getattr(self, name) is not False
        ]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"want exactly one of {', '.join(_TESTS)}, got {found}")
        _one_quantifier(within_s=self.within_s, for_s=self.for_s)
        if self.unchanged and self.within_s is not None:
            raise ValueError("unchanged is a matter of for_s, not of within_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventExpect:
    """An event in AT's own event stream (`zt-agent observe`).

    identity     the source's; to_identity  the destination's
    port         the destination's
    any_flow     false: in a step with a probe, only events of the probe's own five-tuple count
    """

    at: str
    identity: str | None = None
    to_identity: str | None = None
    verdict: Verdict | None = None
    hook: Literal["ingress", "egress"] | None = None
    rule: str | None = None
    port: int | None = None
    any_flow: bool = False
    within_s: float | None = field(default=None, check=_check_seconds)
    never_within_s: float | None = field(default=None, check=_check_seconds)

    def __post_init__(self) -> None:
        _one_quantifier(within_s=self.within_s, never_within_s=self.never_within_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogExpect:
    """A record in the coordinator's log, read through its API.

    node  the node that sent it; the other fields as in an event
    """

    at: Literal["coordinator"] = "coordinator"
    node: str | None = None
    identity: str | None = None
    to_identity: str | None = None
    verdict: Verdict | None = None
    hook: Literal["ingress", "egress"] | None = None
    rule: str | None = None
    port: int | None = None
    any_flow: bool = False
    within_s: float | None = field(default=None, check=_check_seconds)
    never_within_s: float | None = field(default=None, check=_check_seconds)

    def __post_init__(self) -> None:
        _one_quantifier(within_s=self.within_s, never_within_s=self.never_within_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamExpect:
    """What a stream does, measured from the end of this step's action.

    is_alive            on: echoes come within a second; off: none does in that second
    stops_within_s      the last echo comes before that, and then none for a second
    resumes_within_s    echoes come again before that, and an answer was sent after the action
    """

    id: str
    is_alive: bool | None = None
    stops_within_s: float | None = field(default=None, check=_check_seconds)
    resumes_within_s: float | None = field(default=None, check=_check_seconds)

    def __post_init__(self) -> None:
        given = {
            "is_alive": self.is_alive,
            "stops_within_s": self.stops_within_s,
            "resumes_within_s": self.resumes_within_s,
        }
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            found = " and ".join(names) or "none of them"
            raise ValueError(f"want exactly one of {', '.join(given)}, got {found}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TcExpect:
    """What `tc filter show dev wg0 HOOK` says at AT: a direct-action program, or none."""

    at: str
    hook: Literal["ingress", "egress"]
    program: str | None = None
    present: bool = True
    within_s: float = field(default=EVENTUALLY_S, check=_check_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Bounds of a measured figure; at least one of them."""

    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise ValueError("want at_least, at_most or both, got neither")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """Everything one step must show.

    answered, identity, verdict  of a probe; identity and verdict are read from the events of the
                                 probe's five-tuple at `at`, by default the probe's destination
    arrived_as_anybody           of a forge
    throughput_mbit              of a transfer, as received
    converged_within_s           of a policy or a drain: every node acknowledged it
    exit_code, stdout_contains   of a run
    """

    answered: bool | None = None
    identity: str | None = None
    verdict: Verdict | None = None
    at: str | None = None
    rtt_ms: Range | None = None
    arrived_as_anybody: bool | None = None
    throughput_mbit: Range | None = None
    converged_within_s: float | None = field(default=None, check=_check_seconds)
    exit_code: int | None = None
    stdout_contains: str | None = None
    drop: tuple[DropExpect, ...] = ()
    metric: tuple[MetricExpect, ...] = ()
    event: tuple[EventExpect, ...] = ()
    log: tuple[LogExpect, ...] = ()
    stream: tuple[StreamExpect, ...] = ()
    tc: tuple[TcExpect, ...] = ()


LISTS = ("drop", "metric", "event", "log", "stream", "tc")  # a single one may stand without a list
