"""The node's WireGuard key: made here, kept here, and used for two things only.

The private half goes to the WireGuard backend and into proofs of possession. No function returns
a raw X25519 result: who could ask this node for one could finish WireGuard handshakes in its name.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from agent import state
from ztlab.errors import Refused, ZtError
from ztlab.model.identity import client_id, decode_public_key
from ztlab.model.proof import Transcript, prove


class NodeKey:
    """An X25519 key pair; only its public half is ever printed."""

    def __init__(self, private: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private)
        self.public_key = base64.b64encode(self._key.public_key().public_bytes_raw()).decode()
        decode_public_key(self.public_key)

    @property
    def client_id(self) -> str:
        """Derived from the public key, 26 characters."""
        return client_id(self.public_key)

    def private_key(self) -> str:
        """Base64, for the WireGuard backend and nobody else."""
        return base64.b64encode(self._key.private_bytes_raw()).decode()

    def prove(self, transcript: Transcript) -> bytes:
        """The 32-byte proof over TRANSCRIPT; Refused for an unusable ephemeral key."""
        try:
            secret = self._key.exchange(X25519PublicKey.from_public_bytes(transcript.ephemeral_key))
            return prove(transcript, secret)
        except ValueError as error:
            # `from None`: nothing computed from the private key may end up in a chained traceback.
            raise Refused(f"the coordinator's challenge cannot be answered: {error}") from None

    def __repr__(self) -> str:
        return f"NodeKey({self.public_key})"


def load_or_make(path: Path) -> NodeKey:
    """The key in PATH; a new one, on disk before it is used, where there is none.

    A damaged key file is an error: a silently new key would be a new identity.
    """
    content = state.read(path)
    if content is None:
        return make(path)
    try:
        private = base64.b64decode(content.strip(), validate=True)
        path.chmod(state.PRIVATE_FILE)
        return NodeKey(private)
    except (ValueError, binascii.Error):
        raise ZtError(
            f"{path} holds no WireGuard private key",
            hint="restore it, or remove it and enrol the node again with a new setup key",
        ) from None


def make(path: Path) -> NodeKey:
    """A new key, on disk in PATH before it is used."""
    key = NodeKey(X25519PrivateKey.generate().private_bytes_raw())
    store(path, key)
    return key


def store(path: Path, key: NodeKey) -> None:
    """Keep KEY in PATH, mode 0600; after a crash what was there before is there, or KEY."""
    state.write(path, key.private_key().encode() + b"\n")
