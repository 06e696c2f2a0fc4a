"""Peers in messages of the kernel's WireGuard, held against pyroute2's own classes for them."""

from __future__ import annotations

import base64
import os
import socket
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink.generic.wireguard import wgmsg

from agent.wireguard import messages
from agent.wireguard.backend import Endpoint
from agent.wireguard.kernel import DeviceMessage
from agent.wireguard.messages import PeerChange, batches, merged
from ztlab.errors import ZtError

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(range(1, 33))).decode()
SECRET = bytes(range(2, 34))
FOUR = Endpoint(address=ip_address("192.0.2.1"), port=51820)
SIX = Endpoint(address=ip_address("2001:db8::1"), port=1)


def wrapped(peers: bytes) -> bytes:
    """A whole message with PEERS in it, as the backend sends it."""
    message = DeviceMessage()
    message["attrs"] = [["WGDEVICE_A_IFNAME", "wg0"], ["WGDEVICE_A_PEERS", peers]]
    message.encode()
    return bytes(message.data)


def as_pyroute2_reads(peers: bytes) -> list[Any]:
    """The peers of PEERS in pyroute2's words."""
    message = wgmsg(wrapped(peers))
    message.decode()
    assert message.get_attr("WGDEVICE_A_IFNAME") == "wg0"
    found: list[Any] = message.get_attr("WGDEVICE_A_PEERS")
    return found


def as_pyroute2_writes(*peers: list[list[Any]]) -> bytes:
    """What pyroute2 makes of PEERS, each a list of attributes, as the backend gets it."""
    message = wgmsg()
    message["attrs"] = [["WGDEVICE_A_PEERS", [{"attrs": attrs} for attrs in peers]]]
    message.encode()
    read = DeviceMessage(bytes(message.data))
    read.decode()
    value: bytes = read.get_attr("WGDEVICE_A_PEERS")
    return value


def prefixes(*texts: str) -> list[dict[str, Any]]:
    entries = []
    for text in texts:
        address, _, length = text.partition("/")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        attrs = [
            ["WGALLOWEDIP_A_FAMILY", family],
            ["WGALLOWEDIP_A_IPADDR", socket.inet_pton(family, address)],
            ["WGALLOWEDIP_A_CIDR_MASK", int(length)],
        ]
        entries.append({"attrs": attrs})
    return entries


@pytest.mark.parametrize("endpoint", [FOUR, SIX], ids=str)
def test_a_peer_is_packed_as_pyroute2_would_read_it(endpoint: Endpoint) -> None:
    change = PeerChange(
        public_key=KEY,
        flags=messages.PEER_REMOVE,
        preshared_key=SECRET,
        endpoint=endpoint,
        keepalive_s=25,
        prefixes=("0.0.0.0/0", "10.0.0.1/32", "fd00::/64"),
    )
    (batch,) = batches([change])
    (peer,) = as_pyroute2_reads(batch)
    assert peer.get_attr("WGPEER_A_PUBLIC_KEY") == KEY.encode()
    assert peer.get_attr("WGPEER_A_PRESHARED_KEY") == base64.b64encode(SECRET)
    assert peer.get_attr("WGPEER_A_FLAGS") == messages.PEER_REMOVE
    at = peer.get_attr("WGPEER_A_ENDPOINT")
    assert (at["addr"], at["port"]) == (str(endpoint.address), endpoint.port)
    assert peer.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") == 25
    found = [entry["addr"] for entry in peer.get_attr("WGPEER_A_ALLOWEDIPS")]
    assert found == list(change.prefixes)


def test_what_is_to_be_left_alone_is_not_mentioned() -> None:
    (batch,) = batches([PeerChange(public_key=KEY)])
    (peer,) = as_pyroute2_reads(batch)
    names = {name for name, _ in peer["attrs"]}
    assert names == {"WGPEER_A_PUBLIC_KEY", "WGPEER_A_FLAGS"}


@settings(max_examples=30)  # tens of thousands of prefixes in some
@given(counts=st.lists(st.integers(0, 3000), min_size=1, max_size=8), v6=st.booleans())
def test_no_message_is_too_long_and_together_they_say_everything_in_order(
    counts: list[int], v6: bool
) -> None:
    changes = [
        PeerChange(
            public_key=base64.b64encode(bytes([i]) * 32).decode(),
            endpoint=SIX,
            keepalive_s=i,
            prefixes=tuple(
                f"fd00:{i:x}:{n:x}::/48" if v6 else f"{i}.{n >> 8}.{n & 255}.0/24"
                for n in range(1, count + 1)
            ),
        )
        for i, count in enumerate(counts, 10)
    ]
    sent = list(batches(changes))
    assert all(0 < len(batch) < 2**16 - 4 for batch in sent)
    found = merged(sent)  # a dump is split just so
    assert list(found) == [change.public_key for change in changes]
    for change in changes:
        peer = found[change.public_key]
        assert peer.allowed_ips == set(change.prefixes)
        assert (peer.endpoint, peer.keepalive_s) == (SIX, change.keepalive_s)


def test_nothing_to_say_needs_no_message() -> None:
    assert list(batches([])) == []


def test_a_peer_that_spans_messages_is_one_peer_with_all_its_prefixes() -> None:
    first = as_pyroute2_writes(
        [
            ["WGPEER_A_PUBLIC_KEY", KEY],
            ["WGPEER_A_PRESHARED_KEY", base64.b64encode(SECRET).decode()],
            ["WGPEER_A_ENDPOINT", {"addr": "192.0.2.1", "port": 51820}],
            ["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", 25],
            ["WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": 10, "tv_nsec": 500_000_000}],
            ["WGPEER_A_RX_BYTES", 7],
            ["WGPEER_A_TX_BYTES", 2**40],
            ["WGPEER_A_ALLOWEDIPS", prefixes("10.0.0.1/32")],
        ]
    )
    second = as_pyroute2_writes(
        [["WGPEER_A_PUBLIC_KEY", KEY], ["WGPEER_A_ALLOWEDIPS", prefixes("fd00::1/128")]],
        [
            ["WGPEER_A_PUBLIC_KEY", OTHER],
            ["WGPEER_A_PRESHARED_KEY", base64.b64encode(bytes(32)).decode()],
        ],
    )

    peers = merged([first, b"", second])

    assert set(peers) == {KEY, OTHER}
    peer = peers[KEY]
    assert peer.allowed_ips == {"10.0.0.1/32", "fd00::1/128"}
    assert peer.endpoint == FOUR
    assert (peer.keepalive_s, peer.last_handshake_at) == (25, 10.5)
    assert (peer.rx_bytes, peer.tx_bytes) == (7, 2**40)
    assert peer.preshared_key is not None and peer.preshared_key.reveal() == SECRET
    silent = peers[OTHER]
    assert silent.endpoint is None and silent.last_handshake_at == 0.0
    assert silent.preshared_key is None  # zeros mean none


def test_a_message_that_breaks_off_is_an_error_and_not_fewer_peers() -> None:
    (batch,) = batches([PeerChange(public_key=KEY, prefixes=("10.0.0.1/32",))])
    with pytest.raises(ZtError, match="breaks off"):
        merged([batch[:-4]])


def test_secrets_are_in_no_repr() -> None:
    change = PeerChange(public_key=KEY, preshared_key=os.urandom(32))
    assert "preshared_key" not in repr(change)
