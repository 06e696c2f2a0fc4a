"""Several coordinators on one PostgreSQL are one coordinator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from coordinator.store.notices import CHANGES
from tests.contract.wire import EVENT
from tests.control.postgres import Server
from tests.control.process import Coordinator, Keys
from tests.control.replicas import log_of, replicas
from tests.control.served import until
from tests.unit.batches import packed
from ztlab.client.node import EventStream, NodeClient
from ztlab.errors import Refused

pytestmark = pytest.mark.postgres
Pair = tuple[Coordinator, Coordinator]
FAILOVER_S = 2.0


@pytest.fixture(scope="module")
def database(postgres_server: Server) -> str:
    return postgres_server.create()


@pytest.fixture(scope="module")
def pair(postgres_server: Server, database: str) -> Iterator[Pair]:
    with replicas(postgres_server.url(database)) as both:
        yield both


def told(stream: EventStream) -> Any:
    """The next event that is no heartbeat."""
    return next(event for event in stream if event.kind != "heartbeat")


def at(other: Coordinator, client: NodeClient) -> NodeClient:
    """The same node at OTHER: a token is good everywhere."""
    return other.node(client.token)


def test_a_change_at_one_is_pushed_by_the_other(pair: Pair) -> None:
    first, second = pair
    client, _ = first.enrol("pushed", endpoint=None)
    with at(second, client).stream() as stream:
        config = told(stream)
        with closing(first.admin()) as admin:
            admin.create_identity("from-the-first")
        begun = time.monotonic()
        following = told(stream)
    assert config.kind == following.kind == "config"
    assert following.revision.number > config.revision.number
    assert "from-the-first" in {one["name"] for one in following.document["identities"]}
    assert time.monotonic() - begun < 1.0


def test_a_newer_stream_at_one_ends_the_older_at_the_other(pair: Pair) -> None:
    first, second = pair
    client, _ = first.enrol("moved", endpoint=None)
    with client.stream() as older:
        told(older)
        with at(second, client).stream() as newer:
            told(newer)
            assert [event.kind for event in older if event.kind != "heartbeat"] == []  # it ends
            with closing(first.admin()) as admin:
                admin.create_identity("after-the-move")
            assert told(newer).kind == "config"


def test_a_challenge_of_one_is_answered_at_the_other_once(pair: Pair) -> None:
    first, second = pair
    keys = Keys()
    with closing(first.admin()) as admin:
        key = admin.create_setup_key(role="mesh", name="challenged").key
    assert key is not None
    here, there = first.node(), second.node()
    asked = here._challenge("enrol", keys.public, bearer=key)
    there._challenge = lambda *_, **__: asked  # type: ignore[method-assign]
    joined = there.enrol(
        setup_key=key, public_key=keys.public, name="challenged", endpoint=None, prove=keys.prove
    )
    assert joined.name == "challenged"
    here._challenge = lambda *_, **__: asked  # type: ignore[method-assign]
    with pytest.raises(Refused) as caught:
        here.renew(public_key=keys.public, prove=keys.prove)
    assert caught.value.status == 401


def test_a_batch_that_both_get_is_stored_once(pair: Pair) -> None:
    first, second = pair
    client, _ = first.enrol("logging", endpoint=None)
    batch = packed(EVENT)
    assert client.push_logs(batch) == at(second, client).push_logs(batch) == 1
    with closing(second.admin()) as admin:
        assert len(admin.logs(node="logging").items) == 1


def test_who_lost_its_server_looks_at_everything_again(pair: Pair, postgres_server: Server) -> None:
    first, second = pair
    client, _ = first.enrol("patient", endpoint=None)
    with at(second, client).stream() as stream:
        told(stream)
        heard = log_of(second).count("cannot hear the other replicas")
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'zt-coordinator'"
        )
        with closing(first.admin()) as admin:
            admin.create_identity("while-nobody-heard")
        event = told(stream)
    assert "while-nobody-heard" in {one["name"] for one in event.document["identities"]}
    assert log_of(second).count("cannot hear the other replicas") > heard


def test_what_no_replica_said_is_complained_of_and_the_next_is_heard(
    pair: Pair, postgres_server: Server, database: str
) -> None:
    first, second = pair
    client, _ = first.enrol("steady", endpoint=None)
    with at(second, client).stream() as stream:
        told(stream)
        heard = log_of(second).count("cannot hear the other replicas")
        postgres_server.execute(f"SELECT pg_notify('{CHANGES}', 'no JSON')", database)
        until(lambda: log_of(second).count("cannot hear the other replicas") > heard, "a complaint")
        with closing(first.admin()) as admin:
            admin.create_identity("heard-again")
        event = told(stream)
    assert "heard-again" in {one["name"] for one in event.document["identities"]}
