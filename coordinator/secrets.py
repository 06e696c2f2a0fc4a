"""Bearer tokens: 256 random bits each, of which the store keeps the SHA-256 alone.

A fast hash is enough: the secrets are random, so there is nothing to guess one from.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from pathlib import Path

from ztlab.errors import ZtError

CHALLENGE_KEY = "challenge.key"  # in the state directory, 0600; replicas share it
_KEY_BYTES = 32


def fresh(kind: str) -> str:
    """A new secret, e.g. `zta_…` for KIND "zta"; base64url without padding."""
    return f"{kind}_{base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b'=').decode()}"


def digest(secret: str) -> bytes:
    """What the store keeps: 32 bytes."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def challenge_key(directory: Path) -> bytes:
    """What one-time keys of challenges are derived with: 32 bytes; ZtError before `init`."""
    path = directory / CHALLENGE_KEY
    try:
        key = path.read_bytes()
    except OSError as error:
        raise ZtError(
            f"cannot read {path}: {error.strerror}",
            hint="run `zt-coordinator init --config FILE`; it keeps what is there",
        ) from error
    if len(key) != _KEY_BYTES:
        raise ZtError(
            f"{path} has {len(key)} bytes, not {_KEY_BYTES}",
            hint="remove it and run init: only challenges of the last minute are lost",
        )
    return key


def fresh_challenge_key() -> bytes:
    """32 random bytes."""
    return secrets.token_bytes(_KEY_BYTES)
