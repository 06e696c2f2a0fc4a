"""The private key is made here and never shows."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from agent.keys import NodeKey, load_or_make
from ztlab.errors import Refused, ZtError
from ztlab.model.identity import decode_public_key
from ztlab.model.proof import Transcript, verify


def transcript(ephemeral: bytes, node_key: bytes) -> Transcript:
    return Transcript(
        purpose="token",
        network_id="n",
        authority=bytes(32),
        ephemeral_key=ephemeral,
        nonce=bytes(32),
        node_key=node_key,
    )


def test_a_key_is_made_once_private_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "private.key"
    made = load_or_make(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_make(path).public_key == made.public_key
    decode_public_key(made.public_key)


def test_the_proof_is_what_the_coordinator_computes(tmp_path: Path) -> None:
    key = load_or_make(tmp_path / "private.key")
    ephemeral = X25519PrivateKey.generate()
    public = decode_public_key(key.public_key)
    said = transcript(ephemeral.public_key().public_bytes_raw(), public)
    secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    assert verify(said, secret, key.prove(said))


def test_a_key_of_low_order_gets_no_proof_and_the_refusal_no_secret(tmp_path: Path) -> None:
    key = load_or_make(tmp_path / "private.key")
    with pytest.raises(Refused) as caught:
        key.prove(transcript(bytes(32), decode_public_key(key.public_key)))
    assert caught.value.__cause__ is None
    assert key.private_key() not in str(caught.value)


def test_the_private_key_is_in_no_representation() -> None:
    raw = bytes(range(32))
    key = NodeKey(raw)
    private = key.private_key()
    assert base64.b64decode(private) == raw
    assert private not in repr(key) and private not in str(key)


@pytest.mark.parametrize("content", ["", "not base64 at all!", "QUJD"])
def test_a_damaged_key_file_is_an_error_not_a_new_identity(tmp_path: Path, content: str) -> None:
    path = tmp_path / "private.key"
    path.write_text(content)
    with pytest.raises(ZtError, match="holds no WireGuard private key"):
        load_or_make(path)
    assert path.read_text() == content
