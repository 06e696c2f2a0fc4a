"""Where the log goes: to the coordinator, to an OpenTelemetry collector, or nowhere."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from agent.events import Chunk, body
from ztlab.model.logbatch import MAX_EVENTS

if TYPE_CHECKING:
    from agent.daemon import Agent
    from agent.session import Session


class Sink(Protocol):
    """Takes batches of at most `batch_events` events; `retries` of them so far were sent again."""

    batch_events: int
    retries: int

    @property
    def is_ready(self) -> bool:
        """Is there somebody to push to? Batches wait as long as there is not."""

    def push(self, batch: Chunk) -> int:
        """How many events of BATCH were taken; ZtError where none was."""

    def stop(self) -> None:
        """Do not wait for anything any more."""

    def status(self) -> dict[str, Any]:
        """What `zt-agent status` says of it."""


class CoordinatorSink:
    """The coordinator's intake. A batch that is not acknowledged is given up."""

    batch_events = MAX_EVENTS
    retries = 0

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def is_ready(self) -> bool:
        return self._session.is_ready

    def push(self, batch: Chunk) -> int:
        self._session.push_logs(body(batch))
        return len(batch)

    def stop(self) -> None:
        """It waits for nothing."""

    def status(self) -> dict[str, Any]:
        return {"sink": "coordinator", "endpoint": self._session.url, "retries": self.retries}


def sink(agent: Agent) -> Sink | None:
    """The one that agent.toml chose, and nobody else can; None: events are for observers alone."""
    chosen = agent.settings.log
    if not chosen.push:
        return None
    if chosen.sink == "otlp":
        from agent.otlp.sink import OtlpSink  # protobuf: 5 MB that the other sink does not need

        assert chosen.otlp is not None, "the settings were checked"
        return OtlpSink(chosen.otlp, lambda: resource(agent))
    return CoordinatorSink(agent.session) if agent.session is not None else None


def resource(agent: Agent) -> Mapping[str, str]:
    """Who sends, in the words of OpenTelemetry's semantic conventions for resources."""
    applied = agent.last_good.current
    session = agent.session.status if agent.session else None
    node = applied.config.node if applied else None
    node_id = node.node_id if node else session.node_id if session else None
    found = {
        "service.namespace": "ztlab",
        "service.name": "zt-agent",
        "service.version": agent.version,
        "service.instance.id": node_id or agent.key.client_id,
        "host.name": platform.node(),
        "zt.node.id": node_id,
        "zt.node.name": node.name if node else agent.settings.name,
        "zt.network.id": applied.config.network_id if applied else None,
        "zt.client.id": agent.key.client_id,
    }
    return {name: value for name, value in found.items() if value}
