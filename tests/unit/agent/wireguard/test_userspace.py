"""The UAPI text that wireguard-go answers with."""

from __future__ import annotations

import base64
import socket
import threading
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from agent.keys import NodeKey
from agent.wireguard import userspace
from agent.wireguard.backend import Endpoint
from agent.wireguard.preshared import PresharedKey
from agent.wireguard.userspace import parsed
from ztlab.errors import ZtError

PRIVATE = bytes(range(32))
PEER = bytes(range(1, 33))
SECRET = bytes(range(3, 35))
ANSWER = f"""private_key={PRIVATE.hex()}
listen_port=51820
fwmark=2676
public_key={PEER.hex()}
preshared_key={SECRET.hex()}
protocol_version=1
endpoint=[2001:db8::1]:51820
last_handshake_time_sec=10
last_handshake_time_nsec=250000000
tx_bytes=148
rx_bytes=92
persistent_keepalive_interval=25
allowed_ip=10.0.0.1/32
allowed_ip=fd00::1/128
public_key={bytes(range(2, 34)).hex()}
preshared_key={bytes(32).hex()}
endpoint=192.0.2.7:1
last_handshake_time_sec=0
last_handshake_time_nsec=0
errno=0"""


def pairs(text: str) -> list[tuple[str, str]]:
    return [(line.partition("=")[0], line.partition("=")[2]) for line in text.splitlines()]


def test_an_answer_is_read_whole() -> None:
    state = parsed(pairs(ANSWER))
    assert state.public_key == NodeKey(PRIVATE).public_key
    assert state.listen_port == 51820
    first, second = state.peers.values()
    assert list(state.peers)[0] == base64.b64encode(PEER).decode()
    assert first.endpoint == Endpoint(address=ip_address("2001:db8::1"), port=51820)
    assert str(first.endpoint) == "[2001:db8::1]:51820"
    assert first.allowed_ips == {"10.0.0.1/32", "fd00::1/128"}
    assert (first.keepalive_s, first.last_handshake_at) == (25, 10.25)
    assert (first.rx_bytes, first.tx_bytes) == (92, 148)
    assert first.preshared_key == PresharedKey(SECRET)
    assert second.preshared_key is None  # zeros mean none
    assert second.endpoint == Endpoint(address=ip_address("192.0.2.7"), port=1)
    assert second.allowed_ips == frozenset() and second.last_handshake_at == 0.0


def test_a_device_without_a_key_has_no_public_key() -> None:
    assert parsed(pairs("listen_port=0\nerrno=0")).public_key == ""
    assert parsed(pairs(f"private_key={bytes(32).hex()}\nerrno=0")).public_key == ""


def test_an_answer_that_breaks_off_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(userspace, "SOCKET_DIR", tmp_path)
    links: Any = None  # what is asked of it here needs none
    backend = userspace.UserspaceWireGuard("wg0", links)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "wg0.sock"))
        listener.listen()

        def die_at_once() -> None:
            connection, _ = listener.accept()
            connection.recv(4096)
            connection.close()

        threading.Thread(target=die_at_once, daemon=True).start()
        with pytest.raises(ZtError, match="refused set=1"):
            backend.remove_peers([base64.b64encode(PEER).decode()])
