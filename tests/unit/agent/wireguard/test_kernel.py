"""What the kernel says over netlink, in as many messages as it likes, is one state."""

from __future__ import annotations

import base64
from ipaddress import ip_address
from typing import Any

from agent.wireguard.backend import Endpoint
from agent.wireguard.kernel import merged

KEY = base64.b64encode(bytes(range(32)))
OTHER = base64.b64encode(bytes(range(1, 33)))
OWN = base64.b64encode(bytes(range(2, 34)))


class Message:
    """What pyroute2 gives: attributes by name."""

    def __init__(self, **attrs: Any) -> None:
        self._attrs = attrs

    def get_attr(self, name: str) -> Any:
        return self._attrs.get(name)


def prefixes(*texts: str) -> list[dict[str, str]]:
    return [{"addr": text} for text in texts]


def test_a_peer_that_spans_messages_is_one_peer_with_all_its_prefixes() -> None:
    first = Message(
        WGDEVICE_A_PUBLIC_KEY=OWN,
        WGDEVICE_A_LISTEN_PORT=51820,
        WGDEVICE_A_PEERS=[
            Message(
                WGPEER_A_PUBLIC_KEY=KEY,
                WGPEER_A_ENDPOINT={"addr": "192.0.2.1", "port": 51820},
                WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL=25,
                WGPEER_A_LAST_HANDSHAKE_TIME={"tv_sec": 10, "tv_nsec": 500_000_000},
                WGPEER_A_RX_BYTES=7,
                WGPEER_A_TX_BYTES=9,
                WGPEER_A_ALLOWEDIPS=prefixes("10.0.0.1/32"),
            )
        ],
    )
    second = Message(
        WGDEVICE_A_PEERS=[
            Message(WGPEER_A_PUBLIC_KEY=KEY, WGPEER_A_ALLOWEDIPS=prefixes("fd00::1/128")),
            Message(WGPEER_A_PUBLIC_KEY=OTHER),
        ],
    )

    state = merged([first, second])

    assert state.public_key == OWN.decode() and state.listen_port == 51820
    assert set(state.peers) == {KEY.decode(), OTHER.decode()}
    peer = state.peers[KEY.decode()]
    assert peer.allowed_ips == {"10.0.0.1/32", "fd00::1/128"}
    assert peer.endpoint == Endpoint(address=ip_address("192.0.2.1"), port=51820)
    assert (peer.keepalive_s, peer.last_handshake_at) == (25, 10.5)
    assert (peer.rx_bytes, peer.tx_bytes) == (7, 9)
    silent = state.peers[OTHER.decode()]
    assert silent.endpoint is None and silent.last_handshake_at == 0.0


def test_an_interface_without_key_and_peers_is_empty() -> None:
    state = merged([Message()])
    assert (state.public_key, state.listen_port, dict(state.peers)) == ("", 0, {})
