"""Two who want to change the node at once, without a kernel underneath."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent import host
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from agent.keys import NodeKey
from agent.reconcile import Desired
from agent.settings import DEFAULT_MARK_MASK, Settings
from agent.sync import Synchronizer
from agent.wireguard.backend import Address, Endpoint, WgState
from ztlab.model.config import NodeConfig, Peer, Self
from ztlab.model.verdict import AuthzMode

NAMED = "late.example:51820"
NOTHING = WgState(public_key="", listen_port=0, peers={})
FOUND = {NAMED: Endpoint(address=ip_address("192.0.2.1"), port=51820)}


def config(*peers: str) -> NodeConfig:
    node = Self(node_id="n", name="me", role="client", identity="me", addresses=("10.1.0.1/32",))
    return NodeConfig(
        version=1,
        network_id="x",
        node=node,
        peers=tuple(
            Peer(
                node_id=name,
                name=name,
                role="gateway",
                public_key=NodeKey(bytes([8] * 31 + [64])).public_key,
                endpoint=NAMED,
                allowed_ips=("10.1.0.2/32",),
            )
            for name in peers
        ),
    )


class Remembering(Synchronizer):
    """Carries nothing out, and says what it would have."""

    def __init__(self, directory: Path) -> None:
        settings = Settings(
            authz_mode=AuthzMode.ENFORCE, logging_enabled=True, name="me", run_dir=str(directory)
        )
        marks = MarkLayout.from_mask(DEFAULT_MARK_MASK)
        super().__init__(settings, NodeKey(bytes(range(32))), marks, Limits())
        self.carried_out: list[NodeConfig] = []
        self.wanted = Desired(addresses=frozenset(), peers={}, routes=frozenset(), outside=None)

    def _carry_out(self, config: NodeConfig, wanted: Desired, _: object) -> WgState:
        self.carried_out.append(config)
        self.wanted = wanted
        return NOTHING

    @property
    def outside(self) -> frozenset[Address]:
        return self._found.outside

    def _look(self) -> None:
        pass

    def _read_back(self, *_: object) -> tuple[int, int]:
        return 0, 0


@pytest.fixture
def sync(tmp_path: Path) -> Iterator[Remembering]:
    made = Remembering(tmp_path)
    yield made
    made.close()


def test_a_name_that_resolves_later_is_dialled(
    sync: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "resolve", lambda _: {})
    sync.apply(config("gateway"))
    sync.resolve_again()
    assert len(sync.carried_out) == 1
    monkeypatch.setattr(host, "resolve", lambda names: FOUND if names else {})
    sync.resolve_again()
    sync.resolve_again()
    assert len(sync.carried_out) == 2


def test_a_coordinator_that_resolves_later_comes_outside_the_tunnel(
    sync: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "resolve", lambda _: {})
    addresses: dict[str, frozenset[Address]] = {"found": frozenset()}
    monkeypatch.setattr(sync, "_coordinator_addresses", lambda: addresses["found"])
    sync.apply(config("gateway"))
    addresses["found"] = frozenset({ip_address("192.0.2.9")})
    sync.resolve_again()
    assert sync.outside == addresses["found"]
    # An answer that fails to come takes nothing back.
    addresses["found"] = frozenset()
    sync.resolve_again()
    sync.apply(config())
    assert sync.outside == {ip_address("192.0.2.9")}


def test_a_name_that_resolved_once_is_kept_while_it_does_not(
    sync: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "resolve", lambda _: FOUND)
    sync.apply(config("gateway"))
    monkeypatch.setattr(host, "resolve", lambda _: {})
    sync.apply(config("renamed"))
    assert sync.wanted.peers and all(peer.endpoint for peer in sync.wanted.peers.values())


def test_a_slow_lookup_does_not_bring_back_what_a_newer_configuration_revoked(
    sync: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "resolve", lambda _: {})
    sync.apply(config("revoked"))
    asked, answer = threading.Event(), threading.Event()
    slow: list[threading.Thread] = []

    def resolve(_: object) -> dict[str, Endpoint]:
        if threading.current_thread() not in slow:
            return {}
        asked.set()
        answer.wait(10)
        return FOUND

    monkeypatch.setattr(host, "resolve", resolve)
    slow.append(threading.Thread(target=sync.resolve_again))
    slow[0].start()
    assert asked.wait(10)
    newer = config()
    sync.apply(newer)
    answer.set()
    slow[0].join(10)
    assert sync.config is newer and sync.carried_out[-1] is newer
