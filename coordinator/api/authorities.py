"""/api/v1/node/authorities: a node says whom it trusts, and learns whom to trust."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from coordinator import authority, clock, nodes
from coordinator.api.context import bearer, body, service
from coordinator.authority import TrustedBody
from coordinator.store.models import NodeRow

blueprint = Blueprint("authorities", __name__)
SMALL_BYTES = 65536


@blueprint.post("/node/authorities")
def authorities() -> dict[str, Any]:
    here = service()
    with here.store.reading() as session:
        caller = nodes.authenticate(session, bearer(), clock.now())
    said = body(TrustedBody, max_bytes=SMALL_BYTES)
    served = here.certificates.shown.authorities
    newest = authority.newest_trusted(served, said)
    with here.store.reading() as session:
        is_known = session.get_one(NodeRow, caller.node_id).authority == newest
    if not is_known:  # at most of the calls nothing is new, and the write lock is not for that
        with here.store.writing() as session:
            authority.acknowledge(session, caller.node_id, newest)
    return {"authorities": list(served)}
