"""What the tests of the wire are given."""

from __future__ import annotations

from tests.control.served import admin, coordinator

__all__ = ["admin", "coordinator"]
