"""How long each request took, by the template of its path and its status."""

from __future__ import annotations

import time

from flask import Flask, Response, g, request

from coordinator import counters

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


def install(app: Flask) -> None:
    """Let APP time every request. A stream counts until its head is made."""
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    g.begun_at = time.perf_counter()


def _end(response: Response) -> Response:
    rule = request.url_rule
    # What a stranger made up is no label.
    method = request.method if request.method in _METHODS else "other"
    route = "none" if rule is None else rule.rule
    took_s = time.perf_counter() - g.get("begun_at", time.perf_counter())
    counters.REQUESTS.labels(method, route, str(response.status_code)).observe(took_s)
    return response
