"""JSON Schemas (draft 2020-12, as OpenAPI 3.1 has them) of the dataclasses that the codec decodes.

One truth: what a schema refuses, `codec.decode` refuses. The other way round a check may know more
than a schema can say; what it can say, `codec.restricted` says at the check itself.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

from ztlab.model import codec

Schema = dict[str, Any]
_SCALARS: dict[Any, Schema] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    # As the codec has it: a bare `on` of YAML and the word are the same.
    bool: {
        "anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^([oO][nN]|[oO][fF]{2})$"}]
    },
}


class Schemas:
    """Schemas as they are asked for; those of dataclasses are kept under their names."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}
        self._kinds: dict[type, str] = {}

    def of(self, kind: Any) -> Schema:
        """The schema of KIND, by reference where it is a dataclass."""
        if dataclasses.is_dataclass(kind):
            return {"$ref": f"#/components/schemas/{self.name(kind)}"}
        origin, options = get_origin(kind), get_args(kind)
        if kind is Any:
            return {}
        if kind is None or kind is type(None):
            return {"type": "null"}
        if origin in (Union, types.UnionType):
            return _any_of([self.of(option) for option in options])
        if origin in (tuple, list):
            return {"type": "array", "items": self.of(options[0])}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(options[1])}
        if origin is typing.Literal:
            return {"enum": list(options)}
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return {"enum": [codec.encode(member) for member in kind]}
        return dict(_SCALARS[kind])

    def name(self, kind: Any) -> str:
        """The component that KIND is; it is made at first use."""
        if kind not in self._kinds:
            name = kind.__name__
            if name in self._kinds.values():  # two modules call different things alike
                name = kind.__module__.rpartition(".")[2].title().replace("_", "") + name
            self._kinds[kind] = name
            self.components[name] = {}  # it may refer to itself
            self.components[name] = self.inline(kind)
        return self._kinds[kind]

    def inline(self, kind: Any, *, optional: typing.Collection[str] = ()) -> Schema:
        """The schema of a dataclass itself; OPTIONAL: fields that may be left out here."""
        hints = typing.get_type_hints(kind)
        notes = field_notes(kind)
        properties, required = {}, []
        for spec in dataclasses.fields(kind):
            key = spec.metadata.get("key") or spec.name
            properties[key] = self.field(spec, hints[spec.name], notes.get(spec.name, ""))
            if _is_required(spec) and key not in optional:
                required.append(key)
        schema: Schema = {
            "type": "object",
            "description": summary(kind),
            "properties": properties,
            "additionalProperties": False,
        }
        return {**schema, "required": required} if required else schema

    def field(self, spec: dataclasses.Field[Any], hint: Any, note: str = "") -> Schema:
        """The schema of one field: its type, its check, its default, what is said of it."""
        schema = self.of(hint)
        check = spec.metadata.get("check")
        if check is not None and (limits := codec.restrictions(check)):
            schema = _limited(schema, limits)
        if spec.default is not dataclasses.MISSING and spec.default is not None:
            schema = {**schema, "default": codec.encode(spec.default)}
        note = spec.metadata.get("doc") or note
        return {**schema, "description": note} if note else schema

    def patch(self, kind: Any) -> Schema:
        """What may be merged into a KIND (RFC 7396): any of its fields, null takes it away."""
        schema = self.inline(kind)
        properties = {
            key: _any_of([value, {"type": "null"}]) for key, value in schema["properties"].items()
        }
        return {
            "type": "object",
            "description": f"{schema['description']} Null takes a field away.",
            "properties": properties,
            "additionalProperties": False,
        }


def summary(kind: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    text = inspect.getdoc(kind) or ""
    return " ".join(text.split("\n\n")[0].split())


def field_notes(kind: Any) -> dict[str, str]:
    """What a docstring's table says of each field: lines like `name    what it is`."""
    notes: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        names: tuple[str, ...] = ()
        for line in (inspect.cleandoc(base.__doc__ or "")).splitlines():
            if found := re.fullmatch(r"([a-z_]+(?:, [a-z_]+)*) {2,}(\S.*)", line):
                names = tuple(found[1].split(", "))
                notes |= dict.fromkeys(names, found[2])
            elif names and line.startswith("   "):
                notes |= {name: f"{notes[name]} {line.strip()}" for name in names}
            else:
                names = ()
    return notes


def _is_required(spec: dataclasses.Field[Any]) -> bool:
    return spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING


def _any_of(options: list[Schema]) -> Schema:
    plain: list[Schema] = []
    for option in options:
        plain += option["anyOf"] if set(option) == {"anyOf"} else [option]
    return {"anyOf": plain}


def _limited(schema: Schema, limits: Mapping[str, Any]) -> Schema:
    """SCHEMA and the LIMITS of a check, which sees everything but null."""
    if "anyOf" in schema and {"type": "null"} in schema["anyOf"]:
        options = [option for option in schema["anyOf"] if option != {"type": "null"}]
        inner = options[0] if len(options) == 1 else {"anyOf": options}
        return {"anyOf": [_limited(inner, limits), {"type": "null"}]}
    if "items" in limits and "items" in schema:
        return {**schema, **limits, "items": {**schema["items"], **limits["items"]}}
    return {**schema, **limits}
