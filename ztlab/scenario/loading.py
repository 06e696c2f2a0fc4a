"""From a file to a Scenario: every fault at once, each with its place, and the doubtful things."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ztlab.errors import NotFound, SchemaError
from ztlab.model.codec import decode
from ztlab.scenario.check import Names, name_faults, sense_faults
from ztlab.scenario.document import Document, parse
from ztlab.scenario.doubts import doubts
from ztlab.scenario.expect import LISTS
from ztlab.scenario.model import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A sound scenario and what is doubtful about it.

    warnings  one line each, with file, line and column
    """

    scenario: Scenario
    warnings: tuple[str, ...]


def load(path: str | Path) -> Scenario:
    """The scenario in the file PATH; SchemaError with every fault in it, NotFound if unreadable."""
    return examine(path).scenario


def examine(path: str | Path) -> Examined:
    """Like `load`, with the warnings as well."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SchemaError([f"{path}:1:1: not UTF-8 text: {error.reason}"]) from None
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from None
    return examine_document(parse(text, str(path)))


def from_data(data: Mapping[str, Any], *, source: str = "scenario") -> Scenario:
    """A scenario from plain data, as a test may write it in Python; SchemaError likewise."""
    return examine_document(Document(source=source, data=data)).scenario


def examine_document(document: Document) -> Examined:
    """DOCUMENT as a scenario; SchemaError with every fault found, in the order of the file."""
    data, wrapped = _normalised(document.data)
    try:
        scenario = decode(Scenario, data)
    except SchemaError as error:
        faults = [*error.problems, *_name_faults_of_the_rest(data, error.problems)]
    else:
        faults = list(name_faults(scenario, Names.of(data))) or list(sense_faults(scenario))
    if faults:
        raise SchemaError(document.ordered(_unwrapped(fault, wrapped) for fault in faults))
    warnings = document.ordered(_unwrapped(doubt, wrapped) for doubt in doubts(scenario))
    return Examined(scenario=scenario, warnings=tuple(warnings))


def _normalised(data: Any) -> tuple[Any, frozenset[str]]:
    """DATA with the short forms written out, and the paths of the lists that were added.

    Short forms: `alice:` for `alice: {}`, and one `metric: {…}` where a list may stand.
    """
    if not isinstance(data, Mapping):
        return data, frozenset()
    data = dict(data)
    if isinstance(data.get("nodes"), Mapping):
        data["nodes"] = {k: {} if v is None else v for k, v in data["nodes"].items()}
    wrapped: set[str] = set()
    if isinstance(data.get("steps"), list):
        steps = []
        for i, step in enumerate(data["steps"]):
            if isinstance(step, Mapping) and isinstance(step.get("expect"), Mapping):
                expect = dict(step["expect"])
                for key in LISTS:
                    if isinstance(expect.get(key), Mapping):
                        expect[key] = [expect[key]]
                        wrapped.add(f"steps[{i}].expect.{key}")
                step = {**step, "expect": expect}
            steps.append(step)
        data["steps"] = steps
    return data, frozenset(wrapped)


def _unwrapped(fault: str, wrapped: frozenset[str]) -> str:
    """FAULT with the path as the file has it, without the lists `_normalised` added."""
    path, colon, message = fault.partition(": ")
    match = re.match(r"(steps\[\d+\]\.expect\.\w+)\[0\]", path)
    if match and match[1] in wrapped:
        path = match[1] + path[match.end() :]
    return path + colon + message


def _name_faults_of_the_rest(data: Any, problems: tuple[str, ...]) -> list[str]:
    """Wrong names in what is left of DATA when all that is faulty is cut out of it."""
    if not isinstance(data, Mapping):
        return []
    names = Names.of(data)
    for _ in range(5):  # cutting a key out can leave its parent incomplete, so cut again, higher
        for problem in problems:
            path, _, message = problem.partition(": ")
            data = _cut(data, _parts(path, is_missing=message == "missing"))
        try:
            return list(name_faults(decode(Scenario, data), names))
        except SchemaError as error:
            problems = error.problems
    return []


# What must be there, in place of what is cut out.
_PLACEHOLDERS: dict[tuple[str, ...], Any] = {
    ("name",): "cut-out",
    ("nodes",): {},
    ("steps",): [],
    ("steps", "*"): {"name": "cut out", "stop_stream": ""},
    ("steps", "*", "name"): "cut out",
}


def _parts(path: str, *, is_missing: bool) -> tuple[str, ...]:
    """Which part to cut for a fault at PATH: never one item of a list, but for a whole step."""
    parts = tuple(re.findall(r"[^.\[\]]+|\[\d+\]", path))
    if is_missing and _shape(parts) not in _PLACEHOLDERS:
        parts = parts[:-1]
    start = 2 if parts[:1] == ("steps",) else 0
    for i, part in enumerate(parts):
        if i >= start and part.startswith("["):
            return parts[:i]
    return parts


def _shape(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("*" if part.startswith("[") else part for part in parts)


def _cut(data: Any, parts: tuple[str, ...], done: tuple[str, ...] = ()) -> Any:
    """DATA without the part at PARTS, or with its placeholder; as it is where there is no such."""
    if not parts:
        return data
    head, rest = parts[0], parts[1:]
    here = (*done, head)
    if head.startswith("[") and isinstance(data, list):
        index = int(head[1:-1])
        new = _cut(data[index], rest, here) if rest else _PLACEHOLDERS[_shape(here)]
        return [new if i == index else item for i, item in enumerate(data)]
    if not isinstance(data, Mapping):
        return data
    if rest:
        return {k: _cut(v, rest, here) if k == head else v for k, v in data.items()}
    left = {k: v for k, v in data.items() if k != head}
    if _shape(here) in _PLACEHOLDERS:
        left[head] = _PLACEHOLDERS[_shape(here)]
    return left
