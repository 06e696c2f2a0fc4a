"""One WireGuard interface, of either kind, for tests that run once with each."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar

import pytest

from agent.keys import NodeKey
from agent.owner import Owner
from agent.wireguard.backend import Backend, Endpoint, PeerSpec, WgPeer
from agent.wireguard.kernel import KernelWireGuard
from agent.wireguard.links import FWMARK, Links
from agent.wireguard.preshared import PresharedKey
from agent.wireguard.userspace import UserspaceWireGuard
from ztlab.lab.pace import scaled

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000  # sched.h
_libc = ctypes.CDLL(None, use_errno=True)

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


class Inside:
    """A thread that lives in a network namespace, and does there what it is told.

    `netns` as `ip netns` names it; "": where we are. Another thread's pyroute2 socket is of no use.
    """

    def __init__(self, netns: str = "") -> None:
        self.netns = netns
        self._owner = Owner(netns or "here")
        if netns:
            self._owner.run(self._enter)

    def _enter(self) -> None:
        with open(f"/run/netns/{self.netns}") as namespace:
            if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def call(self, what: Callable[[], T]) -> T:
        return self._owner.run(what)

    def sh(self, command: str, *, check: bool = False) -> subprocess.CompletedProcess[str]:
        return self.call(
            lambda: subprocess.run(
                shlex.split(command),
                check=check,
                capture_output=True,
                text=True,
                timeout=scaled(60),
            )
        )

    def stop(self) -> None:
        self._owner.stop()


@dataclass(frozen=True, kw_only=True)
class Side:
    """One end of a tunnel, in a thread and a namespace of its own."""

    inside: Inside
    backend: Backend
    key: NodeKey
    port: int

    def run(self, what: Callable[[Backend], T]) -> T:
        return self.inside.call(lambda: what(self.backend))

    def sh(self, command: str) -> subprocess.CompletedProcess[str]:
        return self.inside.sh(command)


@contextmanager
def side(kind: str, name: str, port: int, address: str, netns: str = "") -> Iterator[Side]:
    """An end, with an address and a way into the tunnel for 10.9.0.0/16."""
    inside = Inside(netns)
    made = interface(kind, name, port)
    try:
        backend, key = inside.call(made.__enter__)
        try:
            for command in (
                f"ip address add {address}/32 dev {name}",
                f"ip route add 10.9.0.0/16 dev {name}",
            ):
                inside.sh(command, check=True)
            yield Side(inside=inside, backend=backend, key=key, port=port)
        finally:
            inside.call(lambda: made.__exit__(None, None, None))
    finally:
        inside.stop()


def cable() -> None:
    """A namespace `far` at the other end of a cable: 198.18.0.1 here, 198.18.0.2 there."""
    for command in (
        "ip netns add far",
        "ip link add cable type veth peer name cable netns far",
        "ip address add 198.18.0.1/24 dev cable",
        "ip link set cable up",
        "ip -n far address add 198.18.0.2/24 dev cable",
        "ip -n far link set cable up",
        "ip -n far link set lo up",
    ):
        subprocess.run(command.split(), check=True)


@contextmanager
def tunnel(kind: str) -> Iterator[tuple[Side, Side]]:
    """wg0 here with 10.9.0.1, and wg1 in the namespace `far` with 10.9.0.2; the first dials."""
    cable()
    with (
        side(kind, "wg0", 1000, "10.9.0.1") as near,
        side(kind, "wg1", 1001, "10.9.0.2", "far") as far,
    ):
        far.run(lambda b: b.set_peers([spec(near.key.public_key, "10.9.0.1/32")]))
        dialled = spec(far.key.public_key, "10.9.0.2/32", port=1001, host="198.18.0.2")
        near.run(lambda b: b.set_peers([dialled]))
        yield near, far
