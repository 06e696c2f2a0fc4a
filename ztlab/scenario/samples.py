"""What an operator can read of a lab at one moment, as values that expectations are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from ztlab.model.codec import did_you_mean

Event = Mapping[str, Any]  # docs/PROTOCOL.md
_ICMP = (1, 58)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """One answer of a node's /metrics.

    series  (sample name, its labels) to its value
    names   every sample or metric family the answer declares, also without a series
    """

    series: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    names: frozenset[str]

    def total(self, name: str, labels: Mapping[str, str]) -> float:
        """The sum over every series of NAME that has these LABELS; 0 where there is none."""
        wanted = frozenset(labels.items())
        return sum(v for (n, has), v in self.series.items() if n == name and wanted <= has)

    def why_unknown(self, name: str) -> str | None:
        """Why NAME cannot be asked for, or nothing: a counter that never counted is known."""
        if name in self.names:
            return None
        return f"/metrics has no {name}{did_you_mean(name, self.names)}"


def parse_metrics(text: str) -> Metrics:
    """TEXT in Prometheus's exposition format."""
    series: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    names: set[str] = set()
    for family in text_string_to_metric_families(text):
        # The parser strips "_total" from a counter's name; its samples have it.
        names.add(family.name + "_total" if family.type == "counter" else family.name)
        for sample in family.samples:
            names.add(sample.name)
            series[sample.name, frozenset(sample.labels.items())] = float(sample.value)
    return Metrics(series=series, names=frozenset(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowKey:
    """The five-tuple of a conversation as its beginner sent it; ports are 0 for ICMP."""

    source: str
    destination: str
    protocol: int
    source_port: int
    destination_port: int

    def matches(self, event: Event) -> bool:
        """Is EVENT about exactly this flow, in this direction?"""
        if event.get("protocol") != self.protocol:
            return False
        if not _same(event.get("source"), self.source):
            return False
        if not _same(event.get("destination"), self.destination):
            return False
        if self.protocol in _ICMP:
            return True
        return (event.get("source_port"), event.get("destination_port")) == (
            self.source_port,
            self.destination_port,
        )

    def __str__(self) -> str:
        return (
            f"{_end(self.source, self.source_port)} -> "
            f"{_end(self.destination, self.destination_port)}"
        )


def _same(one: Any, other: str) -> bool:
    try:
        return ip_address(str(one)) == ip_address(other)
    except ValueError:
        return False


def _end(address: Any, port: Any) -> str:
    text = f"[{address}]" if ":" in str(address) else str(address)
    return f"{text}:{port}" if port else text


def describe_event(event: Event) -> str:
    """One line: `no_rule ingress guest 10.77.0.4:40001 -> api 10.77.0.3:8080 proto 6`."""
    source = _end(event.get("source"), event.get("source_port"))
    destination = _end(event.get("destination"), event.get("destination_port"))
    rule = f" rule {event['rule']}" if event.get("rule") else ""
    return (
        f"{event.get('verdict')} {event.get('hook')} "
        f"{event.get('source_identity')} {source} -> "
        f"{event.get('destination_identity')} {destination} proto {event.get('protocol')}{rule}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """One message of a stream that came back; seconds of CLOCK_MONOTONIC."""

    sent_at: float
    received_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResult:
    """What an action did.

    began_at, done_at  seconds of CLOCK_MONOTONIC; what is expected counts from done_at
    resolved           the arguments as resolved: addresses, ports
    flows              the conversations it opened, as its own side saw them
    probe              what probe.py printed
    mbit               a transfer's rate, as received
    forged, control    a forge's flows: under the false address, and the one under the true
    exit_code, stdout  a command's
    revision           of a policy change: the (epoch, number) the API answered
    notes              what else is worth telling a reader of the report
    """

    began_at: float
    done_at: float
    resolved: str = ""
    flows: tuple[FlowKey, ...] = ()
    probe: Mapping[str, Any] = field(default_factory=dict)
    mbit: float | None = None
    forged: tuple[FlowKey, ...] = ()
    control: FlowKey | None = None
    exit_code: int | None = None
    stdout: str = ""
    revision: tuple[str, int] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything that was read at one moment after an action, and before it where that matters.

    elapsed_s  since the action was done
    before     /metrics of each node before the action; metrics: now
    events     of each node's stream, since the action began; logs: of the coordinator, likewise
    logging    does the node log, by its own zt_logging_enabled
    echoes     of each stream, since it began
    filters    (node, hook) to what tc says
    waiting    nodes that have not acknowledged what they should have; None: not asked
    """

    elapsed_s: float
    action: ActionResult
    before: Mapping[str, Metrics] = field(default_factory=dict)
    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    events: Mapping[str, tuple[Event, ...]] = field(default_factory=dict)
    logs: tuple[Event, ...] = ()
    echoes: Mapping[str, tuple[Echo, ...]] = field(default_factory=dict)
    filters: Mapping[tuple[str, str], str] = field(default_factory=dict)
    waiting: tuple[str, ...] | None = None

    def logs_at(self, node: str) -> bool:
        """Does NODE say that it logs?"""
        return self.metrics[node].total("zt_logging_enabled", {}) == 1
