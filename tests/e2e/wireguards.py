"""One WireGuard interface, of either kind, for tests that run once with each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

import pytest

from agent.keys import NodeKey
from agent.wireguard.backend import Backend, Endpoint, PeerSpec, WgPeer
from agent.wireguard.kernel import KernelWireGuard
from agent.wireguard.links import FWMARK, Links
from agent.wireguard.preshared import PresharedKey
from agent.wireguard.userspace import UserspaceWireGuard
from ztlab.lab.pace import scaled

both = pytest.mark.parametrize(
    "kind",
    [
        pytest.param("kernel", marks=pytest.mark.kernel_wireguard),
        pytest.param("userspace", marks=pytest.mark.wireguard),
    ],
)
MAKERS: dict[str, Callable[[str, Links], Backend]] = {
    "kernel": KernelWireGuard,
    "userspace": UserspaceWireGuard,
}


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    """Seconds until CONDITION holds; fails after SECONDS, or what they are on a slow machine."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + scaled(seconds), "it did not come to that"
        time.sleep(0.005)
    return time.monotonic() - began


@contextmanager
def interface(kind: str, name: str = "wg0", port: int = 51820) -> Iterator[tuple[Backend, NodeKey]]:
    """An interface that is up, and its key."""
    with ExitStack() as stack:
        links = Links()
        stack.callback(links.close)
        backend = MAKERS[kind](name, links)
        backend.open()
        stack.callback(backend.close)
        key = NodeKey(os.urandom(32))
        configure(backend, key, port)
        links.set_up(name, mtu=1420, listen_port=port)
        yield backend, key


def configure(backend: Backend, key: NodeKey, port: int) -> None:
    backend.configure(private_key=key.private_key(), listen_port=port, fwmark=FWMARK)


def new_key() -> str:
    return NodeKey(os.urandom(32)).public_key


def spec(
    key: str,
    *prefixes: str,
    port: int | None = None,
    keepalive_s: int = 0,
    host: str = "127.0.0.1",
    secret: PresharedKey | None = None,
) -> PeerSpec:
    endpoint = None if port is None else Endpoint(address=ip_address(host), port=port)
    return PeerSpec(
        public_key=key,
        endpoint=endpoint,
        allowed_ips=frozenset(prefixes),
        keepalive_s=keepalive_s,
        preshared_key=secret,
    )


def add(backend: Backend, peer: PeerSpec) -> WgPeer:
    backend.set_peers([peer])
    return backend.state().peers[peer.public_key]


def has_shaken_hands(backend: Backend, key: str) -> bool:
    """Is there a peer with KEY that ever completed a handshake?"""
    peer = backend.state().peers.get(key)
    return peer is not None and peer.last_handshake_at > 0
