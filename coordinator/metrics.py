"""GET /metrics: what was counted, and what is read when it is asked for, in Prometheus' format.

Names and labels: docs/CONFIGURATION.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from coordinator import counters
from coordinator.hub import Hub
from coordinator.store.models import NetworkRow, NodeRow

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(session: Session, hub: Hub, now: datetime) -> bytes:
    """Everything, at one moment."""
    registry = CollectorRegistry()
    registry.register(_Now([*_network(session, now), *_pushes(hub)]))
    return generate_latest(counters.REGISTRY) + generate_latest(registry)


class _Now(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _network(session: Session, now: datetime) -> Iterator[Metric]:
    row = session.execute(select(NetworkRow.epoch, NetworkRow.number)).one()
    revision = GaugeMetricFamily(
        "zt_coordinator_revision", "The network's revision.", labels=["epoch"]
    )
    revision.add_metric([row.epoch], row.number)
    yield revision
    lags = (
        (NodeRow.applied_error.is_not(None))
        | (NodeRow.applied_digest.is_(None))
        | (NodeRow.applied_digest != NodeRow.wanted_digest)
        | (NodeRow.applied_epoch != NodeRow.wanted_epoch)
        | (NodeRow.applied_number != NodeRow.wanted_number)
    )
    heard = case((lags, NodeRow.last_contact_at))
    total, behind, refused, oldest = session.execute(
        select(
            func.count(),
            func.count(case((lags, 1))),
            func.count(NodeRow.applied_error),
            func.min(heard),
        ).where(NodeRow.revoked_at.is_(None))
    ).one()
    yield _gauge("zt_coordinator_nodes", "Enrolled nodes, without the revoked ones.", total)
    text = "Nodes that did not acknowledge what is wanted of them."
    yield _gauge("zt_coordinator_nodes_not_converged", text, behind)
    text = "Nodes that said that they cannot apply what is wanted of them."
    yield _gauge("zt_coordinator_nodes_refusing", text, refused)
    text = "Since the last word of the quietest node that did not converge; 0: none."
    silence = 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
    yield _gauge("zt_coordinator_acknowledgement_lag_seconds", text, silence)


def _pushes(hub: Hub) -> Iterator[Metric]:
    yield _gauge("zt_coordinator_streams", "Open streams of this process.", len(hub))
    pushes = hub.pushes
    buckets = [(str(bound), float(pushes.within[bound])) for bound in pushes.BOUNDS_S]
    yield HistogramMetricFamily(
        "zt_coordinator_push_seconds",
        "From the commit of a change until a stream's socket has taken it.",
        buckets=[*buckets, ("+Inf", float(pushes.count))],
        sum_value=pushes.seconds,
    )


def _gauge(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
