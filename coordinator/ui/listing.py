"""A page of a collection: what was looked for, what was found, and where it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from flask import request

from coordinator.ui.inside import get
from coordinator.ui.kinds import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What `listed` found.

    finds      what was looked for, by the name of the field
    following  address of the next page; None: this is the last
    is_first   and `first`: its address
    """

    items: list[Any]
    finds: Mapping[str, str]
    following: str | None
    first: str
    is_first: bool


def listed(kind: Kind) -> Page:
    """The page of KIND's objects that the address asks for."""
    finds = {name: request.args.get(name, "").strip() for name, _ in kind.finds}
    query = {name: text for name, text in finds.items() if text}
    cursor = request.args.get("cursor")
    found = get(kind.path, {**query, **({"cursor": cursor} if cursor else {})}).body
    return Page(
        items=found["items"],
        finds=finds,
        following=_address({**query, "cursor": found["next"]}) if found["next"] else None,
        first=_address(query),
        is_first=not cursor,
    )


def _address(query: Mapping[str, str]) -> str:
    return f"{request.path}?{urlencode(query)}" if query else request.path
