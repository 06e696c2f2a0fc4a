"""From expectations to claims: pure functions that say of what was observed whether it holds.

A claim is one thing that can be true or false at a moment, and a quantifier says at which moments
it must be. `judge` is all there is to time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ztlab.scenario.samples import Observed


@dataclass(frozen=True, slots=True, kw_only=True)
class Eventually:
    """True at some moment within WITHIN_S; 0 means at the first look.

    settles_s  and from then on for so long: a count may pass through what is wanted
    """

    within_s: float
    settles_s: float = 0.0

    def __str__(self) -> str:
        return f" within {self.within_s:g} s" if self.within_s else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Always:
    """True at every moment for FOR_S."""

    for_s: float

    def __str__(self) -> str:
        return f" for {self.for_s:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Never:
    """False at every moment for WITHIN_S."""

    within_s: float

    def __str__(self) -> str:
        return f" (never within {self.within_s:g} s)"


Quantifier = Eventually | Always | Never


class State(Enum):
    """Where a claim stands."""

    WAITING = "waiting"
    HOLDS = "holds"
    FAILS = "fails"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one look showed.

    seen       in words, for the report
    figure     the number in it, for the report's column of figures
    is_beyond  it cannot become true any more (a counter went past what was wanted)
    """

    is_true: bool
    seen: str
    figure: str = ""
    is_beyond: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What must be read before a claim can be judged, by the names of nodes and streams."""

    metrics: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset()
    filters: frozenset[tuple[str, str]] = frozenset()
    logs: bool = False
    convergence: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            metrics=self.metrics | other.metrics,
            events=self.events | other.events,
            filters=self.filters | other.filters,
            logs=self.logs or other.logs,
            convergence=self.convergence or other.convergence,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One line of a report: TEXT, which says everything, is either so or not."""

    text: str
    quantifier: Quantifier
    needs: Needs
    find: Callable[[Observed], Finding]


def judge(
    quantifier: Quantifier, finding: Finding, elapsed_s: float, *, true_for_s: float = 0.0
) -> State:
    """Where a claim stands when FINDING was made ELAPSED_S after the action.

    true_for_s  for how long every look before, up to this one, found it true
    """
    match quantifier:
        case Eventually(within_s=within_s, settles_s=settles_s):
            if finding.is_true:
                return State.HOLDS if true_for_s >= settles_s else State.WAITING
            return State.FAILS if finding.is_beyond or elapsed_s >= within_s else State.WAITING
        case Always(for_s=for_s):
            if not finding.is_true:
                return State.FAILS
            return State.HOLDS if elapsed_s >= for_s else State.WAITING
        case Never(within_s=within_s):
            if finding.is_true:
                return State.FAILS
            return State.HOLDS if elapsed_s >= within_s else State.WAITING
