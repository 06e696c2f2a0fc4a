"""What every view needs: the running service, the caller's token, the decoded body."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

from flask import current_app, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

from coordinator import tls
from coordinator.certificates import Certificates
from coordinator.contacts import Contacts
from coordinator.enrolment import Place
from coordinator.hub import Hub
from coordinator.limits import Networks
from coordinator.refusals import Refusals
from coordinator.store.engine import Store
from ztlab.model import codec
from ztlab.model.config import Revision

T = TypeVar("T")
ROOT = "/api/v1"
EXTENSION = "zt_coordinator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of one running coordinator.

    certificates   what it shows to who connects, which may change under it
    challenge_key  as in Place
    refusals       who was refused, and who has to wait
    """

    store: Store
    hub: Hub
    contacts: Contacts
    certificates: Certificates
    network_id: str
    challenge_key: bytes = field(repr=False)
    token_ttl: timedelta
    refusals: Refusals
    trusted_proxies: Networks

    @property
    def place(self) -> Place:
        """What proofs of possession are bound to: the authority is that of the certificate which
        connections begin with now."""
        return Place(
            network_id=self.network_id,
            authority=tls.fingerprint(self.certificates.shown.authority),
            challenge_key=self.challenge_key,
        )


def service() -> Service:
    """The service behind the current request."""
    return cast(Service, current_app.extensions[EXTENSION])


def bearer() -> str | None:
    """The request's bearer token; None if it has none."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None


def body(kind: type[T], *, max_bytes: int | None = None, **defaults: Any) -> T:
    """The JSON body as a KIND; DEFAULTS are what the URL already said (a name).

    max_bytes  where strangers may ask: less than what everybody may send
    """
    if max_bytes is not None:
        request.max_content_length = max_bytes
    data = parse_json(raw_body("application/json"))
    if isinstance(data, dict):
        for key, value in defaults.items():
            if data.setdefault(key, value) != value:
                raise BadRequest(f"{key} in the body is not the one in the URL")
    return codec.decode(kind, data)


def raw_body(kind: str) -> bytes:
    """The bytes of a body that must be of the media type KIND."""
    if request.mimetype != kind:
        raise UnsupportedMediaType(f"want {kind}")
    try:
        raw = request.get_data(cache=False)
    except ParseException as error:
        raise BadRequest(f"the body is malformed: {error}") from None
    if request.content_length is None and len(raw) >= (request.max_content_length or 0):
        # A chunked body says nothing beforehand, and Werkzeug cuts it at the limit in silence.
        raise RequestEntityTooLarge
    return raw


def parse_json(raw: bytes) -> Any:
    """JSON as RFC 8259 has it: UTF-8, no NaN, no lone surrogates; BadRequest otherwise.

    A key that is there twice is refused as well (of two readers, each might take another one), and
    so is U+0000, which no database keeps alike.
    """
    try:
        # Decoded here: json.loads would guess UTF-16 too, and let surrogates through in both.
        data = json.loads(
            raw.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_without_repetition
        )
        if b"\\ud" in raw or b"\\uD" in raw:
            json.dumps(data, ensure_ascii=False).encode()  # a lone surrogate cannot be encoded
        if b"\\u0000" in raw and _has_nul(data):
            raise ValueError("U+0000 in a text")
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}"[:200]) from None
    return data


def revised(revision: Revision, answer: dict[str, Any] | None = None) -> dict[str, Any]:
    """An answer to a write: what was asked for, and the revision it made."""
    return {**(answer or {}), "revision": codec.encode(revision)}


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found


def _has_nul(data: Any) -> bool:
    if isinstance(data, dict):
        return any("\0" in key or _has_nul(value) for key, value in data.items())
    if isinstance(data, list):
        return any(map(_has_nul, data))
    return isinstance(data, str) and "\0" in data


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")
