"""/metrics in Prometheus' text format: every number is read when it is asked for.

Names and labels: docs/CONFIGURATION.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.applied import Applied
from agent.health import Health
from agent.ledger import TERMS, LogCounts
from agent.settings import Switches
from ztlab.errors import HostUnfit
from ztlab.model.verdict import AuthzMode, Hook, Verdict

if TYPE_CHECKING:  # it brings TLS with it, which a standalone agent has no use for
    from agent.session import SessionStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What the programs counted for one identity, hook and verdict since they were loaded."""

    identity: str
    hook: Hook
    verdict: Verdict
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTraffic:
    """What one rule decided; action: allow | deny."""

    rule: str
    action: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything /metrics says, at one moment.

    uncounted   packets for whose identity, hook and verdict there was no counter left
    suppressed  denials that were too many in one second to become log events
    retries     pushes of log events that were tried again
    handshakes  peer name to Unix time of the last handshake, 0.0: none
    applies     "applied" and "refused" to how often
    rotations   "done" and "undone" to how often the key was changed; empty: standalone
    session     None: standalone
    """

    traffic: tuple[Traffic, ...]
    rules: tuple[RuleTraffic, ...]
    uncounted: int
    log: LogCounts
    suppressed: int
    retries: int
    flows: int
    health: Health
    switches: Switches
    session: SessionStatus | None
    applied: Applied | None
    applies: Mapping[str, int]
    rotations: Mapping[str, int]
    handshakes: Mapping[str, float]
    version: str
    wireguard: str
    loader: str


class AgentCollector(Collector):
    """Turns a fresh Snapshot into metric families at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        now = self._snapshot()
        yield from _traffic(now)
        yield from _drops(now)
        yield from _rules(now)
        yield from _log(now)
        yield from _state(now)
        yield from _control_plane(now)
        yield from _peers(now)


