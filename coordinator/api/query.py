"""Query parameters as a dataclass: the texts of a URL, then decoded like every body."""

from __future__ import annotations

import types
import typing
from typing import Any, TypeVar, Union, get_args, get_origin

from werkzeug.datastructures import MultiDict

from ztlab.errors import SchemaError
from ztlab.model import codec
from ztlab.model.codec import did_you_mean

T = TypeVar("T")
_BOOLS = {"true": True, "false": False}


def decode(kind: type[T] | None, given: MultiDict[str, str]) -> T | None:
    """GIVEN as a KIND (None: there are no parameters). SchemaError names each that is wrong."""
    hints = typing.get_type_hints(kind) if kind is not None else {}
    known = {} if kind is None else codec.keys(kind)
    faults = [
        f"{name}: unknown parameter{did_you_mean(name, known)}"
        for name in given
        if name not in known
    ]
    faults += [f"{name}: want no U+0000" for name in given if "\0" in given[name]]
    faults += [f"{name}: given twice" for name in given if len(given.getlist(name)) > 1]
    data = {name: _value(hints[known[name]], given[name]) for name in given if name in known}
    if kind is None or faults:
        if faults:
            raise SchemaError(faults)
        return None
    return codec.decode(kind, data)


def scalar(hint: Any) -> Any:
    """The type of a parameter that may be absent: of `int | None`, int."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(option for option in get_args(hint) if option is not type(None))
    return hint


def _value(hint: Any, text: str) -> Any:
    kind = scalar(hint)
    if kind is bool:
        return _BOOLS.get(text, text)
    digits = text.removeprefix("-")
    if kind is int and digits.isascii() and digits.isdigit() and len(digits) <= 19:
        return int(text)
    return text
