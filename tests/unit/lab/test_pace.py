"""One factor for all that is waited for."""

from __future__ import annotations

import pytest

from ztlab.errors import ZtError
from ztlab.lab import pace


def test_nothing_is_scaled_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZTLAB_TIME_SCALE", raising=False)
    assert pace.scaled(5) == 5


def test_a_slow_machine_gets_longer_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTLAB_TIME_SCALE", "2.5")
    assert pace.scaled(4) == 10


@pytest.mark.parametrize("text", ["", "fast", "0.5", "nan", "inf", "-3"])
def test_what_is_no_factor_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ZTLAB_TIME_SCALE", text)
    with pytest.raises(ZtError, match="ZTLAB_TIME_SCALE"):
        pace.scaled(1)
