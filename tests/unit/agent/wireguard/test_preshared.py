"""Preshared keys: read strictly, from a file that is nobody else's, and shown nowhere."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from agent.keys import NodeKey
from agent.wireguard.backend import PeerSpec
from agent.wireguard.preshared import PresharedKey, from_raw, load
from ztlab.errors import SchemaError

ONE, TWO = (NodeKey(bytes([n]) * 32).public_key for n in (1, 2))
RAW = bytes(range(7, 39))
SECRET = base64.b64encode(RAW).decode()


def written(directory: Path, text: str, mode: int = 0o600) -> Path:
    path = directory / "preshared-keys"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_each_line_gives_a_peer_its_key(tmp_path: Path) -> None:
    other = base64.b64encode(b"\xff" * 32).decode()
    path = written(tmp_path, f"# ours\n\n{ONE} = {SECRET}  # bob\n  {TWO}\t=\t{other}\n")
    assert load(path) == {ONE: PresharedKey(RAW), TWO: PresharedKey(b"\xff" * 32)}


def test_an_empty_file_is_a_file_without_keys(tmp_path: Path) -> None:
    assert load(written(tmp_path, "")) == {}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (f"{ONE} {SECRET}", "want PUBLICKEY = PRESHAREDKEY"),
        (f"{ONE} =", "want PUBLICKEY = PRESHAREDKEY"),
        (f'"{ONE}" = "{SECRET}"', "a public key is base64"),
        (f"{ONE} = {SECRET} {SECRET}", "want PUBLICKEY = PRESHAREDKEY"),
        (f"{ONE[:-1]} = {SECRET}", "a public key is base64"),
        (f"{SECRET[:20]} = {SECRET}", "a public key"),
        (f"{ONE} = {SECRET[:-1]}", "a preshared key is base64"),
        (f"{ONE} = {SECRET[:-5]}?{SECRET[-4:]}", "a preshared key is base64"),
        (f"{ONE} = {SECRET[:-2]}" + chr(ord(SECRET[-2]) + 1) + "=", "must be canonical"),
        (f"{ONE} = {SECRET[:40]}", "has 32 bytes"),
        (f"{ONE} = {base64.b64encode(bytes(32)).decode()}", "zeros is none"),
        (f"{TWO} = {SECRET}\n{TWO} = {SECRET}", "line 3: this peer has a preshared key already"),
    ],
)
def test_a_fault_names_file_and_line_and_never_what_stands_there(
    tmp_path: Path, line: str, complaint: str
) -> None:
    path = written(tmp_path, f"\n{line}\n")
    with pytest.raises(SchemaError) as caught:
        load(path)
    said = f"{caught.value} {caught.value.hint} {caught.value.problems}"
    assert complaint in said
    assert all(problem.startswith(f"{path}: line ") for problem in caught.value.problems)
    for word in line.split():
        assert len(word) < 10 or word not in said
    assert SECRET[:20] not in said


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o601])
def test_a_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, f"{ONE} = {SECRET}\n", mode)
    with pytest.raises(SchemaError, match="open to others") as caught:
        load(path)
    assert "chmod 0600" in caught.value.hint
    path.chmod(0o400)
    assert load(path)  # control


@pytest.mark.root
def test_a_file_that_belongs_to_somebody_else_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, f"{ONE} = {SECRET}\n")
    os.chown(path, 65534, 65534)
    with pytest.raises(SchemaError, match="belongs to user 65534"):
        load(path)


def test_a_file_that_is_not_there_or_not_a_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="cannot read it: No such file"):
        load(tmp_path / "none")
    path = written(tmp_path, "")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SchemaError, match="not a text in ASCII"):
        load(path)


def test_a_key_is_compared_by_its_bytes_and_shows_none_of_them() -> None:
    key = PresharedKey(RAW)
    assert key == from_raw(RAW) and hash(key) == hash(PresharedKey(RAW))
    assert key != PresharedKey(bytes(reversed(RAW))) and key != RAW
    assert from_raw(bytes(32)) is None
    spec = PeerSpec(
        public_key=ONE, endpoint=None, allowed_ips=frozenset(), keepalive_s=0, preshared_key=key
    )
    for text in (repr(key), str(key), f"{key}", repr(spec), str(asdict(spec))):
        assert "PresharedKey(...)" in text
        assert SECRET not in text and RAW.hex() not in text and repr(RAW) not in text
    with pytest.raises(TypeError):
        json.dumps(key)
