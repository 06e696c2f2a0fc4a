"""Read a standing lab as an operator would: metrics over HTTP, events, the log API, tc."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ztlab.scenario.claims import Needs
from ztlab.scenario.samples import ActionResult, Event, Metrics, Observed, parse_metrics
from ztlab.scenario.watch import EchoStream, EventWatch, happened_at

if TYPE_CHECKING:
    from ztlab.lab.lab import Lab

METRICS_URL = "http://127.0.0.1:9464/metrics"
_CLOCK_SLACK_S = 0.05  # an event's time is the kernel's, converted; the action's is ours
_PAGE = 1000


class Reader:
    """Reads one lab; keeps an event watch open for each node that runs an agent."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._watches: dict[str, EventWatch] = {}
        self._cursor: int | None = None
        self._logs: list[Event] = []
        self.streams: dict[str, EchoStream] = {}

    def watch(self, nodes: Iterable[str]) -> None:
        """Watch NODES' events from now on; returns when none can be missed any more."""
        for node in nodes:
            self._watches[node] = EventWatch(self._lab, node)

    @property
    def watched(self) -> tuple[str, ...]:
        """The nodes whose events are read."""
        return tuple(self._watches)

    def close(self) -> None:
        """Stop everything that runs beside the steps."""
        for stream in self.streams.values():
            stream.close()
        for watch in self._watches.values():
            watch.close()
        self.streams.clear()
        self._watches.clear()

    def before(self, needs: Needs) -> Mapping[str, Metrics]:
        """What must be read before an action: metrics, and where the log stands."""
        if needs.logs:
            self._cursor = self._lab.admin().logs(limit=1).next
            self._logs = []
        return self._metrics(needs.metrics)

    def after(
        self, needs: Needs, action: ActionResult, before: Mapping[str, Metrics], began_unix: float
    ) -> Observed:
        """Everything NEEDS names, at this moment."""
        since = began_unix - _CLOCK_SLACK_S
        metrics = self._metrics(needs.metrics)
        events = {node: self.events(node, since) for node in needs.events}
        logs = self._read_logs(since) if needs.logs else ()
        filters = {(node, hook): self._filters(node, hook) for node, hook in needs.filters}
        waiting = self._waiting() if needs.convergence else None
        elapsed_s = time.monotonic() - action.done_at
        echoes = {name: stream.echoes() for name, stream in self.streams.items()}
        return Observed(
            elapsed_s=elapsed_s,
            action=action,
            before=before,
            metrics=metrics,
            events=events,
            logs=logs,
            echoes=echoes,
            filters=filters,
            waiting=waiting,
        )

    def events(self, node: str, since: float) -> tuple[Event, ...]:
        """What NODE's event stream said since Unix time SINCE; nothing if it is not watched."""
        watch = self._watches.get(node)
        return watch.events(since) if watch is not None else ()

    def metrics(self, node: str) -> Metrics:
        """NODE's /metrics now."""
        return parse_metrics(self._lab.http_get(node, METRICS_URL))

    def _metrics(self, nodes: Iterable[str]) -> dict[str, Metrics]:
        names = sorted(nodes)
        if len(names) < 2:
            return {node: self.metrics(node) for node in names}
        with ThreadPoolExecutor(len(names)) as pool:
            return dict(zip(names, pool.map(self.metrics, names), strict=True))

    def _read_logs(self, since: float) -> tuple[Event, ...]:
        page = self._lab.admin().logs(after=self._cursor, limit=_PAGE)
        self._cursor = page.next
        self._logs.extend(e for e in page.items if happened_at(e) >= since)
        return tuple(self._logs)

    def _filters(self, node: str, hook: str) -> str:
        done = self._lab.run(node, ["tc", "filter", "show", "dev", "wg0", hook], timeout_s=5)
        return done.stdout + done.stderr

    def _waiting(self) -> tuple[str, ...]:
        nodes = self._lab.admin().nodes()
        return tuple(n.name for n in nodes if n.revoked_at is None and not n.has_converged)
