"""What many nodes say at once is written together; each hears what became of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from coordinator import clock
from coordinator.api.context import Service
from coordinator.nodes import Ack
from coordinator.store.models import NodeRow
from tests.unit.coordinator.test_network import add_node, converged, wanted
from ztlab.errors import SchemaError

NOW = clock.now()
MANY = 12


def at_once(*works: Callable[[], None]) -> list[BaseException | None]:
    """What each raised (None: nothing), all of them begun together."""
    found: list[BaseException | None] = [None] * len(works)
    ready = threading.Barrier(len(works))

    def run(i: int) -> None:
        ready.wait()
        try:
            works[i]()
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def ack(service: Service, node_id: str, *, digest: str | None = None, ahead: int = 0) -> Ack:
    target = wanted(service, node_id)
    revision = type(target.revision)(
        epoch=target.revision.epoch, number=target.revision.number + ahead
    )
    return Ack(revision=revision, digest=digest or target.digest, applied=True)


def test_many_acknowledgements_are_few_transactions_and_all_are_kept(service: Service) -> None:
    ids = [add_node(service, number, "mesh") for number in range(1, 6)]
    said = [(node_id, ack(service, node_id)) for node_id in ids]
    commits = 0

    def count(_: object) -> None:
        nonlocal commits
        commits += 1

    event.listen(service.store.engine, "commit", count)
    hear = service.contacts.heard
    works = [lambda one=one: hear(one[0], one[1], NOW) for one in said * (MANY // 4)]
    assert at_once(*works) == [None] * len(works)
    assert 1 <= commits < len(works)
    assert converged(service)


def test_one_that_is_refused_keeps_nobody_elses_from_being_kept(service: Service) -> None:
    good, bad = (add_node(service, number, "mesh") for number in (1, 2))
    right = ack(service, good), ack(service, bad)
    hear = service.contacts.heard
    found = at_once(
        lambda: hear(good, right[0], NOW), lambda: hear(bad, ack(service, bad, ahead=1), NOW)
    )
    assert found[0] is None and isinstance(found[1], SchemaError)
    assert not converged(service)
    hear(bad, right[1], NOW)
    assert converged(service)


def test_a_sign_of_life_is_kept_and_says_nothing_else(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    service.contacts.heard(node_id, None, NOW)
    with service.store.reading() as session:
        row = session.get_one(NodeRow, node_id)
        assert row.last_contact_at == NOW and row.applied_number is None


def test_a_store_that_cannot_be_written_is_said_to_everybody_who_waited(
    service: Service,
) -> None:
    node_id = add_node(service, 1, "mesh")
    said = ack(service, node_id)

    def refuse(_: object) -> None:
        raise OperationalError("COMMIT", {}, Exception("disk full"))

    event.listen(service.store.engine, "commit", refuse)
    hear = service.contacts.heard
    found = at_once(*[lambda: hear(node_id, said, NOW)] * 3)
    assert all(isinstance(error, OperationalError) for error in found)
    event.remove(service.store.engine, "commit", refuse)
    assert not converged(service)
    hear(node_id, said, NOW)
    assert converged(service)
