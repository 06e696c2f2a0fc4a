"""All there is to time: when a claim is decided, and how."""

from __future__ import annotations

import pytest

from ztlab.scenario.claims import Always, Eventually, Finding, Never, Quantifier, State, judge

YES = Finding(is_true=True, seen="")
NO = Finding(is_true=False, seen="")
BEYOND = Finding(is_true=False, seen="", is_beyond=True)


@pytest.mark.parametrize(
    ("quantifier", "finding", "elapsed_s", "state"),
    [
        (Eventually(within_s=2), NO, 1.9, State.WAITING),
        (Eventually(within_s=2), NO, 2.0, State.FAILS),
        (Eventually(within_s=2), YES, 0.1, State.HOLDS),
        (Eventually(within_s=2), YES, 2.1, State.HOLDS),
        (Eventually(within_s=2), BEYOND, 0.1, State.FAILS),
        (Eventually(within_s=0), NO, 0.0, State.FAILS),
        (Eventually(within_s=0), YES, 0.0, State.HOLDS),
        (Always(for_s=2), YES, 1.9, State.WAITING),
        (Always(for_s=2), YES, 2.0, State.HOLDS),
        (Always(for_s=2), NO, 0.1, State.FAILS),
        (Never(within_s=2), NO, 1.9, State.WAITING),
        (Never(within_s=2), NO, 2.0, State.HOLDS),
        (Never(within_s=2), YES, 0.1, State.FAILS),
    ],
)
def test_a_claim_is_decided_as_soon_as_it_can_be_and_not_before(
    quantifier: Quantifier, finding: Finding, elapsed_s: float, state: State
) -> None:
    assert judge(quantifier, finding, elapsed_s) is state


@pytest.mark.parametrize(
    ("finding", "true_for_s", "state"),
    [
        (YES, 0.0, State.WAITING),
        (YES, 0.19, State.WAITING),
        (YES, 0.2, State.HOLDS),
        (NO, 0.0, State.WAITING),
        (BEYOND, 0.0, State.FAILS),
    ],
)
def test_what_must_settle_holds_only_when_it_stood_still(
    finding: Finding, true_for_s: float, state: State
) -> None:
    quantifier = Eventually(within_s=2, settles_s=0.2)
    assert judge(quantifier, finding, 1.0, true_for_s=true_for_s) is state


def test_what_became_true_in_time_may_settle_after_it() -> None:
    quantifier = Eventually(within_s=2, settles_s=0.2)
    assert judge(quantifier, YES, 2.1, true_for_s=0.15) is State.WAITING
    assert judge(quantifier, YES, 2.2, true_for_s=0.25) is State.HOLDS


def test_a_quantifier_reads_as_the_end_of_a_sentence() -> None:
    assert f"it holds{Eventually(within_s=5)}" == "it holds within 5 s"
    assert f"it holds{Eventually(within_s=0)}" == "it holds"
    assert f"it holds{Always(for_s=1)}" == "it holds for 1 s"
    assert f"it comes{Never(within_s=1.5)}" == "it comes (never within 1.5 s)"