class MetricsServer:
    """Serves /metrics on HOST:PORT in a thread of its own."""

    def __init__(self, listen: str, snapshot: Callable[[], Snapshot]) -> None:
        host, _, port = listen.rpartition(":")
        registry = CollectorRegistry(auto_describe=False)
        registry.register(AgentCollector(snapshot))
        try:
            self._server: WSGIServer
            self._server, self._thread = start_http_server(
                int(port), addr=host.strip("[]"), registry=registry
            )
        except OSError as error:
            raise HostUnfit(
                f"cannot serve metrics on {listen}: {error.strerror or error}",
                hint="set another [metrics] listen",
            ) from error

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return int(self._server.server_port)

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _counter(name: str, text: str, labels: tuple[str, ...], rows: Mapping[Any, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in sorted(rows.items()):
        family.add_metric(values, value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, label: str, rows: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in sorted(rows.items()):
        family.add_metric((key,), value)
    return family


def _traffic(now: Snapshot) -> Iterator[Metric]:
    packets, octets = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for row in now.traffic:
        if not row.verdict.is_drop:
            direction = "in" if row.hook is Hook.INGRESS else "out"
            key = (row.identity, direction, row.verdict.word)
            packets[key] += row.packets
            octets[key] += row.bytes
    labels = ("identity", "direction", "verdict")
    yield _counter("zt_packets", "Packets that went on.", labels, packets)
    yield _counter("zt_bytes", "Bytes of packets that went on.", labels, octets)


def _drops(now: Snapshot) -> Iterator[Metric]:
    packets, octets = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for row in now.traffic:
        if row.verdict.is_drop:
            key = (row.identity, row.verdict.word, row.hook.word)
            packets[key] += row.packets
            octets[key] += row.bytes
    labels = ("identity", "reason", "hook")
    yield _counter("zt_drops", "Packets dropped, by the source's identity.", labels, packets)
    yield _counter("zt_drop_bytes", "Bytes of packets dropped.", labels, octets)
    text = "Packets that no program judged, dropped by the belt since it was put on."
    yield _counter("zt_belt_drops", text, (), {(): float(now.health.belt_drops)})
    text = "Packets that the counters above had no room for."
    yield _counter("zt_uncounted_packets", text, (), {(): float(now.uncounted)})


def _rules(now: Snapshot) -> Iterator[Metric]:
    packets = {(row.rule, row.action): float(row.packets) for row in now.rules}
    octets = {(row.rule, row.action): float(row.bytes) for row in now.rules}
    labels = ("rule", "action")
    yield _counter("zt_rule_packets", "Packets that a rule decided about.", labels, packets)
    yield _counter("zt_rule_bytes", "Bytes of these packets.", labels, octets)


def _log(now: Snapshot) -> Iterator[Metric]:
    rows = {(name,): float(getattr(now.log, name)) for name in TERMS}
    yield _counter("zt_log_events", "Log events, by what became of them.", ("outcome",), rows)
    yield _gauge("zt_log_events_in_flight", "Log events on their way.", now.log.in_flight)
    text = "Log events that the agent made of flows, sums so far and at the end: of the emitted."
    yield _counter("zt_log_flow_records", text, (), {(): float(now.log.flow_records)})
    text = "Denials that were too many in one second to become log events."
    yield _counter("zt_log_denials_suppressed", text, (), {(): float(now.suppressed)})
    text = "Pushes of log events to a collector that were tried again."
    yield _counter("zt_log_push_retries", text, (), {(): float(now.retries)})


def _state(now: Snapshot) -> Iterator[Metric]:
    enforces = now.switches.authz_mode is AuthzMode.ENFORCE
    yield _gauge("zt_authz_enforce", "1: policy is enforced here.", enforces)
    yield _gauge("zt_logging_enabled", "1: events are logged.", now.switches.logging_enabled)
    attached = {hook.word: float(on) for hook, on in now.health.attached.items()}
    yield _labelled("zt_datapath_attached", "1: the program is in place.", "hook", attached)
    yield _gauge("zt_belt_installed", "1: unjudged packets are dropped.", now.health.belt_installed)
    yield _gauge("zt_identity_drift", "Violations; must be 0.", now.health.drift)
    text = "Entries of the policy in force that the maps have otherwise; must be 0."
    yield _gauge("zt_policy_drift", text, now.health.policy_drift)
    repairs = {(what,): float(count) for what, count in now.health.repairs.items()}
    yield _counter("zt_repairs", "What somebody took away and was put back.", ("what",), repairs)
    yield _gauge("zt_flows", "Entries in the flow table.", now.flows)
    info = GaugeMetricFamily(
        "zt_agent_info", "What runs here.", labels=("version", "wireguard", "loader")
    )
    info.add_metric((now.version, now.wireguard, now.loader), 1)
    yield info


def _control_plane(now: Snapshot) -> Iterator[Metric]:
    session = now.session
    enrolled = session is not None and session.is_enrolled
    connected = session is not None and session.is_connected
    yield _gauge("zt_agent_enrolled", "1: known to a coordinator.", enrolled)
    yield _gauge("zt_stream_connected", "1: configurations can arrive.", connected)
    revision: dict[str, float] = {}
    if now.applied is not None:
        revision[now.applied.revision.epoch] = now.applied.revision.number
    yield _labelled("zt_config_revision", "Number of the applied revision.", "epoch", revision)
    applies = {(result,): float(count) for result, count in now.applies.items()}
    yield _counter("zt_config_applies", "Configurations that came.", ("result",), applies)
    deltas: dict[tuple[str, ...], float] = {
        ("ok",): session.deltas_applied if session else 0,
        ("refused",): session.deltas_refused if session else 0,
    }
    yield _counter("zt_config_deltas", "Deltas that came.", ("result",), deltas)
    rotations = {(result,): float(count) for result, count in now.rotations.items()}
    yield _counter("zt_key_rotations", "Changes of the node's key.", ("result",), rotations)


def _peers(now: Snapshot) -> Iterator[Metric]:
    yield _gauge("zt_peers", "WireGuard peers configured.", len(now.handshakes))
    yield _labelled(
        "zt_peer_last_handshake_seconds",
        "Unix time of the last handshake; 0: none.",
        "peer",
        now.handshakes,
    )
