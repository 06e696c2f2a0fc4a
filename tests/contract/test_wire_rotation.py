"""A node changes its key: docs/PROTOCOL.md, spoken to a real server by the real client."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.contract.wire import Follower, answer_to, challenge, refusal
from tests.control.process import Coordinator, Keys
from tests.control.served import until
from ztlab.client.admin import AdminClient
from ztlab.client.node import NodeClient
from ztlab.model.config import NodeConfig
from ztlab.model.identity import client_id, decode_public_key
from ztlab.model.keys import KeyChange


class Pair:
    """A client node and its gateway, alone with each other: other gateways have left."""

    def __init__(self, coordinator: Coordinator, stack: ExitStack) -> None:
        self.name, self.peer = (f"{letter}{uuid.uuid4().hex[:8]}" for letter in "cg")
        self.client, self.keys = coordinator.enrol(self.name, role="client", endpoint=None)
        peer_client, _ = coordinator.enrol(self.peer, role="gateway")
        self.peer_client = peer_client
        self.new = Keys()
        admin = coordinator.admin()
        stack.callback(admin.close)
        for name in (self.name, self.peer):
            stack.callback(admin.revoke_node, name)

    def rotate(self, wait_s: int = 60) -> KeyChange:
        return rotate(self.client, self.keys, self.new, wait_s)

    def seen(self, follower: Follower) -> dict[str, tuple[str, ...]]:
        """What the peer was told last: prefixes by key of this node."""
        configs = [event.config() for event in follower.events if event.kind == "config"]
        return prefixes(configs[-1], self.name)


def rotate(client: NodeClient, old: Keys, new: Keys, wait_s: int = 60) -> KeyChange:
    return client.rotate(
        public_key=old.public,
        prove=old.prove,
        new_public_key=new.public,
        new_prove=new.prove,
        wait_s=wait_s,
    )


def prefixes(config: NodeConfig, name: str) -> dict[str, tuple[str, ...]]:
    return {peer.public_key: peer.allowed_ips for peer in config.peers if peer.name == name}


@pytest.fixture
def pair(coordinator: Coordinator) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(coordinator, stack)


def test_a_key_is_announced_acknowledged_committed_and_the_old_one_refused(
    coordinator: Coordinator, admin: AdminClient, pair: Pair
) -> None:
    before = admin.node(pair.name)
    found = pair.rotate()
    assert (found.state, found.waiting_for) == ("announced", (pair.peer,))
    assert refusal(lambda: pair.client.commit_rotation(pair.new.public)) == 409

    with closing(Follower(pair.peer_client)) as peer:
        until(lambda: pair.client.rotation().state == "ready", "the peer acknowledges")
        assert pair.seen(peer) == {pair.keys.public: before.addresses, pair.new.public: ()}
        pair.client.commit_rotation(pair.new.public)
        until(lambda: pair.seen(peer) == {pair.new.public: before.addresses}, "prefixes move")
    pair.client.commit_rotation(pair.new.public)  # the first answer may have been lost
    assert refusal(pair.client.rotation) == 404

    after = admin.node(pair.name)
    assert after.public_key == pair.new.public and after.rotation is None
    assert (after.id, after.identity, after.addresses) == (
        before.id,
        before.identity,
        before.addresses,
    )
    (former,) = after.former_keys
    assert (former.public_key, former.client_id) == (before.public_key, before.client_id)
    assert before.enrolled_at == former.since < former.until

    stranger = coordinator.node()
    assert refusal(lambda: stranger.renew(public_key=pair.keys.public, prove=pair.keys.prove)) == (
        401
    )
    assert stranger.renew(public_key=pair.new.public, prove=pair.new.prove).node_id == before.id


def test_while_it_is_announced_either_key_gets_a_token(
    coordinator: Coordinator, pair: Pair
) -> None:
    pair.rotate()
    for keys in (pair.keys, pair.new):
        coordinator.node().renew(public_key=keys.public, prove=keys.prove)


def test_a_commit_ends_the_tokens_and_the_stream_that_the_old_key_got_elsewhere(
    coordinator: Coordinator, pair: Pair
) -> None:
    thief = coordinator.node()
    thief.renew(public_key=pair.keys.public, prove=pair.keys.prove)
    pair.rotate(wait_s=1)
    assert thief.rotation().public_key == pair.new.public
    with closing(Follower(thief)) as listener:
        until(lambda: pair.client.rotation().state == "ready", "the deadline")
        assert listener.kinds() and not listener.has_ended  # control
        pair.client.commit_rotation(pair.new.public)
        until(lambda: listener.has_ended, "the stream ends")
    assert refusal(thief.rotation) == 401
    assert refusal(pair.client.rotation) == 404  # its own token is good


def test_a_peer_that_is_away_holds_it_up_until_the_deadline_and_no_longer(pair: Pair) -> None:
    assert pair.rotate(wait_s=1).state == "announced"
    until(lambda: pair.client.rotation().state == "ready", "the deadline")
    assert pair.client.rotation().waiting_for == (pair.peer,)
    pair.client.commit_rotation(pair.new.public)


def test_a_peer_that_could_not_apply_it_is_waited_for(pair: Pair) -> None:
    pair.rotate()
    with pair.peer_client.stream() as stream:
        event = next(stream)
        assert event.revision is not None and event.digest is not None
        pair.peer_client.ack(revision=event.revision, digest=event.digest, error="no room")
        assert pair.client.rotation().state == "announced"
        pair.peer_client.ack(revision=event.revision, digest=event.digest)
        assert pair.client.rotation().state == "ready"


@pytest.mark.parametrize("whose", ["proof", "new_proof"])
def test_both_keys_must_be_proved_and_a_wrong_proof_uses_the_challenge_up(
    pair: Pair, whose: str
) -> None:
    old, new = pair.keys, pair.new
    given = challenge(pair.client, old, "rotate")
    body = answer_to(pair.client, given, old, "rotate", decode_public_key(new.public))
    proved = answer_to(pair.client, given, new, "rotate", decode_public_key(old.public))
    body |= {"new_public_key": new.public, "new_proof": proved["proof"]}
    thief = answer_to(pair.client, given, Keys(), "rotate", decode_public_key(new.public))

    def post(sent: object) -> object:
        return pair.client._transport.request("POST", "/node/rotate", sent, bearer="")

    assert refusal(lambda: post({**body, whose: thief["proof"]})) == 401
    assert refusal(lambda: post(body)) == 401
    assert refusal(pair.client.rotation) == 404
    assert pair.rotate().public_key == new.public


def test_a_proof_is_bound_to_the_other_key(pair: Pair) -> None:
    given = challenge(pair.client, pair.keys, "rotate")
    other, new = decode_public_key(Keys().public), pair.new
    body = answer_to(pair.client, given, pair.keys, "rotate", other)
    proved = answer_to(pair.client, given, new, "rotate", decode_public_key(pair.keys.public))
    body |= {"new_public_key": new.public, "new_proof": proved["proof"]}
    request = pair.client._transport.request
    assert refusal(lambda: request("POST", "/node/rotate", body, bearer="")) == 401


def test_a_key_that_is_was_or_will_be_somebodys_is_refused(
    coordinator: Coordinator, pair: Pair
) -> None:
    other, others = coordinator.enrol(f"m{uuid.uuid4().hex[:8]}", endpoint=None)
    assert refusal(lambda: rotate(pair.client, pair.keys, others)) == 409
    pair.rotate(wait_s=1)
    assert refusal(lambda: rotate(other, others, pair.new)) == 409
    until(lambda: pair.client.rotation().state == "ready", "the deadline")
    pair.client.commit_rotation(pair.new.public)
    assert refusal(lambda: rotate(other, others, pair.keys)) == 409
    assert refusal(lambda: rotate(pair.client, pair.new, pair.keys)) == 409
    # Nor does it enrol again, under whatever name.
    assert refusal(lambda: coordinator.enrol("again", keys=pair.keys)) == 409


def test_again_for_the_same_key_nothing_changes_and_another_takes_its_place(
    admin: AdminClient, pair: Pair
) -> None:
    first = pair.rotate()
    revision = admin.network().revision
    assert pair.rotate().deadline_at == first.deadline_at
    assert admin.network().revision == revision
    another = Keys()
    assert rotate(pair.client, pair.keys, another).client_id == client_id(another.public)
    assert refusal(lambda: pair.client.commit_rotation(pair.new.public)) == 409


def test_a_cancelled_rotation_leaves_the_key_it_was(admin: AdminClient, pair: Pair) -> None:
    pair.rotate()
    shown = admin.node(pair.name).rotation
    assert shown is not None and shown.public_key == pair.new.public
    pair.client.cancel_rotation()
    pair.client.cancel_rotation()
    assert refusal(lambda: pair.client.commit_rotation(pair.new.public)) == 409
    with closing(Follower(pair.peer_client)) as peer:
        until(lambda: bool(peer.events), "what the peer is told")
        assert set(pair.seen(peer)) == {pair.keys.public}


def test_a_revoked_node_gets_nothing_by_the_key_that_was_to_come(
    coordinator: Coordinator, admin: AdminClient
) -> None:
    name, new = f"m{uuid.uuid4().hex[:8]}", Keys()
    client, keys = coordinator.enrol(name, endpoint=None)
    rotate(client, keys, new)
    admin.revoke_node(name)
    assert refusal(lambda: client.renew(public_key=keys.public, prove=keys.prove)) == 401
    assert refusal(lambda: client.renew(public_key=new.public, prove=new.prove)) == 401
    assert refusal(lambda: client.commit_rotation(new.public)) in (401, 403)
    assert refusal(lambda: coordinator.enrol("again", keys=new)) == 409
