"""What stands in many wholes: its canonical form and its digest are made once for each object."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ztlab.model import codec


class Element:
    """Base of a frozen dataclass, of which many configurations may have the same object.

    Both caches are the object's own and no field of it: they are not compared, encoded or copied.
    """

    __slots__ = ("_canonical", "_digest")

    _canonical: str
    _digest: str

    def canonical(self) -> str:
        """Its canonical JSON (codec.canonical), kept."""
        try:
            return self._canonical
        except AttributeError:
            text = self._written()
            object.__setattr__(self, "_canonical", text)
            return text

    def _written(self) -> str:
        return codec.canonical(self).decode("ascii")

    def hashed(self) -> bytes:
        """What its digest is of: the canonical form, unless a class says otherwise."""
        return codec.canonical(self)

    def digest(self) -> str:
        """SHA-256 of `hashed`, in hexadecimal, kept; what is hashed is not."""
        try:
            return self._digest
        except AttributeError:
            digest = hashlib.sha256(self.hashed()).hexdigest()
            object.__setattr__(self, "_digest", digest)
            return digest


def listed(elements: Sequence[Element]) -> str:
    """A JSON list of ELEMENTS in their canonical forms."""
    return f"[{','.join([element.canonical() for element in elements])}]"


def outline(elements: Sequence[Element]) -> str:
    """A JSON list of the digests of ELEMENTS. Of a long one that many configurations share, as one
    object, it is made once: the latest are kept."""
    if len(elements) < _LONG:
        return _outline(elements)
    kept = _outlines.pop(id(elements), None)
    if kept is None or kept[0] is not elements:
        kept = elements, _outline(elements)
    _outlines[id(elements)] = kept  # the newest is the last
    while len(_outlines) > _MOST_OUTLINES:
        _outlines.pop(next(iter(_outlines)), None)
    return kept[1]


_LONG = 64
_MOST_OUTLINES = 4
_outlines: dict[int, tuple[Sequence[Element], str]] = {}


def _outline(elements: Sequence[Element]) -> str:
    if not elements:
        return "[]"
    hashes = '","'.join([element.digest() for element in elements])
    return f'["{hashes}"]'
