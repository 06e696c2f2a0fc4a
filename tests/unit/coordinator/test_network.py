"""A change has one revision, moves the wanted state of whom it concerns, and of nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import catalog, clock, network, nodes, state
from coordinator.api.context import Service
from coordinator.catalog import GroupBody, IdentityBody
from coordinator.distribute import node_config
from coordinator.memory import Wanted
from coordinator.nodes import Ack
from coordinator.store.models import IdentityRow, NodeRow
from tests.unit.coordinator.networks import key
from ztlab.errors import SchemaError
from ztlab.model.config import Revision, Role
from ztlab.model.identity import client_id

ON_BOTH_STORES = True

NOW = clock.now()


def add_node(service: Service, number: int, role: Role) -> str:
    """A node as enrolment makes it, identity `iN` and address included; its id."""

    def work(session: Session) -> str:
        catalog.put_identity(session, IdentityBody(name=f"i{number}"), NOW)
        node = NodeRow(
            id=f"node-{number}",
            name=f"n{number}",
            role=role,
            identity=f"i{number}",
            public_key=key(number),
            client_id=client_id(key(number)),
            endpoint=f"198.18.0.{number}:51820",
            enrolled_at=NOW,
            wanted_epoch="",
            wanted_number=0,
            wanted_digest="",
        )
        session.add(node)
        session.flush()
        from coordinator import allocation

        allocation.allocate_addresses(session, node.id, NOW)
        return node.id

    return network.change(service.store, service.hub, work)[0]


def add_identity(service: Service, name: str) -> Revision:
    body = IdentityBody(name=name)
    work = network.change(
        service.store,
        service.hub,
        lambda session: catalog.put_identity(session, body, NOW) and None,
    )
    return work[1]


def wanted(service: Service, node_id: str) -> Wanted:
    with service.store.reading() as session:
        return network.wanted(session.get_one(NodeRow, node_id))


def test_the_number_rises_by_one_with_each_change_and_the_epoch_stays(service: Service) -> None:
    first, second = add_identity(service, "a"), add_identity(service, "b")
    assert (first.number, second.number) == (1, 2)
    assert first.epoch == second.epoch and len(first.epoch) == 32


def test_a_change_that_changes_nothing_has_no_revision_of_its_own(service: Service) -> None:
    assert add_identity(service, "a") == add_identity(service, "a")


def test_a_change_that_fails_leaves_nothing_behind(service: Service) -> None:
    group = GroupBody(name="g", members=("nobody-at-all",))
    with pytest.raises(SchemaError):
        network.change(service.store, service.hub, lambda s: catalog.put_group(s, group) and None)
    assert add_identity(service, "a").number == 1


def test_only_nodes_whose_configuration_changed_want_the_new_revision(service: Service) -> None:
    client, mesh = add_node(service, 1, "client"), add_node(service, 2, "mesh")
    before = wanted(service, client)
    revision = add_identity(service, "news")
    assert wanted(service, client) == before
    assert wanted(service, mesh).revision == revision


def test_the_wanted_digest_is_that_of_the_configuration(service: Service) -> None:
    ids = [add_node(service, n, "mesh") for n in (1, 2, 3)]
    with service.store.reading() as session:
        for node_id in ids:
            config = network.config_of(session, service.hub, node_id)
            assert config is not None and config.digest() == wanted(service, node_id).digest


def test_only_the_streams_that_are_concerned_are_rung(service: Service) -> None:
    client, mesh = add_node(service, 1, "client"), add_node(service, 2, "mesh")
    with service.hub.subscription(client) as one, service.hub.subscription(mesh) as other:
        add_identity(service, "news")
        assert other.wait(0) and not one.wait(0)
        network.change(service.store, service.hub, lambda s: nodes.revoke(s, "n1", NOW) and None)
        assert one.wait(0)


def ack(service: Service, node_id: str, **changes: Any) -> None:
    target = wanted(service, node_id)
    said: dict[str, Any] = {
        "revision": target.revision,
        "digest": target.digest,
        "applied": True,
        **changes,
    }
    with service.store.writing() as session:
        nodes.acknowledge(session, node_id, Ack(**said), NOW)


def converged(service: Service) -> bool:
    with service.store.reading() as session:
        return bool(network.summary(session)["has_converged"])


def test_the_network_has_converged_when_every_live_node_applied_what_is_wanted(
    service: Service,
) -> None:
    assert converged(service)  # nobody is owed anything
    one, two = add_node(service, 1, "mesh"), add_node(service, 2, "mesh")
    ack(service, one)
    assert not converged(service)
    ack(service, two, digest="0" * 64)
    assert not converged(service)
    ack(service, two, applied=False, error="no")
    assert not converged(service)
    ack(service, two)
    assert converged(service)
    add_identity(service, "news")
    assert not converged(service)


def test_an_acknowledgement_of_an_older_revision_does_not_count(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    older = wanted(service, node_id)
    add_identity(service, "news")
    ack(service, node_id)
    ack(service, node_id, revision=older.revision, digest=older.digest)  # late on its way
    assert converged(service)


def test_the_same_digest_at_a_newer_revision_is_to_be_acknowledged_again(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    before = wanted(service, node_id)
    ack(service, node_id)
    group = GroupBody(name="g", members=("i1",))
    network.change(service.store, service.hub, lambda s: catalog.put_group(s, group) and None)
    network.change(service.store, service.hub, lambda s: catalog.delete_group(s, "g", NOW))
    after = wanted(service, node_id)
    assert after.digest == before.digest and after.revision.number == before.revision.number + 2
    assert not converged(service)  # it may have applied what came in between


@pytest.mark.parametrize("epoch", ["other", None])
def test_an_acknowledgement_of_what_was_never_sent_is_refused(
    service: Service, epoch: str | None
) -> None:
    node_id = add_node(service, 1, "mesh")
    now = wanted(service, node_id).revision
    said = Revision(epoch=epoch or now.epoch, number=now.number + (epoch is None))
    with pytest.raises(SchemaError):
        ack(service, node_id, revision=said)


def test_a_start_with_another_distribution_makes_a_revision_and_one_with_the_same_none(
    service: Service,
) -> None:
    node_id = add_node(service, 1, "mesh")
    before = wanted(service, node_id)
    network.reconcile(service.store)
    assert wanted(service, node_id) == before

    with service.store.writing() as session:  # as another version of the program would have left it
        session.get_one(NodeRow, node_id).wanted_digest = "0" * 64
    network.reconcile(service.store)
    after = wanted(service, node_id)
    assert (after.digest, after.revision.number) == (before.digest, before.revision.number + 1)


def test_the_state_is_what_was_written(service: Service) -> None:
    add_node(service, 1, "mesh")
    with service.store.reading() as session:
        loaded = state.load(session)
        tags = {row.name: row.tag for row in session.scalars(select(IdentityRow))}
    assert loaded.identities == tags == {"i1": 2}
    (node,) = loaded.nodes
    assert node.addresses == ("10.77.0.1/32", "fd77::1/128")
    assert node_config(loaded, node).node.addresses == node.addresses
