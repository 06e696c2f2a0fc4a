"""What is kept of each change of the network, in its own transaction."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from coordinator import audit, differences, revisions
from coordinator.state import NetworkState


def note(
    session: Session, before: NetworkState, after: NetworkState, by: str, now: datetime
) -> None:
    """Note who (BY: an actor of the audit log) changed BEFORE to AFTER, and the way back.

    Called when the network's row has its new revision already.
    """
    changes = list(differences.between(before, after))
    for one in changes:
        audit.record(session, by, one.action, one.kind, one.name, one.before, one.after, now)
    revisions.keep(session, before, changes, by, now)
