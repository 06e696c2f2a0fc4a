"""An interface that is made in one namespace and moved into another: its UDP stays at home."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agent.keys import NodeKey
from agent.wireguard.backend import Backend
from agent.wireguard.choose import open_backend
from agent.wireguard.links import INCOMPLETE, Links
from tests.e2e.isolation import isolated
from tests.e2e.wireguards import MAKERS, Inside, both, cable, configure, side, spec, wait_for
from ztlab.errors import HostUnfit, ZtError

pytestmark = pytest.mark.root

PORT = 1000


def udp_ports() -> set[int]:
    """The UDP ports that are taken in this thread's namespace."""
    lines = Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]
    return {int(line.split()[1].partition(":")[2], 16) for line in lines}


def make_and_move(kind: str, key: NodeKey) -> tuple[Links, Backend]:
    """wg0, keyed here where the cable is, and moved into the namespace `inner`."""
    for command in ("ip netns add inner", "ip -n inner link set lo up"):
        subprocess.run(command.split(), check=True)
    links = Links()
    born = MAKERS[kind]("wg0", links)
    born.open()
    configure(born, key, PORT)
    subprocess.run("ip link set wg0 netns inner".split(), check=True)
    return links, born


def adopt(key: NodeKey) -> tuple[Links, Backend]:
    """What an agent in `inner` does with it."""
    links = Links()
    backend = open_backend("auto", "wg0", links)
    assert backend.state().public_key == key.public_key
    configure(backend, key, PORT)
    links.set_up("wg0", mtu=1420, listen_port=PORT)
    for command in ("ip address add 10.9.0.1/32 dev wg0", "ip route add 10.9.0.0/16 dev wg0"):
        subprocess.run(command.split(), check=True)
    return links, backend


@both
@isolated
def test_a_moved_interface_is_adopted_where_it_is_and_its_packets_leave_where_it_was_born(
    kind: str,
) -> None:
    key = NodeKey(os.urandom(32))
    cable()
    home_links, _ = make_and_move(kind, key)
    inner = Inside("inner")
    links, backend = inner.call(lambda: adopt(key))
    assert backend.kind == kind and inner.call(backend.is_alive)
    with side(kind, "wg1", 1001, "10.9.0.2", "far") as far:
        far.run(lambda b: b.set_peers([spec(key.public_key, "10.9.0.1/32")]))
        # The address is one that only the birth namespace has a way to.
        peer = spec(far.key.public_key, "10.9.0.2/32", port=1001, host="198.18.0.2", keepalive_s=1)
        assert inner.sh("ip route get 198.18.0.2").returncode != 0
        inner.call(lambda: backend.set_peers([peer]))

        # wireguard-go looks once a second whether a tun elsewhere has gone up.
        wait_for(lambda: inner.sh("ping -c1 -W1 10.9.0.2").returncode == 0, 10)

        assert PORT in udp_ports() and PORT not in inner.call(udp_ports)
        there = inner.call(lambda: backend.state().peers[far.key.public_key])
        assert there.endpoint == peer.endpoint and there.allowed_ips == peer.allowed_ips

    inner.call(backend.close)
    assert inner.call(lambda: links.kind("wg0")) is None
    wait_for(lambda: PORT not in udp_ports())
    for thread, opened in ((inner.call, links), (lambda what: what(), home_links)):
        thread(opened.close)
    inner.stop()


@both
@isolated
def test_who_lost_it_to_another_namespace_notices_and_is_told_what_is_in_the_way(
    kind: str,
) -> None:
    key = NodeKey(os.urandom(32))
    cable()
    links, born = make_and_move(kind, key)
    inner = Inside("inner")
    inner_links, adopted = inner.call(lambda: adopt(key))
    wait_for(lambda: PORT in udp_ports())

    assert not born.is_alive() and links.kind("wg0") is None
    second = MAKERS[kind]("wg0", links)
    if kind == "userspace":
        # Its socket is in both namespaces' /run: a second one would take it from the first.
        with pytest.raises(HostUnfit, match="its wg0 is not here") as unfit:
            second.open()
        assert "another network namespace" in unfit.value.hint
        # But who made it ends its process, and with it goes the interface, wherever it is.
        born.close()
        assert inner.call(lambda: inner_links.kind("wg0")) is None
    else:
        second.open()
        with pytest.raises(ZtError, match=f"UDP port {PORT}") as taken:
            configure(second, key, PORT)
            links.set_up("wg0", mtu=1420, listen_port=PORT)
        assert "listen_port" in taken.value.hint
        assert PORT in udp_ports()
        inner.call(adopted.close)
        second.close()

    # With that one gone, the place is free.
    second = MAKERS[kind]("wg0", links)
    second.open()
    configure(second, key, PORT)
    links.set_up("wg0", mtu=1420, listen_port=PORT)
    assert second.state().listen_port == PORT and second.is_alive()
    second.close()
    inner.call(inner_links.close)
    links.close()
    inner.stop()


@isolated
def test_a_rule_that_somebody_deleted_is_missed_and_comes_back() -> None:
    links, outside = Links(), frozenset({"192.0.2.1", "2001:db8::1"})
    subprocess.run("ip link add wg0 type veth".split(), check=True)
    links.set_outside("wg0", outside)
    assert links.outside("wg0") == outside
    for family in ("-4", "-6"):
        for priority in ("10741", "10742"):
            command = f"ip {family} rule del priority {priority}"
            subprocess.run(command.split(), check=True)
            assert links.outside("wg0") == INCOMPLETE
            links.set_outside("wg0", outside)
            assert links.outside("wg0") == outside
    links.set_outside("wg0", None)
    assert links.outside("wg0") is None


@isolated
def test_addresses_that_somebody_added_are_seen_as_they_are_and_can_be_removed() -> None:
    links, added = Links(), {"10.88.0.1/24", "10.88.1.1/32", "fd88::1/64"}
    subprocess.run("ip link add wg0 type veth".split(), check=True)
    for address in added:
        subprocess.run(f"ip address add {address} dev wg0".split(), check=True)
    assert links.addresses("wg0") == added
    for address in added:
        links.remove_address("wg0", address)
    assert links.addresses("wg0") == set()
