"""What /metrics says is what the network and its streams are."""

from __future__ import annotations

from datetime import timedelta

from flask import Flask
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from coordinator import access, clock, metrics, nodes
from coordinator.api.context import Service
from coordinator.nodes import Ack
from coordinator.store.models import NodeRow
from tests.unit.coordinator.test_network import add_node

ON_BOTH_STORES = True
NOW = clock.now()


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, values of its labels) to value."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(service: Service) -> dict[str, float]:
    """Those without labels."""
    with service.store.reading() as session:
        text = metrics.render(session, service.hub, NOW).decode()
    return {name: value for (name, labels), value in samples(text).items() if not labels}


def acknowledge(service: Service, node_id: str, error: str | None = None) -> None:
    known = service.hub.memory.known
    assert known is not None
    wanted = known.wanted[node_id]
    ack = Ack(revision=wanted.revision, digest=wanted.digest, applied=error is None, error=error)
    with service.store.writing() as session:
        nodes.acknowledge(session, node_id, ack, NOW)


def test_who_lags_is_counted_and_for_how_long(service: Service) -> None:
    first, second = add_node(service, 1, "mesh"), add_node(service, 2, "mesh")
    with service.store.writing() as session:
        session.execute(update(NodeRow).values(last_contact_at=NOW - timedelta(seconds=30)))
    before = scraped(service)
    assert before["zt_coordinator_nodes"] == before["zt_coordinator_nodes_not_converged"] == 2
    assert before["zt_coordinator_acknowledgement_lag_seconds"] == 30

    acknowledge(service, first)
    acknowledge(service, second, "no such interface")
    after = scraped(service)
    assert after["zt_coordinator_nodes_not_converged"] == 1
    assert after["zt_coordinator_nodes_refusing"] == 1

    acknowledge(service, second)
    converged = scraped(service)
    assert converged["zt_coordinator_nodes_not_converged"] == 0
    assert converged["zt_coordinator_acknowledgement_lag_seconds"] == 0


def test_streams_and_pushes_are_counted(service: Service) -> None:
    with service.hub.subscription("a"), service.hub.subscription("b"):
        service.hub.pushes.add(0.03, 100)
        service.hub.pushes.add(7.0, 100)
        found = scraped(service)
        assert found["zt_coordinator_streams"] == 2
        assert found["zt_coordinator_push_seconds_count"] == 2
        assert found["zt_coordinator_push_seconds_sum"] == 7.03
    assert scraped(service)["zt_coordinator_streams"] == 0


def test_it_is_for_administrators_and_names_routes_not_paths(app: Flask, service: Service) -> None:
    with service.store.writing() as session:
        token = access.create_token(session, "prometheus", "viewer", clock.now())
    client = app.test_client()
    headers = {"Authorization": f"Bearer {token}"}
    assert client.get("/api/v1/metrics").status_code == 401
    assert client.get("/api/v1/groups/secret-name", headers=headers).status_code == 404
    assert client.open("/made-up", method="PURGE").status_code in (404, 405)

    answer = client.get("/api/v1/metrics", headers=headers)

    assert answer.status_code == 200 and answer.content_type == metrics.CONTENT_TYPE
    text = answer.get_data(as_text=True)
    assert "secret-name" not in text and "made-up" not in text and "PURGE" not in text
    found = samples(text)
    labels = ("GET", "/api/v1/groups/<name>", "404")
    assert found["zt_coordinator_request_seconds_count", labels] >= 1
