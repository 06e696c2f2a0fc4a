"""What this process counts for Prometheus.

Names and labels: docs/CONFIGURATION.md. A label never carries what a stranger wrote.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Its own, or the library's numbers about Python and the process would be shown as well.
REGISTRY = CollectorRegistry()

REFUSALS = Counter(
    "zt_coordinator_refusals",
    "Requests refused to whoever could not prove who they are, or may not.",
    ("what", "reason"),
    registry=REGISTRY,
)
REQUESTS = Histogram(
    "zt_coordinator_request_seconds",
    "From a request's head to its answer's; a stream's answer begins at once.",
    ("method", "route", "status"),
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
    registry=REGISTRY,
)
LOG_BATCHES = Counter(
    "zt_coordinator_log_batches",
    "Batches of log events: stored, or repeated and stored before.",
    ("outcome",),
    registry=REGISTRY,
)
LOG_EVENTS = Counter("zt_coordinator_log_events", "Log events stored.", registry=REGISTRY)
LOG_PRUNED = Counter(
    "zt_coordinator_log_events_pruned",
    "Log events that were too old or too many.",
    registry=REGISTRY,
)
DATABASE_ERRORS = Counter(
    "zt_coordinator_database_errors",
    "Statements and connections that failed in the store.",
    registry=REGISTRY,
)
AUDIT_ROWS = Gauge("zt_coordinator_audit_rows", "Rows of the audit log.", registry=REGISTRY)
# A label that is new with each change: who scrapes it keeps what `audit verify --expect` needs, on
# a machine that whoever changes the log here does not have.
AUDIT_HEAD = Gauge(
    "zt_coordinator_audit_head_info",
    "Hash of the audit log's newest row, as this process knows it.",
    ("hash",),
    registry=REGISTRY,
)


def refused(what: str, reason: str) -> None:
    """WHAT (enrol, token, node, admin, ...) was refused for REASON (coordinator/errors.py)."""
    REFUSALS.labels(what, reason).inc()
