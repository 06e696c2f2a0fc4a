"""Every refusal of a caller: counted, noted, and beyond the limit answered with 429."""

from __future__ import annotations

import math

from flask import Flask, Response, request

from coordinator import clock, limits
from coordinator.api import problems
from coordinator.api.context import Service, service
from coordinator.errors import Forbidden, TooMany, Unauthenticated
from coordinator.refusals import Refusal
from ztlab.errors import SchemaError

# What strangers may ask for, and what it is called where it is counted.
_PROOFS = {
    "/api/v1/node/challenge": "challenge",
    "/api/v1/node/enrol": "enrol",
    "/api/v1/node/token": "token",
    "/api/v1/node/rotate": "rotate",
}


def install(app: Flask) -> None:
    """Let APP note whom it refuses. After problems.install: these handlers are the nearer ones."""
    app.register_error_handler(Unauthenticated, _unauthenticated)
    app.register_error_handler(Forbidden, _forbidden)
    app.register_error_handler(SchemaError, _malformed)
    app.register_error_handler(TooMany, too_many)


def source() -> str:
    """Where the current request comes from."""
    forwarded = request.headers.get("X-Forwarded-For")
    return limits.source(request.remote_addr, forwarded, service().trusted_proxies)


def forged_session() -> float:
    """Note a cookie that is no session's. 0.0, or for how many seconds its source has to wait."""
    return _note(service(), Refusal(what="login", reason="unknown_token", source=source()))


def check_challenge(key: str) -> None:
    """TooMany if this source asked for challenges for KEY too often."""
    wait_s = service().refusals.may_challenge(source(), key)
    if wait_s:
        raise TooMany("too many challenges for this key from this address", wait_s)


def too_many(error: TooMany) -> Response:
    """429, and when to come back (RFC 6585 section 4)."""
    answer = problems.problem(429, "Too many requests", str(error))
    answer.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return answer


def _unauthenticated(error: Unauthenticated) -> Response:
    what = _what()
    found = Refusal(what=what, reason=error.reason, source=source(), subject=error.subject)
    wait_s = _note(service(), found)
    # A node whose token is not known any more is told so, always: it proves its key and goes on,
    # and after a restore from a backup these are all nodes, perhaps behind one address.
    if wait_s and what != "node":
        return too_many(TooMany("too many refusals for this address or key", wait_s))
    return problems.domain(error)


def _forbidden(error: Forbidden) -> Response:
    found = Refusal(what=_what(), reason=error.reason, source=source(), subject=error.subject)
    _note(service(), found)
    return problems.domain(error)


def _malformed(error: SchemaError) -> Response:
    """A body that is wrong is a refusal where strangers send it: a key that is none, say."""
    if (what := _PROOFS.get(request.path)) is not None:
        wait_s = _note(service(), Refusal(what=what, reason="malformed", source=source()))
        if wait_s:
            return too_many(TooMany("too many refusals for this address", wait_s))
    return problems.domain(error)


def _note(here: Service, refusal: Refusal) -> float:
    wait_s = here.refusals.failed(refusal)
    if not wait_s:
        here.refusals.note(here.store, refusal, clock.now())
    return wait_s


def _what() -> str:
    if (what := _PROOFS.get(request.path)) is not None:
        return what
    return "node" if request.path.startswith("/api/v1/node/") else "admin"
