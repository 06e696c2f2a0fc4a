"""For every test: hypothesis without a stop-watch, no test sees another's umask, one PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.control.postgres import postgres_server

__all__ = ["own_umask", "postgres_server"]

# The machine is shared with labs and their traffic: how long one example takes says nothing.
settings.register_profile("ztlab", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("ztlab")


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    """The programs set a strict one for their process, which in a test is ours."""
    before = os.umask(0o022)
    yield
    os.umask(before)
