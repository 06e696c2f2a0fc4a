"""The words and numbers of what happened to a packet."""

from __future__ import annotations

import pytest

from ztlab.model.verdict import DROP_REASONS, AuthzMode, Hook, Verdict

# What has been in logs and metrics once stays what it is: never renumbered, never reused.
NUMBERS = {
    "allowed": 1,
    "established": 2,
    "observed": 3,
    "no_rule": 16,
    "deny_rule": 17,
    "unknown_source": 18,
    "unknown_destination": 19,
    "spoofed_source": 20,
    "fragment": 21,
    "malformed": 22,
    "unsupported_protocol": 23,
    "not_established": 24,
    "over_quota": 25,
    "map_full": 26,
}


def test_no_verdict_was_ever_renumbered() -> None:
    assert {verdict.word: int(verdict) for verdict in Verdict} == NUMBERS


def test_a_packet_went_on_exactly_where_the_verdict_is_no_drop_reason() -> None:
    went_on = {verdict.word for verdict in Verdict if not verdict.is_drop}
    assert went_on == {"allowed", "established", "observed"}
    assert {verdict.word for verdict in DROP_REASONS} == NUMBERS.keys() - went_on


@pytest.mark.parametrize("verdict", Verdict)
def test_a_word_leads_back_to_its_verdict(verdict: Verdict) -> None:
    assert Verdict.from_word(verdict.word) is verdict


@pytest.mark.parametrize("word", ["", "dropped", "no rule", "16", "NO-RULE"])
def test_a_word_nobody_uses_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="no verdict"):
        Verdict.from_word(word)


def test_hooks_and_modes_are_spelled_as_operators_write_them() -> None:
    assert [hook.word for hook in Hook] == ["ingress", "egress"]
    assert [mode.word for mode in AuthzMode] == ["observe", "enforce"]
