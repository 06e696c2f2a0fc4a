"""Keys, client IDs and tags: what a name, a number and a WireGuard key have in common."""

from __future__ import annotations

import base64
import binascii
import hashlib

TAG_UNKNOWN = 0  # never stored: "belongs to nobody"
TAG_WORLD = 1  # neither a node's own address, nor a peer, nor a resource
TAG_FIRST = 2  # the first tag the coordinator hands out
TAG_MAX = 2**24 - 1

WORLD = "world"
ANY = "*"
UNKNOWN = "unknown"
RESERVED_NAMES = frozenset({WORLD, ANY, UNKNOWN})

_P = 2**255 - 19
# The u-coordinates of points of low order on Curve25519 and its twist, below p: RFC 7748, section
# 6.1, and the list in "May the Fourth Be With You" (Genkin, Valenta, Yarom 2017), appendix B.
_LOW_ORDER = frozenset(
    {
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _P - 1,
    }
)


def decode_public_key(text: str) -> bytes:
    """The 32 bytes of a WireGuard public key in canonical form.

    Canonical: base64 (RFC 4648, padded, nothing else) of exactly 32 bytes that encode a value
    below p = 2^255 - 19 (so bit 255 is clear) and not of low order. Anything else would let two
    spellings name one key; it raises ValueError with the reason.
    """
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("a public key is base64 of 32 bytes") from None
    if len(raw) != 32:
        raise ValueError(f"a public key has 32 bytes, not {len(raw)}")
    if base64.b64encode(raw).decode("ascii") != text:
        raise ValueError("the base64 of a public key must be canonical")
    value = int.from_bytes(raw, "little")
    if value >> 255:
        raise ValueError("bit 255 of a public key must be clear")
    if value >= _P:
        raise ValueError("a public key must be below 2^255 - 19")
    if value in _LOW_ORDER:
        raise ValueError("a public key must not be of low order")
    return raw


def client_id(public_key: str) -> str:
    """The client ID of a WireGuard key: 26 characters, of that key and of nothing else.

    Lower-case unpadded base32 of BLAKE2s-128 over the 32 raw bytes. ValueError as in
    `decode_public_key`.
    """
    digest = hashlib.blake2s(decode_public_key(public_key), digest_size=16).digest()
    return base64.b32encode(digest).decode("ascii").rstrip("=").lower()
