"""/openapi.json and /docs: the description for programs and for people. Nothing in it is secret."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from coordinator.api.openapi.document import document
from coordinator.api.route import JSON, Reply, Route

_HERE = Path(__file__).parent
_STYLE = (_HERE / "page.css").read_text(encoding="utf-8")
# The page has one style sheet, inside, and may load and run nothing at all.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def routes(listed: Callable[[], tuple[Route, ...]]) -> tuple[Route, ...]:
    """The two, describing what LISTED returns; it is asked when the first of them is read."""

    @cache
    def described() -> dict[str, Any]:
        return document(listed(), version("ztlab"))

    @cache
    def as_json() -> bytes:
        return json.dumps(described(), indent=1).encode()

    @cache
    def as_page() -> bytes:
        return render(described()).encode()

    return (
        Route(
            method="GET",
            path="/openapi.json",
            view=lambda _: Reply(content=as_json()),
            summary="This description, as OpenAPI 3.1",
            group="description",
            role="anybody",
            stream=JSON,
        ),
        Route(
            method="GET",
            path="/docs",
            view=lambda _: Reply(content=as_page(), headers=_HEADERS),
            summary="This description, as a page",
            group="description",
            role="anybody",
            stream="text/html; charset=utf-8",
        ),
    )


def render(described: dict[str, Any]) -> str:
    """An OpenAPI document as one HTML page, without scripts."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["type"] = shown
    return environment.get_template("page.html").render(document=described, style=_STYLE)


def shown(schema: dict[str, Any]) -> str:
    """A schema in a few words: `string | null`, `list of Rule`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(shown(option) for option in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {shown(schema['items'])}"
    if schema.get("type") == "object":
        more = schema.get("additionalProperties")
        return f"map to {shown(more)}" if isinstance(more, dict) else "object"
    return str(schema.get("type", "anything"))
