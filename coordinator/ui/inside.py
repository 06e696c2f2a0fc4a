"""Asking the management API from inside its own process, with the authority of the browser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from flask import current_app, request
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Response

from ztlab.model import codec

COOKIE = "__Host-ztlab"
ROOT = "/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the API said.

    body  the decoded JSON; None: there was none
    tag   the ETag header, quotes and all; None: the object has none
    """

    status: int
    body: Any
    tag: str | None = None

    @property
    def is_ok(self) -> bool:
        return self.status < 400

    @property
    def detail(self) -> str:
        """Of a refusal: what was wrong, in one line."""
        return str(self.body.get("detail") or self.body.get("title")) if self.body else ""

    @property
    def faults(self) -> tuple[tuple[str, str], ...]:
        """Of a refusal: (path, message) of each fault."""
        listed = self.body.get("errors", ()) if self.body else ()
        return tuple((fault["path"], fault["message"]) for fault in listed)


class Refusal(Exception):
    """The API did not give what a page cannot do without."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.detail)
        self.answer = answer


def ask(
    method: str,
    path: str,
    body: Any = None,
    *,
    query: Mapping[str, str] | None = None,
    tag: str | None = None,
    token: str | None = None,
) -> Answer:
    """One request to PATH below /api/v1, in the name of the browser's session.

    tag    sent as If-Match, so that what somebody else changed meanwhile is not overwritten
    token  whose authority to use instead of the session's
    """
    bearer = token or request.cookies.get(COOKIE, "")
    if not is_line(bearer) or not is_line(tag or ""):
        return Answer(status=400, body={"detail": "a text in the form is none of ours"}, tag=None)
    headers = {"Authorization": f"Bearer {bearer}"}
    if tag is not None:
        headers["If-Match"] = tag
    if (forwarded := request.headers.get("X-Forwarded-For")) is not None:
        headers["X-Forwarded-For"] = forwarded  # whose guess it is, behind a trusted proxy
    builder = EnvironBuilder(
        ROOT + path,
        base_url=request.host_url,
        query_string=dict(query or {}),
        method=method,
        headers=Headers(headers),
        content_type=None if body is None else _media(method),
        data=None if body is None else codec.canonical(body),
        environ_base={"REMOTE_ADDR": request.remote_addr or ""},
    )
    response = Response.from_app(current_app.wsgi_app, builder.get_environ(), buffered=True)
    raw = response.get_data()
    return Answer(
        status=response.status_code,
        body=json.loads(raw) if raw else None,
        tag=response.headers.get("ETag"),
    )


def is_line(text: str) -> bool:
    """May TEXT stand in a header? What a browser sends may have anything in it."""
    return text.isascii() and (not text or text.isprintable())


def get(path: str, query: Mapping[str, str] | None = None) -> Answer:
    """What is at PATH; Refusal if it is not to be had."""
    answer = ask("GET", path, query=query)
    if not answer.is_ok:
        raise Refusal(answer)
    return answer


def write(method: str, path: str, body: Any = None, *, tag: str | None = None) -> Answer:
    """Likewise for a form: where it was sent by the button that only asks, nothing is written."""
    query = {"dry_run": "true"} if is_asked_only() else None
    return ask(method, path, body, query=query, tag=tag)


def is_asked_only() -> bool:
    """Was this form sent to learn what it would change?"""
    return "preview" in request.form


def at(collection: str, name: str) -> str:
    """The path of the object NAME in COLLECTION."""
    return f"{collection}/{quote(name, safe='')}"


def _media(method: str) -> str:
    return "application/merge-patch+json" if method == "PATCH" else "application/json"
