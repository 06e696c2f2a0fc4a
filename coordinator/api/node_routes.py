"""What nodes call, described; served by coordinator/api/node.py and rotation.py."""

from __future__ import annotations

from coordinator.api.route import Route

ROUTES: tuple[Route, ...] = ()
