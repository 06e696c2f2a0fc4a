"""The OpenAPI 3.1 document of a table of routes (https://spec.openapis.org/oas/v3.1.1)."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Literal

from coordinator.api.context import ROOT
from coordinator.api.openapi.schema import Schema, Schemas, field_notes
from coordinator.api.query import scalar
from coordinator.api.route import JSON, MERGE_PATCH, Caller, DryRunQuery, Route
from ztlab.model.codec import field
from ztlab.model.config import Revision
from ztlab.model.preview import Preview

PROBLEM = "application/problem+json"
# What a route refuses follows from what it is: these are the reasons, in words.
_REASONS = {
    400: "The body is no JSON, has a key twice, or contradicts the path",
    401: "Nobody who is known: no token, or one that is worth nothing (any more)",
    403: "Somebody who may not do this",
    404: "Nothing of that name is there",
    409: "It would contradict what is there; `errors` say what",
    412: "The object is not what If-Match or If-None-Match say",
    413: "The body is too large",
    415: "The body is of another media type",
    422: "The content is not what it should be; `errors` say where and why",
    428: "Changing what exists needs If-Match",
    429: "Too many of these; Retry-After says when it may be asked again",
    503: "The store cannot be used now; nothing was changed",
}
_SECURITY: dict[str, tuple[str, str]] = {
    "node": ("node", "A node's token, which it gets by proof of its WireGuard key"),
    "setup key": ("setupKey", "A setup key"),
}
_ADMINISTRATOR = ("administrator", "An administrator's token, or a session of the pages below /ui")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong: where, and what."""

    path: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A refusal (RFC 9457).

    errors  each field that is wrong, by its path; each thing that is in the way
    """

    type: Literal["about:blank"]
    title: str
    status: int
    detail: str
    errors: tuple[Fault, ...] = field(default=())


def document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """ROUTES described; VERSION is the program's."""
    schemas = Schemas()
    paths: dict[str, dict[str, Any]] = {}
    listed = tuple(routes)
    for route in listed:
        paths.setdefault(ROOT + route.path, {})[route.method.lower()] = _operation(route, schemas)
    schemes = dict(_security(route.role) for route in listed if route.role not in _OPEN)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ztlab coordinator",
            "version": version,
            "description": "Configuration of a WireGuard zero-trust network: who is in it, who may "
            "reach whom, and the wire between its nodes and the coordinator.",
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "tags": [{"name": name} for name in dict.fromkeys(route.group for route in listed)],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "description": about}
                for name, about in sorted(schemes.items())
            },
        },
    }


_OPEN: tuple[Caller, ...] = ("anybody", "proof")


def statuses(route: Route) -> tuple[int, ...]:
    """Every status that ROUTE may answer, of success and of refusal."""
    found = {*route.statuses, *route.refuses, 503}
    has_body = route.body is not None or route.patches is not None or route.media is not None
    is_administrator = _security(route.role) == _ADMINISTRATOR
    if route.role not in _OPEN:
        found |= {401, 403, 429}
    if "{" in route.path:
        found.add(404)
    if has_body:
        found |= {400, 413, 415, 422}
    if is_administrator or route.query is not None:
        found.add(422)  # an unknown parameter, a malformed If-Match
    if route.guarded:
        found |= {412, 428}
    return tuple(sorted(found))


def _security(role: Caller) -> tuple[str, str]:
    return _SECURITY.get(role, _ADMINISTRATOR)


def _operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "tags": [route.group],
        "summary": route.summary,
        "security": [] if route.role in _OPEN else [{_security(route.role)[0]: []}],
        "parameters": [*_path(route), *_query(route, schemas), *_conditions(route)],
        "responses": _responses(route, schemas),
    }
    if route.role not in (*_OPEN, *_SECURITY):
        operation["description"] = f"Needs the role {route.role}."
    if (body := _body(route, schemas)) is not None:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _path(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{([a-z_]+)}", route.path)
    ]


def _query(route: Route, schemas: Schemas) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    hints, notes = typing.get_type_hints(route.query), field_notes(route.query)
    found = []
    for spec in dataclasses.fields(route.query):
        kind = scalar(hints[spec.name])
        schema = schemas.field(spec, kind)
        if kind is bool:  # in a URL there is one spelling
            schema = {"type": "boolean"}
        if spec.name in route.choices:
            schema = {"type": "string", "enum": list(route.choices[spec.name])}
        parameter = {"name": spec.metadata.get("key") or spec.name, "in": "query", "schema": schema}
        if note := notes.get(spec.name):
            parameter["description"] = note
        found.append(parameter)
    return found


def _conditions(route: Route) -> list[dict[str, Any]]:
    if not route.guarded:
        return []
    # Not `required`: to create something, PUT sends none, and 428 says the rest.
    about = "The ETag of what is to be changed, or * for whatever is there"
    tag = {"type": "string", "pattern": '^(\\*|"[0-9a-f]{64}"|"[0-9a-f]{32}/[0-9]+")$'}
    found = [{"name": "If-Match", "in": "header", "schema": tag, "description": about}]
    if 201 in route.statuses:
        none = {"type": "string", "enum": ["*"]}
        text = "* creates, and refuses what is there"
        found.append({"name": "If-None-Match", "in": "header", "schema": none, "description": text})
    return found


def _body(route: Route, schemas: Schemas) -> dict[str, Any] | None:
    if route.patches is not None:
        return {MERGE_PATCH: {"schema": schemas.patch(route.patches)}}
    if route.media is not None:
        return {route.media: {"schema": {"type": "string", "format": "binary"}}}
    if route.body is None:
        return None
    if route.repeats:
        return {JSON: {"schema": schemas.inline(route.body, optional=route.repeats)}}
    return {JSON: {"schema": schemas.of(route.body)}}


def _responses(route: Route, schemas: Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status in statuses(route):
        if status in route.statuses:
            found[str(status)] = _success(route, status, schemas)
            continue
        answer: dict[str, Any] = {
            "description": _REASONS[status],
            "content": {PROBLEM: {"schema": schemas.of(Problem)}},
        }
        found[str(status)] = answer
    return found


def _success(route: Route, status: int, schemas: Schemas) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if route.stream is not None:
        schema = {"type": "object" if route.stream == JSON else "string"}
        answer["content"] = {route.stream: {"schema": schema}}
    elif status != 204:
        answer["content"] = {JSON: {"schema": _answer(route, schemas)}}
    if route.tagged:
        about = "SHA-256 of the object as GET shows it"
        answer["headers"] = {
            "ETag": {"required": True, "description": about, "schema": {"type": "string"}}
        }
    return answer


def _answer(route: Route, schemas: Schemas) -> Schema:
    optional: dict[str, Schema] = {}
    if route.shape == "page":
        assert route.answer is not None
        properties: dict[str, Schema] = {
            "items": {"type": "array", "items": schemas.of(route.answer)},
            "next": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        }
    elif route.shape == "revised":
        known = {} if route.answer is None else schemas.inline(route.answer)["properties"]
        properties = {**known, "revision": schemas.of(Revision)}
        if route.query is DryRunQuery:
            optional = {"preview": schemas.of(Preview)}
    else:
        assert route.answer is not None
        return schemas.of(route.answer)
    return {
        "type": "object",
        "properties": {**properties, **optional},
        "required": list(properties),
        "additionalProperties": False,
    }
