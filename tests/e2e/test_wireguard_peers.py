"""Peers of both WireGuards: many at once, changed one by one, and never more touched than asked."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
from functools import partial
from ipaddress import IPv4Address

import pytest

from agent.keys import NodeKey
from agent.wireguard.backend import Backend, PeerSpec
from agent.wireguard.kernel import KernelWireGuard
from agent.wireguard.preshared import PresharedKey
from tests.e2e.isolation import isolated
from tests.e2e.wireguards import (
    add,
    both,
    configure,
    has_shaken_hands,
    interface,
    new_key,
    spec,
    tunnel,
    wait_for,
)

pytestmark = pytest.mark.root

PEERS, PREFIXES_EACH = 1000, 10
TEN = int(IPv4Address("10.0.0.0"))


def network(peers: int, each: int) -> list[PeerSpec]:
    """PEERS with EACH prefixes of both families, all different."""
    return [
        spec(
            new_key(),
            *(
                f"fd00:{n >> 16:x}:{n & 0xFFFF:x}::/48" if n % 2 else f"{IPv4Address(TEN + n)}/32"
                for n in range(1 + peer * each, 1 + (peer + 1) * each)
            ),
            port=1024 + peer,
            keepalive_s=25 if peer % 2 else 0,
            secret=PresharedKey(os.urandom(32)) if peer % 3 else None,
        )
        for peer in range(peers)
    ]


def assert_as_meant(backend: Backend, peers: list[PeerSpec]) -> None:
    found = backend.state().peers
    assert found.keys() == {peer.public_key for peer in peers}
    for peer in peers:
        there = found[peer.public_key]
        assert there.allowed_ips == peer.allowed_ips
        assert (there.endpoint, there.keepalive_s) == (peer.endpoint, peer.keepalive_s)
        assert there.preshared_key == peer.preshared_key


@both
@isolated
def test_a_thousand_peers_with_ten_thousand_prefixes_are_set_read_back_and_removed(
    kind: str,
) -> None:
    peers = network(PEERS, PREFIXES_EACH)
    with interface(kind) as (backend, _):
        backend.set_peers(peers)
        assert_as_meant(backend, peers)

        gone, kept = peers[:400], peers[400:]
        backend.remove_peers(peer.public_key for peer in [*gone, spec(new_key())])
        assert_as_meant(backend, kept)


@both
@isolated
def test_one_peer_with_ten_thousand_prefixes_has_them_all(kind: str) -> None:
    with interface(kind) as (backend, _):
        many = [f"10.{i >> 8}.{i & 255}.0/24" for i in range(5000)]
        many += [f"fd00:{i:x}::/32" for i in range(1, 5001)]
        before, one, after = (
            spec(new_key(), "192.0.2.1/32"),
            spec(new_key(), *many),
            spec(new_key()),
        )
        peers = [before, one, after]
        backend.set_peers(peers)
        assert_as_meant(backend, peers)


@pytest.mark.kernel_wireguard
@isolated
def test_a_dump_of_the_kernel_comes_in_several_messages_and_a_peer_spans_them() -> None:
    """Else the tests above would not show what they claim."""
    with interface("kernel") as (backend, _):
        backend.set_peers(network(20, 250))
        assert isinstance(backend, KernelWireGuard)
        dump = backend._dump()
        assert len(dump) > 2
        parts = [message.get_attr("WGDEVICE_A_PEERS") for message in dump]
        keys = [base64.b64decode(key) for key in backend.state().peers]
        assert any(sum(part.count(key) for part in parts) > 1 for key in keys)


# --- one of many prefixes ---


@both
@isolated
def test_removed_prefixes_are_gone_and_nothing_else(kind: str) -> None:
    with interface(kind) as (backend, _):
        many = [f"10.{i >> 8}.{i & 255}.0/24" for i in range(3000)]
        peer = spec(new_key(), *many, "fd00::1/128", "fd00::/64", port=7, keepalive_s=9)
        other = spec(new_key(), "192.0.2.0/24", secret=PresharedKey(os.urandom(32)))
        backend.set_peers([peer, other])

        backend.remove_prefixes(peer.public_key, ["fd00::/64", *many[:2900]])

        left = spec(peer.public_key, *many[2900:], "fd00::1/128", port=7, keepalive_s=9)
        assert_as_meant(backend, [left, other])


@both
@isolated
def test_traffic_to_the_prefixes_that_stay_goes_on_while_others_are_taken(kind: str) -> None:
    many = [f"172.16.{i >> 8}.{i & 255}/32" for i in range(4000)]

    def take(key: str, leaving: list[str], backend: Backend) -> None:
        backend.remove_prefixes(key, leaving)

    with tunnel(kind) as (near, far):
        # At both ends: what goes out looks for its peer among these prefixes, and so does what
        # comes in.
        ends = ((near, far.key.public_key), (far, near.key.public_key))
        for side, key in ends:
            side.run(partial(add, peer=spec(key, *many)))
        assert near.sh("ping -c1 -W2 10.9.0.2").returncode == 0
        ping = subprocess.Popen(
            ["ping", "-i0.002", "-W2", "10.9.0.2"], stdout=subprocess.PIPE, text=True
        )
        with ping:
            for start in range(0, len(many) - 100, 10):
                for side, key in ends:
                    side.run(partial(take, key, many[start : start + 10]))
            ping.send_signal(signal.SIGINT)
            said, _ = ping.communicate()
        left = {"10.9.0.2/32", *many[-100:]}
        assert near.run(lambda b: b.state().peers[far.key.public_key].allowed_ips) == left
    # The last ones may be on their way still; before them none is missing.
    answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ", said)}
    assert len(answered) > 50 and answered == set(range(1, max(answered) + 1)), said


# --- the interface's own key ---


@both
@isolated
def test_with_a_new_private_key_the_peers_stay_and_the_old_key_is_refused(kind: str) -> None:
    with tunnel(kind) as (near, far):
        assert near.sh("ping -c1 -W2 10.9.0.2").returncode == 0
        before = near.run(lambda b: b.state().peers)
        shaken = far.run(lambda b: b.state().peers[near.key.public_key].last_handshake_at)
        new = NodeKey(os.urandom(32))

        near.run(lambda b: configure(b, new, near.port))

        after = near.run(lambda b: b.state())
        assert after.public_key == new.public_key
        assert after.peers.keys() == before.keys()
        for key, peer in after.peers.items():
            assert peer.allowed_ips == before[key].allowed_ips
            assert peer.endpoint == before[key].endpoint
        # The session is void too, in both directions, and the far end knows nobody by the new key.
        assert near.sh("ping -c2 -i0.2 -W1 10.9.0.2").returncode == 1
        assert far.sh("ping -c2 -i0.2 -W1 10.9.0.1").returncode == 1
        there = far.run(lambda b: b.state().peers)
        assert there[near.key.public_key].last_handshake_at == shaken

        # Control: it is for want of the key, and of nothing else.
        far.run(lambda b: b.remove_peers([near.key.public_key]))
        far.run(lambda b: b.set_peers([spec(new.public_key, "10.9.0.1/32")]))
        wait_for(lambda: near.sh("ping -c1 -W1 10.9.0.2").returncode == 0, 15)
        assert far.run(lambda b: has_shaken_hands(b, new.public_key))


@both
@isolated
def test_nobody_is_a_peer_of_himself(kind: str) -> None:
    """Both drop such a peer and say nothing: the agent refuses it, and compares what it reads."""
    with interface(kind) as (backend, key):
        new, other = NodeKey(os.urandom(32)), spec(new_key(), "10.0.0.2/32")
        backend.set_peers([spec(new.public_key, "10.0.0.3/32"), other])
        assert new.public_key in backend.state().peers  # control: by this key it is somebody else

        configure(backend, new, 51820)
        assert backend.state().peers.keys() == {other.public_key}

        backend.set_peers([spec(new.public_key, "10.0.0.2/32")])
        assert_as_meant(backend, [other])
        backend.set_peers([spec(key.public_key, "10.0.0.4/32")])
        assert key.public_key in backend.state().peers


# --- keepalive ---


@both
@isolated
def test_a_keepalive_is_sent_while_it_is_on_and_no_longer(kind: str) -> None:
    with (
        interface(kind, "wg0", 1000) as (backend, own),
        interface(kind, "wg1", 1001) as (one, a),
        interface(kind, "wg2", 1002) as (two, b),
    ):
        for other in (one, two):
            other.set_peers([spec(own.public_key, "10.0.0.1/32")])

        def peers(keepalive_s: int) -> list[PeerSpec]:
            steady = spec(a.public_key, "10.0.0.2/32", port=1001, keepalive_s=1)
            changing = spec(b.public_key, "10.0.0.3/32", port=1002, keepalive_s=keepalive_s)
            return [steady, changing]

        def sent(key: NodeKey) -> int:
            return backend.state().peers[key.public_key].tx_bytes

        backend.set_peers(peers(1))
        for key in (a, b):
            wait_for(partial(has_shaken_hands, backend, key.public_key))
        backend.set_peers(peers(0))
        assert backend.state().peers[b.public_key].keepalive_s == 0
        keepalives_of_a, keepalive_bytes = sent(a), 32
        wait_for(lambda: sent(a) >= keepalives_of_a + keepalive_bytes)
        silent = sent(b)
        wait_for(lambda: sent(a) >= keepalives_of_a + 4 * keepalive_bytes)
        assert sent(b) == silent

        backend.set_peers(peers(1))
        wait_for(lambda: sent(b) >= silent + 2 * keepalive_bytes)


# --- preshared keys ---


def show(what: str) -> str:
    """As another program reads it."""
    command = ["wg", "show", "wg0", what]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@both
@isolated
def test_a_preshared_key_is_set_changed_read_back_and_removed(kind: str) -> None:
    raw, other = os.urandom(32), os.urandom(32)
    with interface(kind) as (backend, _):
        key = new_key()
        for secret, shown in ((raw, raw), (other, other), (None, None)):
            peer = spec(key, "10.0.0.2/32", secret=PresharedKey(secret) if secret else None)
            backend.set_peers([peer])
            assert_as_meant(backend, [peer])
            text = base64.b64encode(shown).decode() if shown else "(none)"
            assert show("preshared-keys") == f"{key}\t{text}\n"


def has_sent(backend: Backend, key: str) -> bool:
    return backend.state().peers[key].tx_bytes > 0


@both
@isolated
def test_only_ends_with_the_same_preshared_key_shake_hands(kind: str) -> None:
    secret, wrong = PresharedKey(os.urandom(32)), PresharedKey(os.urandom(32))
    with (
        interface(kind, "wg0", 1000) as (backend, own),
        interface(kind, "wg1", 1001) as (right_one, a),
        interface(kind, "wg2", 1002) as (wrong_one, b),
        interface(kind, "wg3", 1003) as (none_at_all, c),
    ):
        right_one.set_peers([spec(own.public_key, "10.0.0.1/32", secret=secret)])
        wrong_one.set_peers([spec(own.public_key, "10.0.0.1/32", secret=wrong)])
        none_at_all.set_peers([spec(own.public_key, "10.0.0.1/32")])

        def peer(key: NodeKey, number: int) -> PeerSpec:
            prefix = f"10.0.0.{number}/32"
            return spec(key.public_key, prefix, port=1000 + number, keepalive_s=1, secret=secret)

        refused = [peer(b, 2), peer(c, 3)]
        backend.set_peers(refused)
        for other in refused:  # both were asked
            wait_for(partial(has_sent, backend, other.public_key))
        backend.set_peers([peer(a, 1)])
        wait_for(lambda: has_shaken_hands(backend, a.public_key))  # control
        assert not any(has_shaken_hands(backend, other.public_key) for other in refused)

        # It was for want of the key: with it, each shakes hands.
        for side, other in zip((wrong_one, none_at_all), refused, strict=True):
            side.set_peers([spec(own.public_key, "10.0.0.1/32", secret=secret)])
            backend.remove_peers([other.public_key])
            backend.set_peers([other])
            # An initiation right after another is dropped as a flood, and comes again after 5 s.
            wait_for(partial(has_shaken_hands, backend, other.public_key), 10)
