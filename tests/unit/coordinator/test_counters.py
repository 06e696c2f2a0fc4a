"""What is counted is shown under its name and labels, and nothing else is."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from coordinator import counters


def refusals(what: str, reason: str) -> float:
    labels = {"what": what, "reason": reason}
    return counters.REGISTRY.get_sample_value("zt_coordinator_refusals_total", labels) or 0.0


def test_a_refusal_is_counted_by_what_and_why() -> None:
    before = refusals("enrol", "wrong_proof"), refusals("token", "wrong_proof")
    counters.refused("enrol", "wrong_proof")
    after = refusals("enrol", "wrong_proof"), refusals("token", "wrong_proof")
    assert after == (before[0] + 1, before[1])


def test_every_number_is_the_coordinators_own() -> None:
    text = generate_latest(counters.REGISTRY).decode()
    names = [family.name for family in text_string_to_metric_families(text)]
    assert names and all(name.startswith("zt_coordinator_") for name in names)
