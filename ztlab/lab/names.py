"""Names of labs and nodes, and what a user may write where a node is wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ztlab.errors import SchemaError, ZtError

_LAB = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


def check_lab_name(name: str) -> str:
    """NAME, if a lab may be called so: 1 to 32 of a-z, 0-9 and -; SchemaError otherwise.

    No dot, so that `<lab>.<node>` splits in one way only.
    """
    if not _LAB.fullmatch(name):
        raise SchemaError(
            [
                f"name: want 1 to 32 of a-z, 0-9 and '-', beginning and ending with a letter or "
                f"digit, got {name!r}"
            ]
        )
    return name


def namespace_name(lab: str, node: str) -> str:
    """What `ip netns list` shows: `3node.alice`."""
    return f"{lab}.{node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReference:
    """What a user wrote for a node. lab is None where only the node was named."""

    lab: str | None
    node: str


def parse_reference(text: str, *, lab: str | None, labs: tuple[str, ...]) -> NodeReference:
    """`bob`, `3node.bob`, or `bob` with `--lab 3node`.

    labs  the standing labs: a node's own name may have dots, so the part before the first dot is a
          lab only if one of that name stands
    """
    head, dot, tail = text.partition(".")
    if lab is not None:
        if dot and head == lab:
            return NodeReference(lab=lab, node=tail)
        return NodeReference(lab=lab, node=text)
    if dot and tail and head in labs:
        return NodeReference(lab=head, node=tail)
    if len(labs) > 1:
        raise ZtError(
            f"{len(labs)} labs are standing ({', '.join(labs)}): which one's {text!r}?",
            hint=f"write LAB.NODE, for example {labs[0]}.{text}, or use --lab",
        )
    return NodeReference(lab=None, node=text)
