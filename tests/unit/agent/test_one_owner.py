"""A prefix never has two owners, on the way from any configuration to any other.

The steps of one change are applied one prefix and one peer at a time to a model of WireGuard's
AllowedIPs: a table in which a prefix has one peer, and giving it to another takes it from the first
without a word. What the steps say is held against that, not against what they end in alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from agent import reconcile
from agent.reconcile import Desired, Observed, plan
from agent.wireguard.backend import PeerSpec, Route, WgPeer, WgState

PREFIXES = ("10.0.0.1/32", "10.0.0.2/32", "10.0.0.0/24", "fd00::1/128", "fd00::/64")
NODES = ("a", "b", "c")
KEYS = {f"{node}{number}": node for node in NODES for number in (1, 2)}


@dataclass
class Move:
    """A prefix went straight from one peer to another, which WireGuard does silently."""

    prefix: str
    loser: str
    winner: str


@dataclass
class Table:
    """AllowedIPs: which peer a prefix has. Peers, and for each what it was told besides."""

    owner: dict[str, str] = field(default_factory=dict)
    peers: dict[str, PeerSpec] = field(default_factory=dict)

    def give(self, prefix: str, key: str) -> Move | None:
        before = self.owner.get(prefix, key)
        self.owner[prefix] = key
        return Move(prefix, before, key) if before != key else None

    def of(self, key: str) -> frozenset[str]:
        return frozenset(prefix for prefix, owner in self.owner.items() if owner == key)

    def observed(self) -> Observed:
        peers = {
            key: WgPeer(
                endpoint=None,
                allowed_ips=self.of(key),
                keepalive_s=spec.keepalive_s,
                last_handshake_at=0.0,
                rx_bytes=0,
                tx_bytes=0,
            )
            for key, spec in self.peers.items()
        }
        return Observed(
            wg=WgState(public_key="own", listen_port=1, peers=peers),
            addresses=frozenset(),
            routes=frozenset(map(_route, self.owner)),
            outside=None,
        )

    def do(self, step: reconcile.Step) -> Iterator[Move | None]:
        """STEP, in the smallest parts that a packet could come between."""
        match step:
            case reconcile.RemovePeers(keys):
                for key in keys:
                    del self.peers[key]
                    self.owner = {p: owner for p, owner in self.owner.items() if owner != key}
                    yield None
            case reconcile.NarrowPeer(key, prefixes):
                for prefix in sorted(prefixes):
                    assert self.owner.get(prefix) == key, "taken from somebody who has it not"
                    del self.owner[prefix]
                    yield None
            case reconcile.SetPeers(peers):
                for peer in peers:
                    self.peers[peer.public_key] = peer
                    yield None
                    for prefix in sorted(peer.allowed_ips):
                        yield self.give(prefix, peer.public_key)


def _route(prefix: str) -> Route:
    return Route(prefix=prefix)


@st.composite
def configurations(draw: st.DrawFn) -> Desired:
    """Nodes with one key or, while they change it, two; each prefix has one of the keys or none."""
    keys = draw(st.sets(st.sampled_from(sorted(KEYS))))
    holders = st.sampled_from([None, *sorted(keys)])
    owner = {prefix: draw(holders) for prefix in PREFIXES}
    peers = {
        key: PeerSpec(
            public_key=key,
            endpoint=None,
            allowed_ips=frozenset(p for p, holder in owner.items() if holder == key),
            keepalive_s=draw(st.sampled_from([0, 25])),
        )
        for key in keys
    }
    return Desired(
        addresses=frozenset(),
        peers=peers,
        routes=frozenset(_route(p) for p, holder in owner.items() if holder),
        outside=None,
        nodes={key: KEYS[key] for key in keys},
    )


@st.composite
def rotations(draw: st.DrawFn) -> tuple[Desired, Desired]:
    """Any change in which, besides, some nodes have changed their key: the new one has at the end
    all that the old one had."""
    first, second = draw(configurations()), draw(configurations())
    peers, nodes = dict(second.peers), dict(second.nodes)
    for node in draw(st.sets(st.sampled_from(NODES), min_size=1)):
        old, new = f"{node}1", f"{node}2"
        if old not in first.peers:
            continue
        held = first.peers[old].allowed_ips
        peers.pop(old, None)
        peers = {k: replace(p, allowed_ips=p.allowed_ips - held) for k, p in peers.items()}
        more = peers[new].allowed_ips if new in peers else frozenset[str]()
        peers[new] = PeerSpec(public_key=new, endpoint=None, allowed_ips=held | more, keepalive_s=0)
        nodes[new] = node
    routes = frozenset(_route(p) for peer in peers.values() for p in peer.allowed_ips)
    kept = {key: nodes[key] for key in peers}
    return first, replace(second, peers=peers, routes=routes, nodes=kept)


any_change = st.one_of(st.tuples(configurations(), configurations()), rotations())


def standing(first: Desired) -> Table:
    """WireGuard as FIRST wants it."""
    table = Table()
    for step in plan(first, table.observed(), before=None):
        for move in table.do(step):
            assert move is None
    return table


def rotated(first: Desired, second: Desired) -> dict[str, str]:
    """The documented exception (reconcile.py): a key that goes, whose node has, under other keys,
    all it held; and that node."""
    return {
        key: node
        for key, node in first.nodes.items()
        if key not in second.peers
        and first.peers[key].allowed_ips
        and all(
            node in {second.nodes[k] for k, p in second.peers.items() if prefix in p.allowed_ips}
            for prefix in first.peers[key].allowed_ips
        )
    }


@settings(max_examples=300)
@given(change=any_change)
def test_no_prefix_moves_silently_but_from_a_nodes_old_key_to_its_new_one(
    change: tuple[Desired, Desired],
) -> None:
    first, second = change
    table, exceptions = standing(first), rotated(first, second)
    for step in plan(second, table.observed(), before=first):
        for move in table.do(step):
            if move is not None:
                event("a prefix moved between keys of one node")
                assert move.loser in exceptions, move
                assert exceptions[move.loser] == second.nodes[move.winner], move
    assert {key: table.of(key) for key in table.peers} == {
        key: peer.allowed_ips for key, peer in second.peers.items()
    }


@settings(max_examples=300)
@given(change=any_change)
def test_nobody_is_without_a_prefix_that_it_keeps_between_any_two_steps(
    change: tuple[Desired, Desired],
) -> None:
    first, second = change
    table = standing(first)
    kept = {
        (prefix, key)
        for key, peer in first.peers.items()
        for prefix in peer.allowed_ips
        if key in second.peers and prefix in second.peers[key].allowed_ips
    }
    nodes = {
        (prefix, node)
        for key, node in rotated(first, second).items()
        for prefix in first.peers[key].allowed_ips
    }
    for step in plan(second, table.observed(), before=first):
        for _ in table.do(step):
            for prefix, key in kept:
                assert table.owner.get(prefix) == key, step
            for prefix, node in nodes:
                owner = table.owner.get(prefix)
                assert owner is not None and KEYS[owner] == node, step


@settings(max_examples=300)
@given(change=any_change)
def test_what_nothing_is_known_of_never_moves_silently(change: tuple[Desired, Desired]) -> None:
    """Before the first change an agent does not know whose the keys it finds are."""
    first, second = change
    table = standing(first)
    for step in plan(second, table.observed(), before=None):
        assert not any(table.do(step)), step


def test_the_model_takes_a_prefix_from_whom_it_belongs_to_and_says_so() -> None:
    table = Table(owner={PREFIXES[0]: "a1"})
    assert table.give(PREFIXES[0], "a1") is None
    assert table.give(PREFIXES[0], "b1") == Move(PREFIXES[0], "a1", "b1")
    assert not table.of("a1") and table.of("b1") == {PREFIXES[0]}
