"""Prometheus text to samples."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from ztlab.lab import metrics

TEXT = """\
# HELP zt_peers Peers.
# TYPE zt_peers gauge
zt_peers 2.0

zt_drops_total{identity="guest",reason="no_rule",hook="ingress"} 3
zt_drops_total{identity="guest",reason="malformed",hook="ingress"} 4 1700000000000
"""


def test_a_sample_is_found_by_some_of_its_labels() -> None:
    assert metrics.total(TEXT, "zt_drops_total", {"identity": "guest"}) == 7
    assert metrics.total(TEXT, "zt_drops_total", {"reason": "no_rule"}) == 3
    assert metrics.total(TEXT, "zt_peers") == 2


def test_what_nobody_counted_is_none_and_not_zero() -> None:
    assert metrics.total(TEXT, "zt_drops_total", {"identity": "web"}) is None


def test_what_the_library_writes_is_read_back_with_odd_label_values() -> None:
    registry = CollectorRegistry()
    odd = 'a "quoted" \\ back\nline, {braces}'
    Gauge("zt_thing", "h", ["name"], registry=registry).labels(odd).set(1.5e9)
    Counter("zt_other", "h", registry=registry).inc(2)
    text = generate_latest(registry).decode()
    assert metrics.total(text, "zt_thing", {"name": odd}) == 1.5e9
    assert metrics.total(text, "zt_other_total") == 2


def test_a_line_that_is_no_sample_is_a_fault() -> None:
    with pytest.raises(ValueError, match="not a Prometheus sample"):
        list(metrics.parse("<html>"))
