"""What is kept of each change of the network, in its own transaction."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from coordinator import audit, differences
from coordinator.state import NetworkState


def note(
    session: Session, before: NetworkState, after: NetworkState, by: str, now: datetime
) -> None:
    """Note who (BY: an audit.Entry's actor) made AFTER of BEFORE: a row for each object.

    Called when the network's row has its new revision already.
    """
    for found in differences.between(before, after):
        audit.record(
            session, by, found.action, found.kind, found.name, found.before, found.after, now
        )
