"""Plain data (JSON, YAML) to frozen dataclasses and back: strict, with the path of every fault.

`decode(NodeConfig, data)` accepts exactly what the dataclass describes: an unknown key, a missing
one or a wrong type is a fault, faults are collected, and each names its path, what was wanted and
what was found, with a "did you mean" where a name is close.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

from ztlab.errors import SchemaError

T = TypeVar("T")
_MANY = 200
_PLAIN = frozenset({str, int, float, bool, type(None)})
_Check = TypeVar("_Check", bound=Callable[..., None])
_restrictions: dict[Callable[..., None], Mapping[str, Any]] = {}


def field(
    *,
    check: Callable[[Any], None] | None = None,
    default: Any = dataclasses.MISSING,
    default_factory: Any = dataclasses.MISSING,
    doc: str = "",
    key: str = "",
) -> Any:
    """A dataclass field with a validator.

    check  called with the decoded value; raises ValueError with what was wanted and found
    doc    one line for people, carried into schemas
    key    the spelling outside Python, where it is a keyword there ("from")
    """
    metadata = {"check": check, "doc": doc, "key": key}
    return dataclasses.field(default=default, default_factory=default_factory, metadata=metadata)


def restricted(**schema: Any) -> Callable[[_Check], _Check]:
    """Say in JSON Schema what a check refuses: @restricted(minimum=1, maximum=100).

    It must be true, and need not be all: a check may know more than a schema can say.
    """

    def note(check: _Check) -> _Check:
        _restrictions[check] = schema
        return check

    return note


def restrictions(check: Callable[..., None]) -> Mapping[str, Any]:
    """What was said of CHECK in JSON Schema; empty if nothing was."""
    return _restrictions.get(check, {})


def decode(kind: type[T], data: Any, *, path: str = "") -> T:
    """DATA as a KIND; SchemaError with every fault found."""
    faults: list[str] = []
    value = _decode(kind, data, path, faults)
    if faults:
        raise SchemaError(faults)
    return typing.cast(T, value)


def encode(value: Any) -> Any:
    """A dataclass (or list, dict, enum, scalar of them) as plain data that `decode` reads back."""
    if type(value) in _PLAIN:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: encode(getattr(value, name)) for key, name in _keys(type(value))}
    if isinstance(value, enum.Enum):
        return value.name.lower() if isinstance(value, enum.IntEnum) else value.value
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(encode(v) for v in value)  # a set has no order, a digest needs one
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    return value


def keys(kind: type) -> dict[str, str]:
    """The fields of a dataclass: each one's spelling outside Python to the one inside."""
    return {f.metadata.get("key") or f.name: f.name for f in dataclasses.fields(kind)}


def canonical(value: Any) -> bytes:
    """The one byte string for VALUE: JSON, keys sorted, no blanks, ASCII only."""
    text = json.dumps(
        encode(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.encode("ascii")


def digest(value: Any) -> str:
    """SHA-256 of the canonical form, in lower-case hexadecimal (64 characters)."""
    return hashlib.sha256(canonical(value)).hexdigest()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean "identity"?)' or nothing."""
    close = _closest(word, known)
    return f' (did you mean "{close}"?)' if close else ""


def _closest(word: str, known: Iterable[str]) -> str | None:
    names = sorted(known)
    if len(names) > _MANY:  # to compare with ten thousand takes longer than what was asked for
        names = [name for name in names if name[:1] == word[:1] and abs(len(name) - len(word)) < 4]
    return next(iter(difflib.get_close_matches(word, names[:_MANY], n=1, cutoff=0.6)), None)


def _decode(kind: Any, data: Any, path: str, faults: list[str]) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return data
    if origin in (Union, types.UnionType):
        return _decode_union(kind, data, path, faults)
    if origin in (tuple, list):
        return _decode_sequence(kind, data, path, faults)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _decode_mapping(kind, data, path, faults)
    if origin is typing.Literal:
        return _decode_literal(kind, data, path, faults)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _decode_enum(kind, data, path, faults)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, path, faults)
    return _decode_scalar(kind, data, path, faults)


def _fault(path: str, wanted: str, data: Any, faults: list[str], extra: str = "") -> None:
    faults.append(f"{path or 'document'}: want {wanted}, got {describe(data)}{extra}")


def describe(data: Any) -> str:
    """A found value, short enough for an error line: `'25s'`, `a list of 3`, `nothing`."""
    if data is None:
        return "nothing"
    if isinstance(data, Mapping):
        return "a mapping"
    if isinstance(data, (list, tuple)):
        return f"a list of {len(data)}"
    text = repr(data)
    return text if len(text) <= 60 else text[:57] + "..."


def _decode_scalar(kind: Any, data: Any, path: str, faults: list[str]) -> Any:
    if kind is bool:
        # YAML 1.1 reads a bare `on` as True; a JSON writer may say "on". Both are accepted.
        if isinstance(data, str) and data.lower() in ("on", "off"):
            return data.lower() == "on"
        if isinstance(data, bool):
            return data
        _fault(path, "on or off", data, faults)
        return None
    if kind is int and isinstance(data, int) and not isinstance(data, bool):
        return data
    is_number = isinstance(data, (int, float)) and not isinstance(data, bool)
    if kind is float and is_number and math.isfinite(data):
        return float(data)
    if kind is str and isinstance(data, str):
        return data
    words = {int: "a whole number", float: "a number", str: "a text"}
    _fault(path, words.get(kind, getattr(kind, "__name__", str(kind))), data, faults)
    return None


