"""Proof of possession: the vectors hold, and every field of the transcript counts."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from ztlab.model import proof
from ztlab.model.proof import Transcript

DIRECTORY = Path(__file__).parent / "vectors"
VECTORS: list[dict[str, Any]] = json.loads((DIRECTORY / "pop-v1.json").read_text())["vectors"]
each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["purpose"])


def raw(vector: dict[str, Any], field: str) -> bytes:
    return base64.b64decode(vector[field], validate=True)


def transcript(vector: dict[str, Any]) -> Transcript:
    return Transcript(
        purpose=vector["purpose"],
        network_id=vector["network_id"],
        authority=raw(vector, "authority_sha256"),
        ephemeral_key=raw(vector, "ephemeral_public_key"),
        nonce=raw(vector, "nonce"),
        node_key=raw(vector, "node_public_key"),
        extra=raw(vector, "extra"),
    )


def test_there_is_a_vector_for_each_purpose() -> None:
    assert [vector["purpose"] for vector in VECTORS] == ["enrol", "token", "rotate"]


@each_vector
def test_both_ends_come_to_the_shared_secret_of_the_vector(vector: dict[str, Any]) -> None:
    node = X25519PrivateKey.from_private_bytes(raw(vector, "node_private_key"))
    ephemeral = X25519PrivateKey.from_private_bytes(raw(vector, "ephemeral_private_key"))
    assert node.public_key().public_bytes_raw() == raw(vector, "node_public_key")
    assert ephemeral.public_key().public_bytes_raw() == raw(vector, "ephemeral_public_key")

    at_node = node.exchange(X25519PublicKey.from_public_bytes(raw(vector, "ephemeral_public_key")))
    at_coordinator = ephemeral.exchange(
        X25519PublicKey.from_public_bytes(raw(vector, "node_public_key"))
    )
    assert at_node == at_coordinator == raw(vector, "shared_secret")


@each_vector
def test_transcript_and_proof_are_those_of_the_vector(vector: dict[str, Any]) -> None:
    assert transcript(vector).hash() == raw(vector, "transcript_sha256")
    secret = raw(vector, "shared_secret")
    assert proof.prove(transcript(vector), secret) == raw(vector, "proof")
    assert proof.verify(transcript(vector), secret, raw(vector, "proof"))


def test_a_proof_of_a_roll_over_is_bound_to_the_authority_that_verified_the_connection() -> None:
    present, coming = json.loads((DIRECTORY / "pop-v1-roll-over.json").read_text())["vectors"]
    secret = raw(present, "shared_secret")
    for mine, other in ((present, coming), (coming, present)):
        assert transcript(mine).hash() == raw(mine, "transcript_sha256")
        assert proof.verify(transcript(mine), secret, raw(mine, "proof"))
        assert not proof.verify(transcript(other), secret, raw(mine, "proof"))


def test_the_extra_field_binds_the_setup_key_or_the_other_key() -> None:
    enrol, token, rotate = VECTORS
    assert proof.setup_key_hash(enrol["setup_key"]) == raw(enrol, "extra")
    assert proof.authority_of(enrol["setup_key"]) == raw(enrol, "authority_sha256")
    assert raw(token, "extra") == b""
    assert raw(rotate, "extra") == raw(rotate, "other_public_key")


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Transcript)])
def test_a_proof_is_worthless_for_any_other_transcript(field: str) -> None:
    vector = VECTORS[0]
    original = transcript(vector)
    content = getattr(original, field)
    changed: Any = "token" if field == "purpose" else content + type(content)()
    if field != "purpose":
        changed = content[:-1] + (b"\x00" if isinstance(content, bytes) else "0")
        assert changed != content
    other = dataclasses.replace(original, **{field: changed})
    assert not proof.verify(other, raw(vector, "shared_secret"), raw(vector, "proof"))


def test_a_byte_that_moves_from_one_field_to_the_next_changes_the_transcript() -> None:
    one = transcript(VECTORS[0])
    moved = dataclasses.replace(one, nonce=one.nonce + one.node_key[:1], node_key=one.node_key[1:])
    assert moved.hash() != one.hash()


def test_an_all_zero_secret_proves_nothing() -> None:
    with pytest.raises(ValueError, match="all zero"):
        proof.prove(transcript(VECTORS[0]), bytes(32))


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        proof.prove(transcript(VECTORS[0]), b"short")


def test_a_setup_key_carries_its_authority() -> None:
    key = proof.format_setup_key(b"\xff" * 32, b"\xfe" * 32)
    assert proof.authority_of(key) == b"\xfe" * 32
    assert "=" not in key


@pytest.mark.parametrize("text", ["", "zt1.a", "zt2.YQ.YQ", "zt1.YQ.YQ", "zt1.YQ.*", "zt1.a.b.c"])
def test_a_malformed_setup_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        proof.authority_of(text)
