"""Every line of the API, and how one is served.

To add a line: declare `ROUTES` in a module (coordinator/api/route.py says what a Route is,
coordinator/api/collection.py makes the six of a collection) and name the module in MODULES.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, request

from coordinator import access
from coordinator.api import conditions, node_routes, query
from coordinator.api.admin import (
    explain,
    gateways,
    groups,
    history,
    identities,
    metrics,
    network,
    nodes,
    policy,
    resources,
    setup_keys,
    tokens,
)
from coordinator.api.context import bearer, body, parse_json, raw_body, service
from coordinator.api.openapi import served as openapi
from coordinator.api.route import MERGE_PATCH, Call, Reply, Route
from ztlab.errors import NotFound
from ztlab.model.management import AdminRole

MODULES = (
    node_routes,
    network,
    metrics,
    nodes,
    gateways,
    identities,
    groups,
    resources,
    policy,
    setup_keys,
    tokens,
    explain,
    history,
)
ROUTES: tuple[Route, ...] = (
    *(route for module in MODULES for route in module.ROUTES),
    *openapi.routes(lambda: ROUTES),
)


def blueprint() -> Blueprint:
    """The views of every line that has one here."""
    made = Blueprint("table", __name__)
    for route in ROUTES:
        if route.view is not None:
            made.add_url_rule(
                route.rule,
                endpoint=route.operation,
                view_func=_served(route, route.view),
                methods=[route.method],
            )
    return made


def _served(route: Route, view: Callable[[Call], Any]) -> Callable[..., Response]:
    def serve(**path: str) -> Response:
        actor = _authorized(route.role)
        for name, text in path.items():
            if "\0" in text:  # PostgreSQL could not even look for it
                raise NotFound(f"no {name} has U+0000 in it")
        call = Call(
            service=service(),
            actor=actor,
            path=path,
            query=query.decode(route.query, request.args),
            body=_body(route, path),
            conditions=conditions.parse(request.headers),
        )
        answer = view(call)
        if call.is_dry_run and isinstance(answer, Reply):
            answer = replace(answer, status=200)  # nothing was created
        return _response(route, answer)

    return serve


def _authorized(role: Any) -> str:
    if role == "anybody":
        return "anybody"
    needed: AdminRole = role
    with service().store.reading() as session:
        return access.authorize(session, bearer(), needed)


def _body(route: Route, path: Mapping[str, Any]) -> Any:
    if route.patches is not None:
        return parse_json(raw_body(MERGE_PATCH))
    if route.body is None:
        return None
    return body(route.body, **{name: path[name] for name in route.repeats})


def _response(route: Route, answer: Any) -> Response:
    reply = answer if isinstance(answer, Reply) else Reply(body=answer)
    headers = {"Cache-Control": "no-store", **(reply.headers or {})}
    if reply.tag is not None:
        headers["ETag"] = f'"{reply.tag}"'
    if reply.content is not None:
        return Response(reply.content, reply.status, headers=headers, content_type=route.stream)
    if reply.body is None:
        return Response(status=204, headers=headers)
    text = json.dumps(reply.body, separators=(",", ":"))
    return Response(text, reply.status, headers=headers, content_type="application/json")
