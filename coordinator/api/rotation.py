"""/api/v1/node/rotate and /node/rotation: a node changes its key."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from coordinator import audit, clock, enrolment, network, nodes, rotation
from coordinator.api.context import bearer, body, service
from coordinator.nodes import Caller
from coordinator.rotation import CommitRequest, RotateRequest

blueprint = Blueprint("rotation", __name__)
SMALL_BYTES = 65536


@blueprint.post("/node/rotate")
def rotate() -> dict[str, Any]:
    here, asked = service(), body(RotateRequest, max_bytes=SMALL_BYTES)
    spent = enrolment.spend(here.store, asked.challenge_id, clock.now())
    answer, _ = network.change(
        here.store,
        here.hub,
        lambda session: rotation.begin(session, here.place, spent, asked, clock.now()),
        by=audit.key(asked.public_key),
    )
    return answer


@blueprint.get("/node/rotation")
def progress() -> dict[str, Any]:
    caller = _caller()
    with service().store.reading() as session:
        return rotation.progress(session, caller.node_id)


@blueprint.post("/node/rotation/commit")
def commit() -> dict[str, Any]:
    here, caller, asked = service(), _caller(), body(CommitRequest, max_bytes=SMALL_BYTES)
    token = bearer()
    answer, _ = network.change(
        here.store,
        here.hub,
        lambda session: rotation.commit(session, caller.node_id, token, asked, clock.now()),
        by=audit.node(caller.name),
    )
    # A stream is opened by a token, and the other tokens are gone: all of the node's are older than
    # this number, here and at the other replicas. Who has a token opens another at once.
    here.hub.close_older(caller.node_id, nodes.open_stream(here.store, caller.node_id))
    return answer


@blueprint.delete("/node/rotation")
def cancel() -> tuple[str, int]:
    here, caller = service(), _caller()
    network.change(
        here.store,
        here.hub,
        lambda session: rotation.cancel(session, caller.node_id),
        by=audit.node(caller.name),
    )
    return "", 204


def _caller() -> Caller:
    with service().store.reading() as session:
        return nodes.authenticate(session, bearer(), clock.now())
