"""Coordinators as operators run them: processes, over TLS, alone and several on one PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.served import admin, coordinator

__all__ = ["admin", "coordinator"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By marker, since the stage `control` also runs other folders' tests on PostgreSQL."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("control")
