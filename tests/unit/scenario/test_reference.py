"""docs/SCENARIOS.md names every word a scenario file may use, and no other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from ztlab.scenario import expect, model, steps

PAGE = (Path(__file__).parents[3] / "docs" / "SCENARIOS.md").read_text(encoding="utf-8")
CLASSES = [
    kind
    for module in (model, steps, expect)
    for kind in vars(module).values()
    if dataclasses.is_dataclass(kind)
    and getattr(kind, "__module__", "") == module.__name__
    and kind is not steps.Target
]


def keys(kind: Any) -> list[str]:
    """The keys of one mapping, as the file spells them."""
    return [f.metadata.get("key") or f.name for f in dataclasses.fields(kind)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_key_is_in_the_reference(kind: Any) -> None:
    missing = [key for key in keys(kind) if not re.search(rf"`{key}\b[^`]*`", PAGE)]
    assert missing == []


def test_the_first_column_of_the_reference_names_only_keys() -> None:
    known = {key for kind in CLASSES for key in keys(kind)}
    named = [
        word
        for line in PAGE.splitlines()
        if line.startswith("| `")
        for word in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert len(named) > 30
    assert set(named) <= known
