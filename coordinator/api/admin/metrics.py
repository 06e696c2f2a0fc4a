"""/metrics: the coordinator's own numbers, for Prometheus with a viewer's token."""

from __future__ import annotations

from coordinator import clock, metrics
from coordinator.api.route import Call, Reply, Route


def _get_metrics(call: Call) -> Reply:
    with call.reading() as session:
        return Reply(content=metrics.render(session, call.service.hub, clock.now()))


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/metrics",
        view=_get_metrics,
        summary="The coordinator's own metrics, in Prometheus' text format",
        group="network",
        role="viewer",
        stream=metrics.CONTENT_TYPE,
    ),
)
