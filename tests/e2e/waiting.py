"""Wait for a state, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

from ztlab.lab.pace import scaled


def wait_until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    """Return once HOLDS does; the test fails where it still does not after WITHIN_S."""
    deadline = time.monotonic() + scaled(within_s)
    while not holds():
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        time.sleep(0.01)
