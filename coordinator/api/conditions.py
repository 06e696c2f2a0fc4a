"""If-Match and If-None-Match (RFC 9110, section 13): no update is lost.

What exists is changed only by who names what he saw of it, compared in the transaction that writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from werkzeug.datastructures import Headers

from coordinator.errors import PreconditionFailed, PreconditionMissing
from ztlab.errors import SchemaError
from ztlab.model import codec

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"{_TAG}(?:[ \t]*,[ \t]*{_TAG})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a request says about the object as it knows it.

    match       entity tags, as written; () where the header was not sent; ("*",) is any
    none_match  likewise
    """

    match: tuple[str, ...] = ()
    none_match: tuple[str, ...] = ()

    def check(self, tag: str | None) -> None:
        """Refuse unless they hold of an object whose entity tag is TAG; None: it is not there.

        PreconditionFailed: they do not hold. PreconditionMissing: it is there, and nothing was said
        of it. Weak tags never match If-Match (RFC 9110, section 13.1.1).
        """
        if tag is None:
            if self.match:
                raise PreconditionFailed("it is not there", hint="If-None-Match: * creates it")
            return
        quoted = f'"{tag}"'
        if self.match and self.match != ("*",) and quoted not in self.match:
            raise PreconditionFailed(
                "it is not what If-Match names any more", hint="read it again, then change that"
            )
        weak = tuple(given.removeprefix("W/") for given in self.none_match)
        if self.none_match == ("*",) or quoted in weak:
            raise PreconditionFailed("it is there already, and If-None-Match says it must not be")
        if not self.match:
            raise PreconditionMissing(
                "changing what exists needs If-Match",
                hint="send the ETag that a GET answers, or * for whatever is there",
            )


def tag_of(representation: Mapping[str, object], *, without: Iterable[str] = ()) -> str:
    """The entity tag of an object as the API shows it: SHA-256, hexadecimal.

    without  keys that are only observed (when a node was heard of): they change by themselves, and
             whoever changes the others loses nothing by not having seen that
    """
    left_out = frozenset(without)
    return codec.digest({k: v for k, v in representation.items() if k not in left_out})


def parse(headers: Headers) -> Conditions:
    """The conditions in HEADERS; SchemaError names a header that is malformed."""
    faults: list[str] = []
    match = _tags("If-Match", headers.get("If-Match"), faults)
    none_match = _tags("If-None-Match", headers.get("If-None-Match"), faults)
    if faults:
        raise SchemaError(faults)
    return Conditions(match=match, none_match=none_match)


def _tags(header: str, text: str | None, faults: list[str]) -> tuple[str, ...]:
    if text is None:
        return ()
    text = text.strip()
    if text == "*":
        return ("*",)
    if not _TAGS.fullmatch(text):
        faults.append(f'{header}: want * or "tag", ..., got {text[:60]!r}')
    return tuple(re.findall(_TAG, text))
