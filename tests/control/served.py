"""For tests that speak to a coordinator: one that runs, its owner, and patience with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.control.process import Coordinator, running
from ztlab.client.admin import AdminClient


@pytest.fixture(scope="module")
def coordinator() -> Iterator[Coordinator]:
    """One for all tests of a module: what they make there has names of its own."""
    with running() as here:
        yield here


@pytest.fixture
def admin(coordinator: Coordinator) -> Iterator[AdminClient]:
    """Its owner."""
    with closing(coordinator.admin()) as client:
        yield client


def until(holds: Callable[[], Any], what: str, within_s: float = 10.0) -> None:
    """Wait for what HOLDS says; fails after WITHIN_S."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)
