"""What stands in many wholes: its canonical form and its digest are made once for each object."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

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
            text = codec.canonical(self).decode("ascii")
            object.__setattr__(self, "_canonical", text)
            return text

    def digest(self) -> str:
        """SHA-256 of the canonical form, in hexadecimal, kept; the form itself is not."""
        try:
            return self._digest
        except AttributeError:
            digest = hashlib.sha256(codec.canonical(self)).hexdigest()
            object.__setattr__(self, "_digest", digest)
            return digest


def outline(elements: Iterable[Element]) -> str:
    """A JSON list of the digests of ELEMENTS."""
    hashes = '","'.join([element.digest() for element in elements])
    return f'["{hashes}"]' if hashes else "[]"
