"""Metrics and events as values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.scenario.seen import FLOW, event, metrics
from ztlab.scenario.samples import describe_event, parse_metrics

DROPS = (
    'zt_drops_total{hook="ingress",identity="guest",reason="no_rule"} 3',
    'zt_drops_total{hook="egress",identity="guest",reason="no_rule"} 2',
    'zt_drops_total{hook="ingress",identity="web",reason="no_rule"} 7',
)


def test_labels_select_a_subset_and_what_they_select_is_summed() -> None:
    found = metrics(*DROPS)
    assert found.total("zt_drops_total", {"identity": "guest"}) == 5
    assert found.total("zt_drops_total", {"identity": "guest", "hook": "egress"}) == 2
    assert found.total("zt_drops_total", {}) == 12
    assert found.total("zt_drops_total", {"identity": "nobody"}) == 0


def test_a_counter_that_never_counted_is_known_and_a_misspelt_one_is_not() -> None:
    found = metrics()
    assert found.why_unknown("zt_drops_total") is None
    assert found.why_unknown("zt_drop_total") == (
        '/metrics has no zt_drop_total (did you mean "zt_drops_total"?)'
    )


def test_a_label_value_may_hold_anything() -> None:
    found = parse_metrics('zt_x{a="q\\"uote\\\\ and, comma}"} 1\n')
    assert found.total("zt_x", {"a": 'q"uote\\ and, comma}'}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"source_port": 43211},
        {"destination_port": 8081},
        {"protocol": 17},
        {"source": "10.77.0.3", "destination": "10.77.0.4"},
        {"source": "10.77.0.5"},
        {"source": "fd77::4"},
    ],
)
def test_an_event_of_any_other_five_tuple_is_another_flow(change: dict[str, object]) -> None:
    assert FLOW.matches(event())
    assert not FLOW.matches(event(**change))


def test_an_ipv6_address_is_compared_as_an_address_not_as_a_text() -> None:
    flow = replace(FLOW, source="fd77::4", destination="fd77::3")
    assert flow.matches(event(source="FD77:0:0::4", destination="fd77:0::3"))


def test_icmp_has_no_ports_to_compare() -> None:
    flow = replace(FLOW, protocol=1, source_port=0, destination_port=0)
    assert flow.matches(event(protocol=1, source_port=8, destination_port=0))


def test_an_event_reads_as_one_line() -> None:
    assert describe_event(event(rule="r")) == (
        "no_rule ingress guest 10.77.0.4:43210 -> api 10.77.0.3:8080 proto 6 rule r"
    )
    assert str(replace(FLOW, source="fd77::4")) == "[fd77::4]:43210 -> 10.77.0.3:8080"
