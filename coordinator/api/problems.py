"""Every error as an RFC 9457 problem document."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

from flask import Flask, Response
from sqlalchemy.exc import DataError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection
from werkzeug.exceptions import HTTPException

from coordinator.errors import (
    Conflict,
    Forbidden,
    PreconditionFailed,
    PreconditionMissing,
    Unauthenticated,
)
from ztlab.errors import NotFound, SchemaError, ZtError

log = logging.getLogger(__name__)

_STATUS: dict[type[ZtError], tuple[int, str]] = {
    SchemaError: (422, "The content is not what it should be"),
    Unauthenticated: (401, "Not authenticated"),
    Forbidden: (403, "Not allowed"),
    NotFound: (404, "Not found"),
    Conflict: (409, "Conflict"),
    PreconditionFailed: (412, "Precondition failed"),
    PreconditionMissing: (428, "Precondition required"),
}


def install(app: Flask) -> None:
    """Let APP answer every error, its own and the framework's, with a problem document."""
    app.register_error_handler(ZtError, domain)
    app.register_error_handler(HTTPException, _http)
    for failure in (OperationalError, InterfaceError, NoConnection):
        app.register_error_handler(failure, _store)
    app.register_error_handler(DataError, _not_storable)
    app.register_error_handler(Exception, _bug)


def problem(
    status: int, title: str, detail: str, errors: Iterable[dict[str, str]] = ()
) -> Response:
    """A problem document; `errors` only where there are some."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
    }
    if found := list(errors):
        body["errors"] = found
    return Response(json.dumps(body), status, content_type="application/problem+json")


def domain(error: ZtError) -> Response:
    """The answer to what the domain refused; 500 for what it should not have raised."""
    status, title = 500, "Internal error"
    for kind, answer in _STATUS.items():
        if isinstance(error, kind):
            status, title = answer
    if status == 500:
        log.error("%s", error)
        return problem(
            status, title, "the request failed here; the log of the coordinator says why"
        )
    problems = error.problems if isinstance(error, (SchemaError, Conflict)) else ()
    detail = str(error)
    if isinstance(error, SchemaError):
        detail = f"{len(problems)} fault{'s' if len(problems) != 1 else ''}"
    if error.hint:
        detail += f" ({error.hint})"
    response = problem(status, title, detail, map(_fault, problems))
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _fault(line: str) -> dict[str, str]:
    path, _, message = line.partition(": ")
    return {"path": path, "message": message}


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    answer = problem(status, error.name, error.description or error.name)
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            answer.headers[name] = value  # Allow, Retry-After
    return answer


def _store(error: SQLAlchemyError) -> Response:
    """A full disk, a lock that is held too long, a server that is away: nothing was written, and
    it may pass."""
    log.error("the store failed: %s", getattr(error, "orig", error))
    return problem(503, "Service unavailable", "the store cannot be used now; nothing was changed")


def _not_storable(error: DataError) -> Response:
    """PostgreSQL keeps no NUL character in a text; SQLite does, and nobody needs it."""
    log.info("the store refused a value: %s", error.orig)
    return problem(
        422, _STATUS[SchemaError][1], "the store cannot hold a text with such characters"
    )


def _bug(error: Exception) -> Response:
    log.error("unhandled error", exc_info=error)
    return problem(
        500, "Internal error", "the request failed here; the log of the coordinator says why"
    )
