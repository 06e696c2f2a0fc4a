"""Whose acknowledgement counts while a key is changed; the rest is spoken for real in
tests/contract/test_wire_rotation.py."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from coordinator import clock, network, nodes, rotation
from coordinator.api.context import Service
from coordinator.nodes import Ack
from coordinator.store.models import NetworkRow, NodeRow, RotationRow
from tests.unit.coordinator.networks import key
from tests.unit.coordinator.test_network import add_identity, add_node

ON_BOTH_STORES = True

NOW = clock.now()


def announce(service: Service, node_id: str) -> None:
    def work(session: Session) -> None:
        at = session.get_one(NetworkRow, 1)
        row = RotationRow(
            node_id=node_id,
            public_key=key(99),
            epoch=at.epoch,
            number=at.number + 1,
            started_at=NOW,
            deadline_at=NOW + timedelta(hours=1),
        )
        session.add(row)

    network.change(service.store, service.hub, work)


def acknowledge(service: Service, node_id: str, error: str | None = None) -> None:
    """NODE has what is wanted of it now."""
    with service.store.writing() as session:
        wanted = network.wanted(session.get_one(NodeRow, node_id))
        ack = Ack(
            revision=wanted.revision, digest=wanted.digest, applied=error is None, error=error
        )
        nodes.acknowledge(session, node_id, ack, NOW)


def waiting(service: Service, node_id: str) -> list[str]:
    with service.store.reading() as session:
        found: list[str] = rotation.progress(session, node_id)["waiting_for"]
        return found


def test_only_those_who_have_a_tunnel_with_it_are_waited_for(service: Service) -> None:
    gateway = add_node(service, 1, "gateway")
    for number, role in ((2, "client"), (3, "mesh"), (4, "gateway")):
        add_node(service, number, role)  # type: ignore[arg-type]
    announce(service, gateway)
    assert waiting(service, gateway) == ["n2"]


def test_an_acknowledgement_from_before_the_announcement_does_not_count(service: Service) -> None:
    changing, peer = add_node(service, 1, "mesh"), add_node(service, 2, "mesh")
    acknowledge(service, peer)
    announce(service, changing)
    assert waiting(service, changing) == ["n2"]
    acknowledge(service, peer, error="no room")
    assert waiting(service, changing) == ["n2"]
    acknowledge(service, peer)
    assert waiting(service, changing) == []


def test_a_later_change_does_not_begin_the_waiting_anew(service: Service) -> None:
    changing, peer = add_node(service, 1, "mesh"), add_node(service, 2, "mesh")
    announce(service, changing)
    acknowledge(service, peer)
    add_identity(service, "later")
    assert waiting(service, changing) == []


def test_after_a_restored_backup_acknowledgements_count_anew(service: Service) -> None:
    changing, peer = add_node(service, 1, "mesh"), add_node(service, 2, "mesh")
    announce(service, changing)
    acknowledge(service, peer)
    with service.store.writing() as session:
        network.begin_epoch(session)
    assert waiting(service, changing) == ["n2"]
    acknowledge(service, peer)
    assert waiting(service, changing) == []
