"""Bearer tokens: 256 random bits each, of which the store keeps the SHA-256 alone.

A fast hash is enough: the secrets are random, so there is nothing to guess one from.
"""

from __future__ import annotations

import base64
import hashlib
import secrets


def fresh(kind: str) -> str:
    """A new secret, e.g. `zta_…` for KIND "zta"; base64url without padding."""
    return f"{kind}_{base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b'=').decode()}"


def digest(secret: str) -> bytes:
    """What the store keeps: 32 bytes."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
