"""How long a session waits, and whose configuration it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.session import (
    FIRST_BACKOFF_S,
    LONGEST_BACKOFF_S,
    LONGEST_RETRY_AFTER_S,
    Backoff,
    Membership,
    _renew_at,
    _require_ours,
)
from ztlab.errors import ZtError
from ztlab.model.config import NodeConfig, Self


def test_the_backoff_grows_to_its_ceiling_and_begins_anew() -> None:
    longest = Backoff(dice=lambda: 1.0)
    waits = [longest.next_s() for _ in range(20)]
    assert waits[:4] == [FIRST_BACKOFF_S * 2**i for i in range(4)]
    assert waits[-1] == LONGEST_BACKOFF_S
    longest.reset()
    assert longest.next_s() == FIRST_BACKOFF_S
    assert Backoff(dice=lambda: 0.0).next_s() == 0.0  # full jitter: down to nothing


def test_who_is_told_to_come_later_does_and_not_all_at_once() -> None:
    told = [Backoff(dice=lambda i=i: i / 10).next_s(after_s=7) for i in range(11)]  # type: ignore[misc]
    assert min(told) == 7.0 and max(told) == 7.0 + FIRST_BACKOFF_S and len(set(told)) == 11
    assert Backoff(dice=lambda: 0.0).next_s(after_s=10**9) == LONGEST_RETRY_AFTER_S  # not for ever


def test_a_token_is_renewed_in_the_last_fifth_of_its_life() -> None:
    assert _renew_at("1970-01-01T00:16:40Z", now=0.0) == pytest.approx(800.0)
    assert _renew_at("1970-01-01T00:16:40+00:00", now=0.0) == pytest.approx(800.0)
    assert _renew_at("1970-01-01T00:00:00Z", now=500.0) == 501.0  # expired: soon, not in a loop
    assert _renew_at("whenever", now=7.0) == 7.0


def test_another_nodes_configuration_is_refused(tmp_path: Path) -> None:
    member = Membership(node_id="a", network_id="n", name="bob", token="t")
    bob = Self(node_id="a", name="bob", role="mesh", identity="api", addresses=("10.77.0.2/32",))
    config = NodeConfig(version=1, network_id="n", node=bob)

    _require_ours(config, member)  # control

    for other in (replace(config, network_id="m"), replace(config, node=replace(bob, node_id="b"))):
        with pytest.raises(ZtError, match="this is a of n"):
            _require_ours(other, member)
