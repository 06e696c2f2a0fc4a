"""What the coordinator says of a node's keys: the one to come, and those that were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerKey:
    """A key that a node gave up, and when it had it. Timestamps are RFC 3339 UTC."""

    public_key: str
    client_id: str
    since: str
    until: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """The key that a node is changing to.

    waiting      how many peers have not acknowledged it; waiting_for: the first of them by name
    deadline_at  RFC 3339 UTC; then the node goes on without them
    """

    public_key: str
    client_id: str
    state: Literal["announced", "ready"]
    waiting: int
    waiting_for: tuple[str, ...]
    started_at: str
    deadline_at: str
