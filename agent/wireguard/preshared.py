"""Preshared keys: pairwise secrets of this node and a peer, which the coordinator never sees.

A line for each peer: PUBLICKEY = PRESHAREDKEY (with the spaces), both base64 of 32 bytes as `wg`
prints them; empty lines and what follows a # are for people. WireGuard mixes the key into each
handshake (whitepaper section 5.2), so that both ends need the same one, and a recorded handshake
stays closed to whoever breaks Curve25519 one day.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from pathlib import Path

from agent import state
from ztlab.errors import SchemaError
from ztlab.model.identity import decode_public_key

KEY_BYTES = 32
_HINT = "make one with `wg genpsk`, and write PUBLICKEY = PRESHAREDKEY on a line of its own"


class PresharedKey:
    """32 secret bytes that show themselves to nobody who does not ask: not in a repr, not in JSON.

    ValueError for anything but 32 bytes, and for zeros, which mean "none" to WireGuard.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise ValueError(f"a preshared key has {KEY_BYTES} bytes")
        if not any(raw):
            raise ValueError("a preshared key of zeros is none")
        self._raw = bytes(raw)

    @classmethod
    def from_base64(cls, text: str) -> PresharedKey:
        """The key that TEXT, canonical base64, spells; ValueError otherwise, without TEXT."""
        try:
            raw = base64.b64decode(text.encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error):
            raise ValueError("a preshared key is base64 of 32 bytes") from None
        if base64.b64encode(raw).decode() != text:
            raise ValueError("the base64 of a preshared key must be canonical")
        return cls(raw)

    def reveal(self) -> bytes:
        """The 32 bytes, for the WireGuard backend and nobody else."""
        return self._raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PresharedKey) and hmac.compare_digest(self._raw, other._raw)

    def __hash__(self) -> int:
        return hash(self._raw)

    def __repr__(self) -> str:
        return "PresharedKey(...)"


def from_raw(raw: bytes) -> PresharedKey | None:
    """What a WireGuard reads back: None for none, or for zeros."""
    return PresharedKey(raw) if any(raw) else None


def load(path: Path) -> Mapping[str, PresharedKey]:
    """The preshared keys in PATH, by the peer's public key.

    SchemaError names the file and each line at fault and never what stands there: somebody may have
    put the secret in the wrong place.
    """
    lines = state.private_text(path).splitlines()
    found: dict[str, PresharedKey] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        try:
            public, key = _entry(content)
            if public in found:
                raise ValueError("this peer has a preshared key already")
            found[public] = key
        except ValueError as error:
            problems.append(f"{path}: line {number}: {error}")
    if problems:
        raise SchemaError(problems, hint=_HINT)
    return found


def _entry(content: str) -> tuple[str, PresharedKey]:
    match content.split():
        case [public, "=", preshared]:
            decode_public_key(public)
            return public, PresharedKey.from_base64(preshared)
    raise ValueError("want PUBLICKEY = PRESHAREDKEY, with spaces around the =")
