"""A YAML file as plain data that remembers where each value stood, so that a fault can say it.

Paths are spelled as ztlab.model.codec spells them: `nodes.bob.listen[0]`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from ztlab.errors import SchemaError

_MERGE = "tag:yaml.org,2002:merge"
_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place in a file; line and column count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One YAML document.

    source  how messages call the file
    data    dictionaries, lists and scalars
    keys    path of each mapping entry to where its key stands
    values  path of each scalar to where it stands, of a list or mapping to where its key stands
    """

    source: str
    data: Any
    keys: dict[str, Mark] = field(default_factory=dict)
    values: dict[str, Mark] = field(default_factory=dict)

    def place(self, fault: str) -> str:
        """FAULT ("path: what is wrong") with file, line and column before it."""
        mark = self.mark(fault)
        return f"{self.source}:{mark.line}:{mark.column}: {fault}"

    def mark(self, fault: str) -> Mark:
        """Where FAULT stands; of a path that is not in the file, its nearest ancestor."""
        path, _, message = fault.partition(": ")
        at_key = message.startswith("unknown key")
        while path and path not in self.values:
            path, at_key = _parent(path), True
        if at_key and path in self.keys:
            return self.keys[path]
        return self.values.get(path) or Mark(line=1, column=1)

    def ordered(self, faults: Iterable[str]) -> list[str]:
        """FAULTS, each once and with its place, in the order of the file."""
        once = dict.fromkeys(faults)
        by_place = sorted(once, key=lambda f: (self.mark(f).line, self.mark(f).column))
        return [self.place(fault) for fault in by_place]


def parse(text: str, source: str) -> Document:
    """TEXT as one YAML document; SchemaError for bad syntax, duplicate keys or an empty file."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SchemaError([f"{source}:{line}:1: not a text file: {error.reason}"]) from None
    except yaml.MarkedYAMLError as error:
        raise SchemaError([_syntax_fault(error, source)]) from None
    if root is None:
        raise SchemaError(
            [f"{source}:1:1: the file is empty"],
            hint="a scenario needs at least `name`, `nodes` and `steps`",
        )
    walk = _Walk(loader)
    data = walk.build(root, "")
    document = Document(source=source, data=data, keys=walk.keys, values=walk.values)
    if walk.faults:
        raise SchemaError([f"{source}:{m.line}:{m.column}: {fault}" for m, fault in walk.faults])
    return document


def _syntax_fault(error: yaml.MarkedYAMLError, source: str) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
    reason = error.problem or "cannot be read"
    if "'\\t'" in reason:
        reason = "a tab character; YAML wants blanks for indentation"
    context = f" ({error.context})" if error.context else ""
    return f"{source}:{place}: not YAML: {reason}{context}"


def _parent(path: str) -> str:
    if path.endswith("]"):
        return path[: path.rindex("[")]
    head, dot, _ = path.rpartition(".")
    return head if dot else ""


class _Walk:
    """Builds plain data from PyYAML's composed nodes, collecting marks and faults on the way."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self._loader = loader
        self._open: set[int] = set()
        self.keys: dict[str, Mark] = {}
        self.values: dict[str, Mark] = {}
        self.faults: list[tuple[Mark, str]] = []

    def build(self, node: yaml.Node, path: str) -> Any:
        is_scalar = isinstance(node, yaml.ScalarNode)
        self.values[path] = _mark(node) if is_scalar else self.keys.get(path, _mark(node))
        if id(node) in self._open:
            self._fault(node, path, "an alias to the value that contains it")
            return None
        self._open.add(id(node))
        try:
            if not is_scalar and node.tag not in _PLAIN:
                self._fault(node, path, f"the tag {node.tag!r} means nothing here")
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, f"{path}[{i}]") for i, item in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _scalar(self, node: yaml.Node, path: str) -> Any:
        try:
            return self._loader.construct_object(node, deep=True)
        except yaml.MarkedYAMLError as error:
            self._fault(node, path, error.problem or "cannot be read")
        except ValueError as error:
            self._fault(node, path, str(error))
        return None

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        first_line: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self._scalar(key_node, path)
            where = f"{path}.{key}" if path else str(key)
            if not isinstance(key, Hashable):
                self._fault(key_node, path, "want a text as key, got a list or a mapping")
                continue
            if key in first_line:
                self._fault(key_node, where, f"duplicate key, first on line {first_line[key]}")
                continue
            first_line[key] = _mark(key_node).line
            self.keys[where] = _mark(key_node)
            result[key] = self.build(value_node, where)
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                self._merge(value_node, path, result)
        return result

    def _merge(self, node: yaml.Node, path: str, result: dict[Any, Any]) -> None:
        """`<<: *other`: what is written here wins over what is merged in."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                self._fault(source, path, "`<<` wants a mapping to merge in")
                continue
            inner = _Walk(self._loader)
            inner._open = self._open
            for key, value in inner.build(source, path).items():
                result.setdefault(key, value)
            self.faults.extend(inner.faults)
            self.keys = inner.keys | self.keys
            self.values = inner.values | self.values

    def _fault(self, node: yaml.Node, path: str, message: str) -> None:
        self.faults.append((_mark(node), f"{path}: {message}" if path else message))


def _mark(node: yaml.Node) -> Mark:
    return Mark(line=node.start_mark.line + 1, column=node.start_mark.column + 1)
