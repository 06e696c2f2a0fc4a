"""What a clock decides in enrolment, and what becomes of the node; the rest is spoken for real in
tests/contract/test_wire.py."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select

from coordinator import access, clock, enrolment, network, nodes
from coordinator.access import SetupKeyBody
from coordinator.api.context import Service
from coordinator.catalog import (
    DocumentBody,
    GroupBody,
    delete_group,
    put_document,
    put_group,
)
from coordinator.enrolment import ChallengeRequest, EnrolRequest, NewToken
from coordinator.errors import Conflict, Unauthenticated
from coordinator.secrets import digest
from coordinator.store.models import ChallengeRow, GroupRow, IdentityRow, NodeRow, SetupKeyRow
from tests.control.process import Keys
from tests.unit.coordinator.test_network import add_identity
from ztlab.errors import SchemaError
from ztlab.model import proof

ON_BOTH_STORES = True

NOW = clock.now()
TTL = timedelta(hours=1)


def make_key(service: Service, **changes: object) -> str:
    body = SetupKeyBody(role="mesh", **changes)  # type: ignore[arg-type]
    with service.store.writing() as session:
        made = access.create_setup_key(session, body, service.place.authority, NOW)
    return str(made["key"])


def enrol(
    service: Service, setup_key: str, name: str, *, keys: Keys | None = None, at: datetime = NOW
) -> NewToken:
    """Challenge at NOW, answer at AT."""
    keys = keys or Keys()
    asked = ChallengeRequest(purpose="enrol", public_key=keys.public)
    with service.store.writing() as session:
        given = enrolment.challenge(session, service.place, asked, setup_key, NOW)
    transcript = proof.Transcript(
        purpose="enrol",
        network_id=given["network_id"],
        authority=service.place.authority,
        ephemeral_key=base64.b64decode(given["ephemeral_key"]),
        nonce=base64.b64decode(given["nonce"]),
        node_key=base64.b64decode(keys.public),
        extra=proof.setup_key_hash(setup_key),
    )
    request = EnrolRequest(
        challenge_id=given["challenge_id"],
        public_key=keys.public,
        proof=base64.b64encode(keys.prove(transcript)).decode(),
        name=name,
    )
    spent = enrolment.spend(service.store, given["challenge_id"], at)
    return network.change(
        service.store,
        service.hub,
        lambda s: enrolment.enrol(s, service.place, spent, request, setup_key, at, TTL),
    )[0]


def test_a_node_of_an_unbound_key_gets_an_identity_of_its_own(service: Service) -> None:
    made = enrol(service, make_key(service), "alice")
    with service.store.reading() as session:
        node = session.get_one(NodeRow, made.node_id)
        assert (node.name, node.identity, node.role) == ("alice", "alice", "mesh")
        assert session.get_one(IdentityRow, "alice").tag == 2
        assert len(nodes.describe(session, node)["addresses"]) == 2


def test_nodes_of_one_setup_key_share_the_identity_that_it_gives(service: Service) -> None:
    key = make_key(service, identity="web", uses=2)
    made = [enrol(service, key, name) for name in ("alice", "bob")]
    with service.store.reading() as session:
        assert {session.get_one(NodeRow, m.node_id).identity for m in made} == {"web"}


def test_a_node_of_a_groups_setup_key_has_an_identity_of_its_own_in_that_group(
    service: Service,
) -> None:
    body = GroupBody(name="web", members=())
    network.change(service.store, service.hub, lambda session: put_group(session, body) and None)
    key = make_key(service, group="web", uses=2)
    made = [enrol(service, key, name) for name in ("alice", "bob")]
    with service.store.reading() as session:
        nodes_made = [session.get_one(NodeRow, m.node_id) for m in made]
        assert [node.identity for node in nodes_made] == ["alice", "bob"]
        assert session.get_one(GroupRow, "web").members == ["alice", "bob"]
        assert {n.setup_key_id for n in nodes_made} == {session.query(SetupKeyRow).one().id}


def test_a_setup_key_is_for_a_group_that_is_there_and_for_no_identity_besides(
    service: Service,
) -> None:
    with pytest.raises(SchemaError, match="no group is called 'web'"):
        make_key(service, group="web")
    with pytest.raises(ValueError, match="an identity or a group"):
        make_key(service, group="web", identity="web")


def test_a_group_stays_while_a_setup_key_lets_nodes_into_it(service: Service) -> None:
    body = GroupBody(name="web", members=())
    network.change(service.store, service.hub, lambda session: put_group(session, body) and None)
    key = make_key(service, group="web")
    with pytest.raises(Conflict) as caught:
        network.change(service.store, service.hub, lambda s: delete_group(s, "web", NOW))
    assert "joins 'web'" in str(caught.value.problems)
    with pytest.raises(Conflict), service.store.writing() as session:
        put_document(session, DocumentBody(), NOW)
    assert enrol(service, key, "alice")
    # A key that was used up keeps nothing.
    network.change(service.store, service.hub, lambda s: delete_group(s, "web", NOW))


def test_every_refusal_of_a_setup_key_is_told_apart_here_and_not_by_its_text(
    service: Service,
) -> None:
    used, revoked, old = make_key(service), make_key(service), make_key(service, ttl_s=1)
    enrol(service, used, "alice")
    with service.store.writing() as session:
        row = session.scalars(select(SetupKeyRow).where(SetupKeyRow.hash == digest(revoked))).one()
        access.revoke_setup_key(session, row.id, NOW)
        assert row.id not in {key["id"] for key in access.setup_keys(session)}
    found, texts = {}, set()
    for key in (used, revoked, old, "zt1.none", None):
        with service.store.reading() as session, pytest.raises(Unauthenticated) as caught:
            enrolment.usable_setup_key(session, key, NOW + timedelta(seconds=1))
        found[key] = caught.value.reason
        texts.add(str(caught.value))
    assert found == {
        used: "used_setup_key",
        revoked: "revoked_setup_key",
        old: "expired_setup_key",
        "zt1.none": "unknown_setup_key",
        None: "unknown_setup_key",
    }
    assert len(texts) == 1


def test_of_one_key_only_so_many_challenges_are_open_and_the_newest_is_good(
    service: Service,
) -> None:
    key, keys = make_key(service), Keys()
    asked = ChallengeRequest(purpose="enrol", public_key=keys.public)
    for i in range(enrolment.LIVE_CHALLENGES + 5):
        with service.store.writing() as session:
            now = NOW + timedelta(milliseconds=i)
            enrolment.challenge(session, service.place, asked, key, now)
    other = ChallengeRequest(purpose="enrol", public_key=Keys().public)
    with service.store.writing() as session:
        enrolment.challenge(session, service.place, other, key, NOW)
    with service.store.reading() as session:
        held = Counter(session.scalars(select(ChallengeRow.public_key)))
    assert held == {keys.public: enrolment.LIVE_CHALLENGES, other.public_key: 1}
    assert enrol(service, key, "alice", keys=keys, at=NOW + timedelta(seconds=59)).name == "alice"


def test_who_reads_the_store_cannot_answer_a_challenge(service: Service) -> None:
    key, asked = make_key(service), ChallengeRequest(purpose="enrol", public_key=Keys().public)
    with service.store.writing() as session:
        given = enrolment.challenge(session, service.place, asked, key, NOW)
        row = session.get_one(ChallengeRow, given["challenge_id"])
        stored = {column.key: getattr(row, column.key) for column in ChallengeRow.__table__.columns}
    public = base64.b64decode(given["ephemeral_key"])
    for content in stored.values():
        if isinstance(content, bytes):
            half = X25519PrivateKey.from_private_bytes(content)
            assert half.public_key().public_bytes_raw() != public
    elsewhere = replace(service.place, challenge_key=bytes(32))
    assert enrolment._ephemeral(elsewhere, stored["nonce"]).public_key().public_bytes_raw() != (
        public
    )
    here = enrolment._ephemeral(service.place, stored["nonce"])
    assert here.public_key().public_bytes_raw() == public


def test_a_counted_setup_key_lets_in_exactly_as_many_as_it_says_however_they_race(
    service: Service, at_once: Callable[[Callable[[int], None], int], None]
) -> None:
    key = make_key(service, uses=5)
    made: list[str] = []
    refused: list[str] = []

    def join(number: int) -> None:
        try:
            made.append(enrol(service, key, f"n{number}").name)
        except Unauthenticated as error:
            refused.append(error.reason)

    at_once(join, 12)
    assert len(made) == 5 and refused == ["used_setup_key"] * 7
    with service.store.reading() as session:
        assert session.query(SetupKeyRow).one().uses_left == 0
        assert session.query(NodeRow).count() == 5


def test_a_challenge_is_good_for_sixty_seconds(service: Service) -> None:
    key = make_key(service)
    with pytest.raises(Unauthenticated, match="expired"):
        enrol(service, key, "alice", at=NOW + timedelta(seconds=60))
    assert enrol(service, key, "alice", at=NOW + timedelta(seconds=59)).name == "alice"


def test_expired_challenges_are_swept(service: Service) -> None:
    key, asked = make_key(service), ChallengeRequest(purpose="enrol", public_key=Keys().public)
    with service.store.writing() as session:
        first = enrolment.challenge(session, service.place, asked, key, NOW)["challenge_id"]
    with service.store.writing() as session:
        later = NOW + enrolment.CHALLENGE_TTL
        enrolment.challenge(session, service.place, asked, key, later)
        assert session.get(ChallengeRow, first) is None


def test_a_setup_key_that_expires_between_challenge_and_answer_is_refused(
    service: Service,
) -> None:
    key = make_key(service, ttl_s=30)
    with pytest.raises(Unauthenticated, match="setup key"):
        enrol(service, key, "alice", at=NOW + timedelta(seconds=30))


@pytest.mark.parametrize(
    "endpoint", ["198.51.100.7:51820", "[2001:db8::1]:51820", "gw-1.example:51820"]
)
def test_an_endpoint_is_a_name_or_an_address_and_a_port(endpoint: str) -> None:
    enrolment.check_plain_endpoint(endpoint)
    for odd in ("x;rm", "$(id)", "a b", "host\n", "::1", "", "ü"):
        with pytest.raises(ValueError, match="want HOST:PORT"):
            enrolment.check_plain_endpoint(f"{odd}:5")


def test_an_expired_setup_key_gets_no_challenge(service: Service) -> None:
    key, asked = (
        make_key(service, ttl_s=30),
        ChallengeRequest(purpose="enrol", public_key=Keys().public),
    )
    with service.store.writing() as session:
        with pytest.raises(Unauthenticated, match="setup key"):
            enrolment.challenge(session, service.place, asked, key, NOW + timedelta(seconds=30))
        before = NOW + timedelta(seconds=29)
        assert enrolment.challenge(session, service.place, asked, key, before)


def test_a_refused_enrolment_does_not_use_the_setup_key_up(service: Service) -> None:
    key = make_key(service, name="alice")
    with pytest.raises(SchemaError, match="the setup key is for"):
        enrol(service, key, "bob")
    with service.store.reading() as session:
        assert session.query(SetupKeyRow).one().uses_left == 1
    enrol(service, key, "alice")
    with service.store.reading() as session:
        assert session.query(SetupKeyRow).one().uses_left == 0


def test_who_chooses_its_name_is_not_taken_for_somebody_who_is_there(service: Service) -> None:
    for name in ("admin", "boss"):
        add_identity(service, name)
    with pytest.raises(Conflict, match="identity 'admin' already"):
        enrol(service, make_key(service), "admin")
    made = enrol(service, make_key(service, name="admin"), "admin")
    also = enrol(service, make_key(service, identity="boss"), "somebody")
    with service.store.reading() as session:
        identities = [session.get_one(NodeRow, m.node_id).identity for m in (made, also)]
    assert identities == ["admin", "boss"]


def test_an_identity_of_its_own_must_not_be_something_else_already(service: Service) -> None:
    body = GroupBody(name="alice", members=())
    network.change(service.store, service.hub, lambda session: put_group(session, body) and None)
    with pytest.raises(Conflict, match="which is a group"):
        enrol(service, make_key(service), "alice")
    with pytest.raises(SchemaError, match="meaning of its own"):
        enrol(service, make_key(service), "world")


def test_a_token_is_good_until_it_expires_and_speaks_for_its_node(service: Service) -> None:
    made = enrol(service, make_key(service), "alice")
    with service.store.reading() as session:
        caller = nodes.authenticate(session, made.token, NOW + TTL - timedelta(seconds=1))
        assert (caller.node_id, caller.name) == (made.node_id, "alice")
        with pytest.raises(Unauthenticated):
            nodes.authenticate(session, made.token, NOW + TTL)
        with pytest.raises(Unauthenticated):
            nodes.authenticate(session, None, NOW)
