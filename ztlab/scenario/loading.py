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

_PART = re.compile(r"[^.\[\]]+|\[\d+\]")


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
    for _ in range(4):  # cutting a key out can leave its parent incomplete, so cut again, higher
        for problem in problems:
            data = _without(data, problem.partition(": ")[0])
        try:
            return list(name_faults(decode(Scenario, data), names))
        except SchemaError as error:
            problems = tuple(_parent_of_missing(problem) for problem in error.problems)
    return []


def _parent_of_missing(problem: str) -> str:
    path, _, message = problem.partition(": ")
    if message == "missing" and "." in path:
        path = path.rpartition(".")[0]
    return f"{path}: {message}"


def _without(value: Any, path: str) -> Any:
    """VALUE without what stands at PATH; a step is replaced by one that does nothing."""
    return _cut(value, _PART.findall(path), depth=0)


_NOTHING = {"name": "cut out", "stop_stream": ""}


def _cut(value: Any, parts: list[str], *, depth: int) -> Any:
    if not parts:
        return value
    head, rest = parts[0], parts[1:]
    if depth == 0 and head in ("name", "steps") and len(rest) == 0:
        return {**value, head: "cut-out" if head == "name" else []}
    if depth == 0 and head == "nodes" and not rest:
        return {**value, head: {}}
    if depth == 1 and head.startswith("[") and isinstance(value, list):  # one step
        index = int(head[1:-1])
        return [_NOTHING if i == index else item for i, item in enumerate(value)]
    if not isinstance(value, Mapping) or head not in value:
        return value
    if rest and not rest[0].startswith("[") or head == "steps":
        return {**value, head: _cut(value[head], rest, depth=depth + 1)}
    return {key: item for key, item in value.items() if key != head}
