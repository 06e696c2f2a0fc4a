"""Prometheus text to samples: as much of the exposition format as an agent's /metrics uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One line of an exposition."""

    name: str
    labels: Mapping[str, str]
    value: float

    def has(self, labels: Mapping[str, str]) -> bool:
        """Does it carry all of LABELS? It may carry more."""
        return all(self.labels.get(key) == value for key, value in labels.items())


def parse(text: str) -> Iterator[Sample]:
    """Every sample in TEXT, comments left out; ValueError for a line that is none."""
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"not a Prometheus sample: {line!r}")
        labels = {
            key: re.sub(r"\\[n\"\\]", lambda m: _ESCAPES[m[0]], value)
            for key, value in _LABEL.findall(match[2] or "")
        }
        yield Sample(name=match[1], labels=labels, value=float(match[3]))


def total(text: str, name: str, labels: Mapping[str, str] | None = None) -> float | None:
    """The sum of NAME's samples that carry LABELS; None if there is no such sample."""
    values = [s.value for s in parse(text) if s.name == name and s.has(labels or {})]
    return sum(values) if values else None
