"""/api/v1/node: what nodes call; and /api/v1/health."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from coordinator import audit, clock, enrolment, logs, network, nodes, stream
from coordinator.api import refusals
from coordinator.api.context import bearer, body, raw_body, service
from coordinator.enrolment import ChallengeRequest, EnrolRequest, NewToken, TokenRequest
from coordinator.nodes import Ack, Caller
from ztlab.model import logbatch

blueprint = Blueprint("node", __name__)
SMALL_BYTES = 65536  # the bound of every body but a batch of logs, strangers' above all


@blueprint.get("/health")
def health() -> dict[str, Any]:
    here = service()
    return {
        "status": "ok",
        "authority": here.certificates.shown.authority,
        "network_id": here.place.network_id,
    }


@blueprint.post("/node/challenge")
def challenge() -> tuple[dict[str, Any], int]:
    here, asked = service(), body(ChallengeRequest, max_bytes=SMALL_BYTES)
    refusals.check_challenge(asked.public_key)
    with here.store.reading() as session:
        enrolment.may_ask(session, asked, bearer(), clock.now())
    with here.store.writing() as session:
        answer = enrolment.challenge(session, here.place, asked, bearer(), clock.now())
    return answer, 201


@blueprint.post("/node/enrol")
def enrol() -> tuple[dict[str, Any], int]:
    here, asked, key = service(), body(EnrolRequest, max_bytes=SMALL_BYTES), bearer()
    spent = enrolment.spend(here.store, asked.challenge_id, clock.now())
    made, _ = network.change(
        here.store,
        here.hub,
        lambda session: enrolment.enrol(
            session, here.place, spent, asked, key, clock.now(), here.token_ttl
        ),
        by=audit.setup_key(spent.setup_key_id),
    )
    return {"network_id": here.place.network_id, "name": made.name, **_token(made)}, 201


@blueprint.post("/node/token")
def token() -> dict[str, Any]:
    here, asked = service(), body(TokenRequest, max_bytes=SMALL_BYTES)
    spent = enrolment.spend(here.store, asked.challenge_id, clock.now())
    with here.store.writing() as session:
        made = enrolment.renew(session, here.place, spent, asked, clock.now(), here.token_ttl)
    return _token(made)


@blueprint.get("/node/stream")
def open_stream() -> Response:
    here, caller = service(), _caller()
    here.contacts.heard(caller.node_id, None, clock.now())
    number = nodes.open_stream(here.store, caller.node_id)
    digest, deltas = request.args.get("digest"), request.args.get("delta") == "1"
    events = stream.events(here.store, here.hub, caller, digest, number=number, deltas=deltas)
    headers = {"Cache-Control": "no-store"}
    return Response(events, content_type="text/event-stream", headers=headers)


@blueprint.post("/node/ack")
def ack() -> tuple[str, int]:
    caller, said = _caller(), body(Ack, max_bytes=SMALL_BYTES)
    service().contacts.heard(caller.node_id, said, clock.now())
    return "", 204


@blueprint.post("/node/logs")
def push_logs() -> dict[str, Any]:
    caller = _caller()
    head, records = logbatch.unpack(raw_body(logbatch.CONTENT_TYPE))
    with service().store.writing() as session:
        stored = logs.store_batch(session, caller, head, records, clock.now())
    return {"stored": stored}


def _caller() -> Caller:
    with service().store.reading() as session:
        return nodes.authenticate(session, bearer(), clock.now())


def _token(made: NewToken) -> dict[str, Any]:
    return {
        "node_id": made.node_id,
        "token": made.token,
        "token_expires_at": clock.rfc3339(made.expires_at),
    }
