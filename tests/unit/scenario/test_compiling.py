"""What a step expects, and what its action implies, as claims."""

from __future__ import annotations

from typing import Any

import pytest

from ztlab.model.codec import decode
from ztlab.scenario.claims import Always, Eventually, Never, Quantifier
from ztlab.scenario.compiling import claims_of
from ztlab.scenario.loading import from_data
from ztlab.scenario.steps import Step

PROBE = {"from": "a", "to": "b", "tcp": 80}
DROP = {"at": "b", "identity": "a", "reason": "no_rule"}


def step(**fields: Any) -> Step:
    """A step as the file would have it."""
    return decode(Step, {"name": "s", **fields})


def texts(**fields: Any) -> list[str]:
    """The claims of such a step, as a report words them."""
    return [claim.text for claim in claims_of(step(**fields))]


def test_a_drop_is_two_claims_a_count_and_an_event() -> None:
    assert texts(probe=PROBE, expect={"answered": False, "drop": [DROP]}) == [
        "b tcp/80 is silent to a",
        "b counted packets of a dropped for no_rule",
        "b's event names a and no_rule",
    ]


def test_identity_and_verdict_are_one_claim_at_the_judging_node() -> None:
    assert texts(probe=PROBE, expect={"identity": "a", "verdict": "allowed"}) == [
        "b: allowed, as a, by the event of this five-tuple"
    ]
    (claim,) = claims_of(step(probe=PROBE, expect={"verdict": "allowed", "at": "gw"}))
    assert claim.needs.events == {"gw"}


def test_a_thrown_switch_must_show_even_if_nothing_is_expected() -> None:
    assert texts(set={"node": "b", "authz_mode": "observe", "logging_enabled": False}) == [
        "b says that its mode is observe",
        "b says that it does not log",
    ]


def test_a_new_policy_must_be_acknowledged_even_if_nothing_is_expected() -> None:
    assert texts(policy={"rules": []}) == ["every node acknowledged the change"]


@pytest.mark.parametrize(
    ("word", "is_drained"), [("drain gate", True), ("drain gate no longer", False)]
)
def test_a_drain_is_one_unless_it_is_taken_back_and_must_be_acknowledged(
    word: str, is_drained: bool
) -> None:
    said = {} if is_drained else {"is_drained": False}
    made = step(drain={"gateway": "gate", **said})
    assert made.drain is not None and made.drain.is_drained is is_drained
    assert str(made) == word
    (claim,) = claims_of(made)
    assert claim.text == "every node acknowledged the change"
    (soon,) = claims_of(step(drain={"gateway": "gate"}, expect={"converged_within_s": 0.5}))
    assert soon.quantifier == Eventually(within_s=0.5)


def test_a_stream_must_live_unless_something_else_is_said_of_it() -> None:
    stream = {"id": "s", **PROBE}
    assert texts(stream=stream) == ["stream s is alive"]
    silent = {"stream": [{"id": "s", "is_alive": False}]}
    assert texts(stream=stream, expect=silent) == ["stream s is silent"]


def test_a_forge_has_its_control_whatever_is_expected() -> None:
    forge = {"from": "c", "as": "a", "to": "b", "udp": 53}
    assert texts(forge=forge) == ["control: under c's true address it arrives at b"]
    assert len(texts(forge=forge, expect={"arrived_as_anybody": False})) == 2


@pytest.mark.parametrize(
    ("expect", "quantifier"),
    [
        ({"metric": [{"at": "b", "name": "m", "increases": True}]}, Eventually(within_s=5)),
        (
            {"metric": [{"at": "b", "name": "m", "increases_by": 2, "within_s": 3}]},
            Eventually(within_s=3, settles_s=0.2),
        ),
        ({"metric": [{"at": "b", "name": "m", "unchanged": True}]}, Always(for_s=1)),
        ({"metric": [{"at": "b", "name": "m", "equals": 1, "for_s": 2}]}, Always(for_s=2)),
        ({"event": [{"at": "b", "never_within_s": 2}]}, Never(within_s=2)),
        ({"log": [{"within_s": 7}]}, Eventually(within_s=7)),
    ],
)
def test_the_words_of_time_become_the_three_quantifiers(
    expect: dict[str, Any], quantifier: Quantifier
) -> None:
    (claim,) = claims_of(step(expect=expect))
    assert claim.quantifier == quantifier


def test_only_what_is_expected_is_read() -> None:
    (claim,) = claims_of(step(expect={"tc": [{"at": "b", "hook": "egress"}]}))
    assert claim.needs.filters == {("b", "egress")}
    assert not claim.needs.metrics | claim.needs.events
    assert not claim.needs.logs


def test_every_claim_of_the_shipped_words_has_a_text_of_its_own() -> None:
    data = {
        "name": "x",
        "nodes": {"a": {}, "b": {"listen": ["tcp/80"]}},
        "steps": [
            {
                "name": "s",
                "probe": PROBE,
                "expect": {
                    "answered": True,
                    "identity": "a",
                    "rtt_ms": {"at_least": 0, "at_most": 10},
                    "drop": DROP,
                    "event": [{"at": "b"}, {"at": "a"}],
                    "log": {"node": "b", "identity": "a", "to_identity": "b", "port": 80},
                },
            }
        ],
    }
    found = [claim.text for claim in claims_of(from_data(data).steps[0])]
    assert len(found) == len(set(found)) == 8
