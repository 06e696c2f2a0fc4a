"""Both WireGuards, for real: what one is told is what it reads back, and it leaves nothing behind.

Each test runs once per backend; the one that this machine does not have is skipped by name.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from agent.wireguard.choose import open_backend
from agent.wireguard.links import Links
from tests.e2e.isolation import isolated
from tests.e2e.wireguards import (
    MAKERS,
    add,
    both,
    interface,
    new_key,
    spec,
    wait_for,
)
from ztlab.errors import HostUnfit

pytestmark = pytest.mark.root


@both
@isolated
def test_what_was_set_is_read_back(kind: str) -> None:
    with interface(kind) as (backend, key):
        four = spec(new_key(), "10.0.0.2/32", "0.0.0.0/0", port=4444, keepalive_s=25)
        six = spec(new_key(), "fd00::2/128", "::/0", port=6666, host="::1")
        silent = spec(new_key())
        for peer in (four, six, silent):
            add(backend, peer)

        state = backend.state()

        assert (state.public_key, state.listen_port) == (key.public_key, 51820)
        for peer in (four, six, silent):
            found = state.peers[peer.public_key]
            assert found.endpoint == peer.endpoint
            assert found.allowed_ips == peer.allowed_ips
            assert found.keepalive_s == peer.keepalive_s
            assert found.last_handshake_at == 0.0
        assert len(state.peers) == 3


@both
@isolated
def test_prefixes_are_added_without_losing_others(kind: str) -> None:
    with interface(kind) as (backend, _):
        key = new_key()
        add(backend, spec(key, "10.0.0.2/32"))
        assert add(backend, spec(key, "10.0.0.3/32")).allowed_ips == {"10.0.0.2/32", "10.0.0.3/32"}


@both
@isolated
def test_two_interfaces_shake_hands_and_say_when(kind: str) -> None:
    with interface(kind, "wg0", 1000) as (first, a), interface(kind, "wg1", 1001) as (second, b):
        second.set_peers([spec(a.public_key, "10.0.0.1/32")])
        before = time.time()
        first.set_peers([spec(b.public_key, "10.0.0.2/32", port=1001, keepalive_s=25)])
        wait_for(lambda: first.state().peers[b.public_key].last_handshake_at > 0)
        peer = first.state().peers[b.public_key]
        assert before - 1 <= peer.last_handshake_at <= time.time() + 1
        assert peer.rx_bytes > 0 and peer.tx_bytes > 0
        wait_for(lambda: second.state().peers[a.public_key].last_handshake_at > 0)
        assert second.state().peers[a.public_key].endpoint is not None  # it learned where we are


@both
@isolated
def test_a_lost_initiation_is_not_repeated_at_once_but_a_new_peer_initiates(kind: str) -> None:
    """Why the agent makes late peers anew."""
    with interface(kind, "wg0", 1000) as (first, a), interface(kind, "wg1", 1001) as (second, b):
        second.set_peers([spec(a.public_key, "10.0.0.1/32")])
        peer = spec(b.public_key, "10.0.0.2/32", port=1001, keepalive_s=25)
        nowhere = spec(b.public_key, "10.0.0.2/32", port=1009, keepalive_s=25)
        first.set_peers([nowhere])  # so the initiation is lost
        wait_for(lambda: first.state().peers[b.public_key].tx_bytes > 0)
        first.set_peers([peer])
        time.sleep(0.5)
        assert first.state().peers[b.public_key].last_handshake_at == 0.0  # control

        first.remove_peers([b.public_key])
        first.set_peers([peer])

        assert wait_for(lambda: first.state().peers[b.public_key].last_handshake_at > 0) < 1.0


@both
@isolated
def test_a_predecessors_interface_is_adopted_with_its_peers(kind: str) -> None:
    with interface(kind) as (_, key):
        links = Links()
        successor = open_backend("auto", "wg0", links)  # finds the kind by looking
        assert successor.kind == kind
        assert successor.state().public_key == key.public_key
        successor.close()
        assert links.kind("wg0") is None
        links.close()


@both
@isolated
def test_closing_leaves_no_interface_no_socket_and_no_process(kind: str) -> None:
    links = Links()
    backend = MAKERS[kind]("wg0", links)
    backend.open()
    assert backend.is_alive()
    backend.close()
    backend.close()
    assert not backend.is_alive()
    assert links.index("wg0") is None
    assert not Path("/var/run/wireguard/wg0.sock").exists()
    assert subprocess.run(["pgrep", "-x", "wireguard-go"], capture_output=True).returncode == 1
    links.close()


@both
@isolated
def test_somebody_elses_interface_of_that_name_is_left_alone(kind: str) -> None:
    subprocess.run(["ip", "link", "add", "wg0", "type", "bridge"], check=True)
    links = Links()
    with pytest.raises(HostUnfit, match="already an interface wg0"):
        MAKERS[kind]("wg0", links).open()
    assert links.kind("wg0") == "bridge"
    links.close()


@pytest.mark.wireguard
@isolated
def test_a_socket_left_by_a_killed_wireguard_go_is_no_obstacle() -> None:
    Path("/var/run/wireguard").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("/var/run/wireguard/wg0.sock")
    with interface("userspace") as (backend, key):
        assert backend.state().public_key == key.public_key


@pytest.mark.wireguard
@isolated
def test_the_death_of_wireguard_go_is_noticed() -> None:
    with interface("userspace") as (backend, _):
        found = subprocess.run(["pgrep", "-x", "wireguard-go"], capture_output=True, text=True)
        os.kill(int(found.stdout), signal.SIGKILL)
        wait_for(lambda: not backend.is_alive())


@pytest.mark.wireguard
@isolated
def test_no_private_key_shows_in_process_arguments_or_environment() -> None:
    with interface("userspace") as (_, key):
        for process in Path("/proc").glob("[0-9]*"):
            for file in ("cmdline", "environ"):
                assert key.private_key().encode() not in (process / file).read_bytes()


@isolated
def test_without_any_wireguard_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    links = Links()
    with pytest.raises(HostUnfit) as caught:
        open_backend("userspace", "wg0", links)
    assert "wireguard-go is not installed" in str(caught.value)
    assert "apt-get install wireguard-go" in caught.value.hint
    links.close()
