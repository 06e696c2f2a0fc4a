"""Back to what administrators had written at an earlier revision, as a new revision."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from coordinator import audit, catalog, document, revisions, state
from coordinator.errors import Conflict
from ztlab.errors import SchemaError
from ztlab.model import codec


def roll_back(session: Session, epoch: str, number: int, by: str, now: datetime) -> None:
    """Write the document of that revision again. Runs inside network.change.

    Conflict with the reasons where it does not fit any more: a gateway is gone, say.
    """
    wanted = revisions.document_at(session, epoch, number)
    if not document.differences(document.of(state.load(session)), wanted):
        return
    try:
        catalog.put_document(session, codec.decode(catalog.DocumentBody, wanted), now)
    except SchemaError as error:
        raise Conflict(
            f"the document of {epoch}/{number} does not fit the network any more", error.problems
        ) from None
    revision = {"epoch": epoch, "number": number}
    audit.record(
        session, by, "rollback", "revision", f"{epoch}/{number}", None, {"to": revision}, now
    )
