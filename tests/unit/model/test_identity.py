"""One key has one spelling and one client ID."""

from __future__ import annotations

import base64
import hashlib
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from ztlab.model.identity import _LOW_ORDER, client_id, decode_public_key

P = 2**255 - 19
KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="  # of wireguard.com's own example


def spelled(value: int) -> str:
    return base64.b64encode(value.to_bytes(32, "little")).decode()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (KEY, "hdg4ha7q6xt3xkq7sufjffwf7y"),
        # RFC 7748, section 6.1: Alice's and Bob's public keys.
        ("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=", "oayzcemkjipgj47wjqojm222qa"),
        ("3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=", "afmgcp32hrrpwepcvbkfptglra"),
    ],
)
def test_a_known_key_has_its_known_client_id(key: str, expected: str) -> None:
    assert client_id(key) == expected


@given(st.binary(min_size=32, max_size=32))
def test_a_client_id_is_base32_of_blake2s_of_the_raw_key(secret: bytes) -> None:
    raw = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()

    name = client_id(base64.b64encode(raw).decode())

    assert len(name) == 26
    assert name == name.lower()
    digest = base64.b32decode(name.upper() + "======")
    assert digest == hashlib.blake2s(raw, digest_size=16).digest()


def test_a_key_that_wg_makes_is_accepted() -> None:
    secret = subprocess.run(["wg", "genkey"], capture_output=True, check=True).stdout
    public = subprocess.run(["wg", "pubkey"], input=secret, capture_output=True, check=True).stdout
    assert len(decode_public_key(public.decode().strip())) == 32


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "32 bytes, not 0"),
        ("not base64 at all", "base64"),
        (KEY[:-1], "base64"),  # no padding
        (KEY + "\n", "base64"),
        (" " + KEY, "base64"),
        (KEY.replace("x", "\N{CYRILLIC SMALL LETTER HA}", 1), "base64"),
        (KEY.replace("g=", "h="), "canonical"),  # the same 32 bytes, two unused bits set
        (base64.b64encode(bytes(31)).decode(), "not 31"),
        (base64.b64encode(bytes(33)).decode(), "not 33"),
        (base64.urlsafe_b64encode(b"\xfb" * 31 + b"\x7b").decode(), "base64"),
        (spelled(2**255 + 9), "bit 255"),
        (spelled(P), "below"),
        (spelled(P + 1), "below"),
        (spelled(2**255 - 1), "below"),
    ],
)
def test_a_second_spelling_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_public_key(text)


@pytest.mark.parametrize("value", sorted(_LOW_ORDER))
def test_a_key_of_low_order_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="low order"):
        decode_public_key(spelled(value))
    # And it is one: whatever the private key, the shared secret is zero.
    with pytest.raises(ValueError):
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(_raw(value)))


def _raw(value: int) -> bytes:
    return value.to_bytes(32, "little")


@pytest.mark.parametrize("value", [2, 9, P - 2])
def test_a_neighbour_of_a_low_order_key_is_a_key(value: int) -> None:
    assert decode_public_key(spelled(value)) == _raw(value)
