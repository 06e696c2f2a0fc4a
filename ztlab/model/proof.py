"""Proof of possession of a WireGuard key: the transcript and the MAC over it.

The X25519 itself happens elsewhere (this package is standard library only): the node computes
X25519(its key, E), the coordinator X25519(e, the node's public key); both arrive at one secret.

    T     = SHA-256 over the length-prefixed fields
    proof = HMAC-SHA-256(HKDF-SHA-256(ikm = secret, salt = T, info = "ztlab-pop-v1"), "node" || T)

Sources: RFC 7748 section 6.1 (X25519, the all-zero check), RFC 5869 (HKDF), RFC 2104 (HMAC).
Test vectors: tests/unit/model/vectors/pop-v1.json.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

CONTEXT = b"ztlab-pop-v1"
Purpose = Literal["enrol", "token", "rotate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What a proof is a proof of.

    network_id     UUID text
    authority      SHA-256 of the pinned TLS authority's DER, 32 bytes
    ephemeral_key  the coordinator's one-time X25519 public key E, 32 bytes
    nonce          32 random bytes
    node_key       the node's WireGuard public key, 32 bytes
    extra          enrol: SHA-256 of the setup key's text; rotate: the other public key (32 bytes);
                   token: empty
    """

    purpose: Purpose
    network_id: str
    authority: bytes
    ephemeral_key: bytes
    nonce: bytes
    node_key: bytes
    extra: bytes = b""

    def hash(self) -> bytes:
        """T: SHA-256 over every field, each after its length as 4 bytes, big-endian."""
        fields = (
            CONTEXT,
            self.purpose.encode(),
            self.network_id.encode(),
            self.authority,
            self.ephemeral_key,
            self.nonce,
            self.node_key,
            self.extra,
        )
        digest = hashlib.sha256()
        for content in fields:
            digest.update(len(content).to_bytes(4, "big") + content)
        return digest.digest()


def prove(transcript: Transcript, shared_secret: bytes) -> bytes:
    """The 32-byte proof. ValueError for an all-zero secret (a key of low order)."""
    if len(shared_secret) != 32:
        raise ValueError(f"a shared secret has 32 bytes, not {len(shared_secret)}")
    if hmac.compare_digest(shared_secret, bytes(32)):
        raise ValueError("the shared secret is all zero: a key of low order")
    salt = transcript.hash()
    extracted = hmac.digest(salt, shared_secret, "sha256")
    key = hmac.digest(extracted, CONTEXT + b"\x01", "sha256")  # HKDF-Expand, one block
    return hmac.digest(key, b"node" + salt, "sha256")


def verify(transcript: Transcript, shared_secret: bytes, proof: bytes) -> bool:
    """Is PROOF the right one? Compared in constant time. ValueError as in `prove`."""
    return hmac.compare_digest(prove(transcript, shared_secret), proof)


def setup_key_hash(setup_key: str) -> bytes:
    """SHA-256 of a setup key's text: what the store keeps and what the transcript binds."""
    return hashlib.sha256(setup_key.encode()).digest()


def format_setup_key(secret: bytes, authority: bytes) -> str:
    """`zt1.<secret>.<authority hash>`, both base64url without padding, 32 bytes each."""
    return f"zt1.{_b64(secret)}.{_b64(authority)}"


def authority_of(setup_key: str) -> bytes:
    """The SHA-256 of the TLS authority (32 bytes) that SETUP_KEY pins; ValueError if malformed."""
    parts = setup_key.split(".")
    if len(parts) != 3 or parts[0] != "zt1":
        raise ValueError('a setup key looks like "zt1.SECRET.AUTHORITY"')
    try:
        authority = base64.urlsafe_b64decode(parts[2] + "=" * (-len(parts[2]) % 4))
    except ValueError:
        raise ValueError("the setup key's authority part is not base64url") from None
    if len(authority) != 32:
        raise ValueError("the setup key's authority part must be 32 bytes")
    return authority


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
