"""What is not the same of an object before and after, field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def changes(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> list[tuple[str, str, str]]:
    """(field, before, after) of each field that is not the same; "" where it is not there."""
    old, new = before or {}, after or {}
    return [
        (name, _said(old, name), _said(new, name))
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _said(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