def _decode_union(kind: Any, data: Any, path: str, faults: list[str]) -> Any:
    options = get_args(kind)
    if data is None and type(None) in options:
        return None
    options = tuple(o for o in options if o is not type(None))
    if len(options) == 1:
        return _decode(options[0], data, path, faults)
    attempts: list[list[str]] = []
    for option in options:
        attempt: list[str] = []
        value = _decode(option, data, path, attempt)
        if not attempt:
            return value
        attempts.append(attempt)
    faults.extend(_faults_of_union(attempts, path))
    return None


def _faults_of_union(attempts: list[list[str]], path: str) -> list[str]:
    """One line where every option wanted a plain value; else what the best fitting one said."""
    head = f"{path or 'document'}: want "
    if all(len(attempt) == 1 and attempt[0].startswith(head) for attempt in attempts):
        parts = [attempt[0].removeprefix(head).partition(", got ") for attempt in attempts]
        return [f"{head}{' or '.join(wanted for wanted, _, _ in parts)}, got {parts[0][2]}"]
    # The fault that lies deepest: the option that DATA was most likely meant to be.
    return max(attempts, key=lambda attempt: max(map(len, attempt)))


def _decode_sequence(kind: Any, data: Any, path: str, faults: list[str]) -> Any:
    item = get_args(kind)[0]
    if not isinstance(data, (list, tuple)):
        _fault(path, "a list", data, faults)
        return ()
    values = [_decode(item, value, f"{path}[{i}]", faults) for i, value in enumerate(data)]
    return tuple(values) if get_origin(kind) is tuple else values


def _decode_mapping(kind: Any, data: Any, path: str, faults: list[str]) -> Any:
    item = get_args(kind)[1]
    if not isinstance(data, Mapping):
        _fault(path, "a mapping", data, faults)
        return {}
    result = {}
    for key, value in data.items():
        if not isinstance(key, str):
            _fault(f"{path}.{key}" if path else str(key), "a text as key", key, faults)
            continue
        result[key] = _decode(item, value, f"{path}.{key}" if path else key, faults)
    return result


def _decode_literal(kind: Any, data: Any, path: str, faults: list[str]) -> Any:
    options = get_args(kind)
    for option in options:
        if type(option) is type(data) and option == data:
            return option
    wanted = " | ".join(str(o) for o in options)
    hint = did_you_mean(data, map(str, options)) if isinstance(data, str) else ""
    _fault(path, wanted, data, faults, hint)
    return None


def _decode_enum(kind: type[enum.Enum], data: Any, path: str, faults: list[str]) -> Any:
    words = {
        (member.name.lower() if issubclass(kind, enum.IntEnum) else str(member.value)): member
        for member in kind
    }
    if isinstance(data, str) and data in words:
        return words[data]
    hint = did_you_mean(data, words) if isinstance(data, str) else ""
    _fault(path, " | ".join(words), data, faults, hint)
    return None


def _decode_dataclass(kind: Any, data: Any, path: str, faults: list[str]) -> Any:
    if not isinstance(data, Mapping):
        _fault(path, "a mapping", data, faults)
        return None
    hints = _hints(kind)
    fields = {f.metadata.get("key") or f.name: f for f in dataclasses.fields(kind)}
    before = len(faults)
    misspelt = _unknown_keys(data, fields, path, faults)
    values: dict[str, Any] = {}
    for key, spec in fields.items():
        where = f"{path}.{key}" if path else key
        if key not in data:
            is_required = (
                spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
            )
            if is_required and key not in misspelt:
                faults.append(f"{where}: missing")
            continue
        count = len(faults)
        value = _decode(hints[spec.name], data[key], where, faults)
        check = spec.metadata.get("check")
        if len(faults) == count and check is not None and value is not None:
            try:
                check(value)
            except ValueError as error:
                faults.append(f"{where}: {error}")
        values[spec.name] = value
    if len(faults) > before:
        return None
    try:
        return kind(**values)
    except ValueError as error:
        faults.append(f"{path or 'document'}: {error}")
        return None


@functools.cache
def _keys(kind: type[Any]) -> tuple[tuple[str, str], ...]:
    """(the key outside Python, the attribute) of each field."""
    return tuple((f.metadata.get("key") or f.name, f.name) for f in dataclasses.fields(kind))


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields: evaluated once, and not for each of ten thousand rules."""
    return typing.get_type_hints(kind)


def _unknown_keys(
    data: Mapping[Any, Any], fields: Iterable[str], path: str, faults: list[str]
) -> set[str]:
    """One fault for each key of DATA that is none of FIELDS; the fields that were meant by them."""
    known = sorted(fields)
    absent = [name for name in known if name not in data]
    meant = set()
    for key in data:
        if key in known:
            continue
        where = f"{path}.{key}" if path else str(key)
        close = _closest(str(key), absent) or _closest(str(key), known)
        hint = f' (did you mean "{close}"?)' if close else ""
        faults.append(f"{where}: unknown key{hint}; known: {', '.join(known)}")
        meant.add(close or "")
    return meant
