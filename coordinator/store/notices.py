"""What replicas on one PostgreSQL tell each other: a new revision, a node's newer stream.

NOTIFY is part of the transaction, so nobody hears of what was not committed. With SQLite there is
nobody else, and nothing is said. coordinator/listener.py hears it.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ztlab.model.config import Revision

REPLICA = "replica"  # in Session.info and in each payload: who says it
CHANGES = "zt_changes"  # payload: epoch, number; which nodes it concerns, who reads it finds out
STREAMS = "zt_streams"  # payload: node (its id), number


def changed(session: Session, revision: Revision) -> None:
    """The network has REVISION, once SESSION is committed."""
    _notify(session, CHANGES, {"epoch": revision.epoch, "number": revision.number})


def stream_opened(session: Session, node_id: str, number: int) -> None:
    """The stream with NUMBER is the newest of the node, once SESSION is committed."""
    _notify(session, STREAMS, {"node": node_id, "number": number})


def _notify(session: Session, channel: str, payload: dict[str, Any]) -> None:
    if session.get_bind().dialect.name == "postgresql":
        text = json.dumps({REPLICA: session.info.get(REPLICA), **payload})
        session.execute(select(func.pg_notify(channel, text)))
