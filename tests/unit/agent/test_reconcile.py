"""The order of a change, held against a model of what WireGuard and the datapath do with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import reconcile
from agent.reconcile import Desired, Observed, plan
from agent.wireguard.backend import Endpoint, PeerSpec, Route, WgPeer, WgState
from agent.wireguard.preshared import PresharedKey
from ztlab.errors import ZtError
from ztlab.model.config import NodeConfig, Peer, Role, Self

KEYS = [f"key-{i}" for i in range(4)]
PREFIXES = [f"10.0.0.{i}/32" for i in range(6)]
SECRETS = [PresharedKey(bytes([i]) * 32) for i in (1, 2)]
REAL_KEYS = [
    "0E9VJWbEeQxxGzyd8XfTCKbW+OKhE7Jbs0N3hcEsWVM=",
    "tPpaPBCVYkpsLUgKD8s8ZGjzIp+ZuqjF6gZ4wM2zpyw=",
]


def endpoint(last: int) -> Endpoint:
    return Endpoint(address=ip_address(f"192.0.2.{last}"), port=51820)


def spec(
    key: str,
    *prefixes: str,
    at: Endpoint | None = None,
    keepalive_s: int = 0,
    secret: PresharedKey | None = None,
) -> PeerSpec:
    return PeerSpec(
        public_key=key,
        endpoint=at,
        allowed_ips=frozenset(prefixes),
        keepalive_s=keepalive_s,
        preshared_key=secret,
    )


def wanted(*peers: PeerSpec, addresses: tuple[str, ...] = ()) -> Desired:
    return Desired(
        addresses=frozenset(addresses),
        peers={p.public_key: p for p in peers},
        routes=frozenset(Route(prefix=a) for p in peers for a in p.allowed_ips),
        outside=None,
    )


@dataclass
class Host:
    """WireGuard with its stealing AllowedIPs, and the identity map as a set of prefixes."""

    peers: dict[str, WgPeer] = field(default_factory=dict)
    addresses: set[str] = field(default_factory=set)
    routes: set[Route] = field(default_factory=set)
    identities: set[str] = field(default_factory=set)
    policy: int = 0
    touched: set[str] = field(default_factory=set)
    stolen: list[str] = field(default_factory=list)

    def observed(self) -> Observed:
        return Observed(
            wg=WgState(public_key="own", listen_port=1, peers=dict(self.peers)),
            addresses=frozenset(self.addresses),
            routes=frozenset(self.routes),
            outside=None,
        )

    def live_prefixes(self) -> set[str]:
        return {prefix for peer in self.peers.values() for prefix in peer.allowed_ips}

    def set_peer(self, peer: PeerSpec) -> None:
        self.touched.add(peer.public_key)
        there = self.peers.get(peer.public_key)
        kept = frozenset[str]() if there is None else there.allowed_ips
        for key, other in list(self.peers.items()):
            if key != peer.public_key and other.allowed_ips & peer.allowed_ips:
                self.stolen.append(key)
                left = other.allowed_ips - peer.allowed_ips
                self.peers[key] = replace(other, allowed_ips=left)
        self.peers[peer.public_key] = WgPeer(
            endpoint=peer.endpoint or (there.endpoint if there else None),
            allowed_ips=kept | peer.allowed_ips,
            keepalive_s=peer.keepalive_s,
            last_handshake_at=0.0,
            rx_bytes=0,
            tx_bytes=0,
            preshared_key=peer.preshared_key,
        )

    def do(self, step: reconcile.Step, final: Desired) -> None:
        everyone = {prefix for peer in final.peers.values() for prefix in peer.allowed_ips}
        match step:
            case reconcile.RemoveIdentities():
                # An entry whose owner changes is another entry: it goes as well.
                owners = {p: k for k, peer in final.peers.items() for p in peer.allowed_ips}
                now = {p: k for k, peer in self.peers.items() for p in peer.allowed_ips}
                self.identities &= {p for p in everyone if now.get(p, owners[p]) == owners[p]}
            case reconcile.ApplyPolicy():
                self.policy += 1
            case reconcile.PutIdentities():
                self.identities |= everyone
            case reconcile.RemovePeers(keys):
                for key in keys:
                    del self.peers[key]
            case reconcile.NarrowPeer(key, prefixes):
                self.touched.add(key)
                there = self.peers[key]
                assert prefixes <= there.allowed_ips, "it would be taken from somebody else"
                self.peers[key] = replace(there, allowed_ips=there.allowed_ips - prefixes)
            case reconcile.SetPeers(peers):
                for peer in peers:
                    self.set_peer(peer)
            case reconcile.AddAddress(prefix):
                self.addresses.add(prefix)
            case reconcile.RemoveAddress(prefix):
                self.addresses.remove(prefix)
            case reconcile.AddRoute(route):
                self.routes.add(route)
            case reconcile.RemoveRoute(route):
                self.routes.remove(route)
            case reconcile.SetOutside():
                raise AssertionError("no default route was asked for")


def run(host: Host, final: Desired, before: Desired | None) -> tuple[reconcile.Step, ...]:
    steps = plan(final, host.observed(), before=before)
    for step in steps:
        host.do(step, final)
    return steps


@st.composite
def networks(draw: st.DrawFn) -> Desired:
    owners = draw(st.lists(st.sampled_from([None, *KEYS]), min_size=6, max_size=6))
    peers = [
        spec(
            key,
            *(p for p, owner in zip(PREFIXES, owners, strict=True) if owner == key),
            at=draw(st.sampled_from([None, endpoint(1), endpoint(2)])),
            keepalive_s=draw(st.sampled_from([0, 25])),
            secret=draw(st.sampled_from([None, *SECRETS])),
        )
        for key in draw(st.sets(st.sampled_from(KEYS)))
    ]
    addresses = draw(st.sets(st.sampled_from(["10.1.0.1/32", "10.1.0.2/32"])))
    return wanted(*peers, addresses=tuple(addresses))


@given(first=networks(), second=networks())
def test_any_change_ends_in_what_was_wanted(first: Desired, second: Desired) -> None:
    host = Host()
    run(host, first, None)

    run(host, second, first)

    assert {k: p.allowed_ips for k, p in host.peers.items()} == {
        k: p.allowed_ips for k, p in second.peers.items()
    }
    assert not reconcile.astray(second, host.observed().wg)
    assert host.addresses == second.addresses
    assert host.routes == second.routes
    assert host.stolen == [], "a prefix was moved by WireGuard, not by us"


@given(first=networks(), second=networks())
def test_no_step_leaves_a_live_prefix_without_identity_but_one_that_goes(
    first: Desired, second: Desired
) -> None:
    host = Host()
    run(host, first, None)
    leaving = host.live_prefixes()
    for step in plan(second, host.observed(), before=first):
        host.do(step, second)
        if isinstance(step, reconcile.PutIdentities):
            leaving = set()
        assert host.live_prefixes() - host.identities <= leaving, step


@given(first=networks())
def test_applying_the_same_again_touches_nothing(first: Desired) -> None:
    host = Host()
    run(host, first, None)
    host.touched.clear()

    steps = run(host, first, first)

    assert not host.touched
    assert all(
        isinstance(s, (reconcile.RemoveIdentities, reconcile.ApplyPolicy, reconcile.PutIdentities))
        for s in steps
    )


def test_only_the_changed_peer_is_touched() -> None:
    host = Host()
    before = wanted(spec("key-0", PREFIXES[0]), spec("key-1", PREFIXES[1]))
    run(host, before, None)
    host.touched.clear()

    run(host, wanted(spec("key-0", PREFIXES[0]), spec("key-1", *PREFIXES[1:3])), before)

    assert host.touched == {"key-1"}


def test_a_prefix_that_moves_leaves_before_it_arrives() -> None:
    host = Host()
    before = wanted(spec("key-1", *PREFIXES[:2]), spec("key-0", PREFIXES[2]))
    run(host, before, None)

    steps = run(host, wanted(spec("key-1", PREFIXES[0]), spec("key-0", *PREFIXES[1:3])), before)

    kinds = [type(step).__name__ for step in steps]
    assert kinds.index("RemoveIdentities") < kinds.index("NarrowPeer")
    assert kinds.index("NarrowPeer") < kinds.index("ApplyPolicy") < kinds.index("PutIdentities")
    assert kinds.index("PutIdentities") < kinds.index("SetPeers")
    assert host.stolen == []


@given(first=networks(), second=networks())
def test_on_a_client_a_prefix_that_stays_is_behind_a_peer_all_the_while(
    first: Desired, second: Desired
) -> None:
    host = Host()
    client = replace(second, names_peers=False)
    run(host, first, None)
    there = {p for k, peer in first.peers.items() if k in second.peers for p in peer.allowed_ips}
    stays = there & {p for peer in second.peers.values() for p in peer.allowed_ips}

    for step in plan(client, host.observed(), before=first):
        host.do(step, client)
        assert stays <= host.live_prefixes(), step

    assert not reconcile.astray(client, host.observed().wg)
    assert host.routes == second.routes


def test_a_client_narrows_a_gateway_by_what_is_behind_no_other() -> None:
    host = Host()
    before = replace(wanted(spec("key-0", *PREFIXES[:3]), spec("key-1")), names_peers=False)
    run(host, before, None)
    after = replace(
        wanted(spec("key-0", PREFIXES[0]), spec("key-1", PREFIXES[1])), names_peers=False
    )

    steps = run(host, after, before)

    narrowed = [step for step in steps if isinstance(step, reconcile.NarrowPeer)]
    assert narrowed == [reconcile.NarrowPeer("key-0", frozenset({PREFIXES[2]}))]
    assert host.stolen == ["key-0"]


@pytest.mark.parametrize(("role", "names"), [("client", False), ("gateway", True), ("mesh", True)])
def test_who_judges_names_its_peers(role: Role, names: bool) -> None:
    told = config(peer("b", REAL_KEYS[0], "10.1.0.2/32"))
    told = replace(told, node=replace(told.node, role=role))
    found = reconcile.desired(told, endpoints={}, coordinator=frozenset())
    assert found.names_peers is names


def test_a_peer_that_roams_is_left_where_it_is() -> None:
    host = Host()
    before = wanted(spec("key-0", PREFIXES[0], at=endpoint(1)))
    run(host, before, None)
    host.peers["key-0"] = replace(host.peers["key-0"], endpoint=endpoint(9))
    host.touched.clear()

    run(host, wanted(spec("key-0", PREFIXES[0], at=endpoint(1))), before)
    assert host.touched == set()

    run(host, wanted(spec("key-0", PREFIXES[0], at=endpoint(2))), before)
    assert host.peers["key-0"].endpoint == endpoint(2)


def test_a_successor_leaves_a_peer_where_it_roamed_to_unless_it_is_told_another_endpoint() -> None:
    elsewhere = endpoint(99)
    there = WgPeer(
        endpoint=elsewhere,
        allowed_ips=frozenset(PREFIXES[:1]),
        keepalive_s=0,
        last_handshake_at=1.0,
        rx_bytes=0,
        tx_bytes=0,
    )
    now = Observed(
        wg=WgState(public_key="", listen_port=0, peers={KEYS[0]: there}),
        addresses=frozenset(),
        routes=frozenset({Route(prefix=PREFIXES[0])}),
        outside=None,
    )
    told = {KEYS[0]: str(endpoint(1))}
    for asked, is_set in ((endpoint(1), False), (endpoint(2), True)):
        shall = wanted(spec(KEYS[0], PREFIXES[0], at=asked))
        steps = plan(shall, now, before=reconcile.as_told(shall, told))
        assert any(isinstance(step, reconcile.SetPeers) for step in steps) == is_set


@pytest.mark.parametrize(
    "other",
    [
        spec("key-0", PREFIXES[0]),
        spec("key-0", PREFIXES[0], secret=SECRETS[1]),
        spec("key-0", PREFIXES[0], PREFIXES[1], secret=SECRETS[0]),
        spec("key-0", secret=SECRETS[0]),
        spec("key-0", PREFIXES[0], secret=SECRETS[0], keepalive_s=1),
        spec("key-1", PREFIXES[0], secret=SECRETS[0]),
    ],
    ids=["no secret", "another secret", "more", "less", "keepalive", "another peer"],
)
def test_whatever_was_read_back_and_not_meant_is_astray(other: PeerSpec) -> None:
    meant = wanted(spec("key-0", PREFIXES[0], secret=SECRETS[0]))
    host = Host()
    run(host, meant, None)
    assert reconcile.astray(meant, host.observed().wg) == frozenset()
    host.peers.clear()

    host.set_peer(other)

    assert "key-0" in reconcile.astray(meant, host.observed().wg)


def test_many_new_peers_are_one_step_and_so_are_many_that_go() -> None:
    host = Host()
    many = wanted(*(spec(f"key-{i}", f"10.0.{i}.0/24") for i in range(100)))
    steps = run(host, many, None)
    assert sum(isinstance(step, reconcile.SetPeers) for step in steps) == 1
    steps = run(host, wanted(), many)
    assert sum(isinstance(step, reconcile.RemovePeers) for step in steps) == 1
    assert host.peers == {}


def test_preshared_keys_go_to_the_peers_they_name_and_to_nobody_else() -> None:
    result = reconcile.desired(
        config(peer("b", REAL_KEYS[0], "10.1.0.2/32"), peer("c", REAL_KEYS[1], "10.1.0.3/32")),
        endpoints={},
        coordinator=frozenset(),
        preshared={REAL_KEYS[0]: SECRETS[0], "a stranger": SECRETS[1]},
    )
    secrets = {key: spec.preshared_key for key, spec in result.peers.items()}
    assert secrets == {REAL_KEYS[0]: SECRETS[0], REAL_KEYS[1]: None}
    assert SECRETS[0].reveal().hex() not in repr(result) and str(SECRETS[0].reveal()) not in str(
        result
    )


def config(*peers: Peer) -> NodeConfig:
    node = Self(node_id="n", name="me", role="mesh", identity="me", addresses=("10.1.0.1/32",))
    return NodeConfig(version=1, network_id="x", node=node, peers=peers)


def peer(name: str, key: str, *prefixes: str, at: str | None = None) -> Peer:
    return Peer(
        node_id=name, name=name, role="mesh", public_key=key, endpoint=at, allowed_ips=prefixes
    )


def test_a_default_route_goes_through_a_table_of_its_own_and_the_coordinator_stays_outside() -> (
    None
):
    coordinator = frozenset({ip_address("198.51.100.1")})
    result = reconcile.desired(
        config(peer("gw", REAL_KEYS[0], "0.0.0.0/0", "10.1.0.2/32")),
        endpoints={},
        coordinator=coordinator,
    )
    assert result.routes == {
        Route(prefix="0.0.0.0/0", table="tunnel"),
        Route(prefix="10.1.0.2/32", table="main"),
    }
    assert result.outside == frozenset({"198.51.100.1"})


def test_a_prefix_that_covers_an_endpoint_does_not_pull_it_into_the_tunnel() -> None:
    result = reconcile.desired(
        config(peer("gw", REAL_KEYS[0], "192.0.2.0/24", at="192.0.2.1:51820")),
        endpoints={"192.0.2.1:51820": endpoint(1)},
        coordinator=frozenset(),
    )
    assert result.routes == {Route(prefix="192.0.2.0/24", table="tunnel")}
    assert result.outside == frozenset()


def test_without_a_covering_prefix_there_are_no_rules() -> None:
    result = reconcile.desired(
        config(peer("b", REAL_KEYS[0], "10.1.0.2/32", at="192.0.2.1:51820")),
        endpoints={"192.0.2.1:51820": endpoint(1)},
        coordinator=frozenset({ip_address("198.51.100.1")}),
    )
    assert result.outside is None


@pytest.mark.parametrize(
    ("peers", "complaint"),
    [
        (
            (
                peer("b", REAL_KEYS[0], "10.1.0.2/32"),
                peer("c", REAL_KEYS[1], "10.1.0.2/32"),
            ),
            "belongs to two peers, b and c",
        ),
        ((peer("b", REAL_KEYS[0], "10.1.0.1/32"),), "this node's own address"),
        ((peer("b", "own", "10.1.0.2/32"),), "this node's own public key"),
        (
            (peer("b", REAL_KEYS[0], "10.1.0.2/32"), peer("c", REAL_KEYS[0], "10.1.0.3/32")),
            "another peer's public key",
        ),
    ],
)
def test_what_wireguard_would_resolve_silently_is_refused(
    peers: tuple[Peer, ...], complaint: str
) -> None:
    with pytest.raises(ZtError, match=complaint):
        reconcile.desired(config(*peers), endpoints={}, coordinator=frozenset(), own_key="own")


def rotating(*keys: str, holder: str) -> Desired:
    """One node with KEYS, of which HOLDER has its prefixes, beside another node."""
    changing = (spec(key, *(PREFIXES[:2] if key == holder else ())) for key in keys)
    nodes = {**dict.fromkeys(keys, "changing"), "other": "other"}
    return replace(wanted(*changing, spec("other", PREFIXES[2])), nodes=nodes)


def test_a_node_that_changed_its_key_is_never_without_its_prefixes() -> None:
    host, stages = Host(), [("old",), ("old", "new"), ("new",)]
    before = None
    for keys in stages:
        final = rotating(*keys, holder=keys[0])
        for step in plan(final, host.observed(), before=before):
            host.do(step, final)
            if before is not None:
                assert set(PREFIXES[:2]) <= host.live_prefixes(), step
        assert not reconcile.astray(final, host.observed().wg)
        before = final
    assert host.stolen == ["old"]


@pytest.mark.parametrize("why", ["another node", "nothing known", "not all of them"])
def test_prefixes_go_straight_from_key_to_key_of_one_node_only(why: str) -> None:
    host = Host()
    first = rotating("old", "new", holder="old")
    run(host, first, None)
    final = rotating("new", holder="new")
    before: Desired | None = first
    if why == "another node":
        final = replace(final, nodes={**final.nodes, "new": "somebody"})
    elif why == "nothing known":
        before = None
    else:
        final = replace(final, peers={**final.peers, "new": spec("new", PREFIXES[0])})
    run(host, final, before)
    assert host.stolen == [] and not reconcile.astray(final, host.observed().wg)
