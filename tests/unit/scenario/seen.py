"""What was observed, made by hand for the tests of findings."""

from __future__ import annotations

from typing import Any

from ztlab.scenario.samples import ActionResult, FlowKey, Metrics, Observed, parse_metrics

FLOW = FlowKey(
    source="10.77.0.4",
    destination="10.77.0.3",
    protocol=6,
    source_port=43210,
    destination_port=8080,
)


def event(**changes: Any) -> dict[str, Any]:
    """An Event of FLOW, as docs/PROTOCOL.md has it, with CHANGES."""
    return {
        "at": "2026-01-31T12:00:00.123Z",
        "kind": "flow",
        "verdict": "no_rule",
        "hook": "ingress",
        "source": "10.77.0.4",
        "destination": "10.77.0.3",
        "protocol": 6,
        "source_port": 43210,
        "destination_port": 8080,
        "source_identity": "guest",
        "destination_identity": "api",
        "source_tag": 4,
        "destination_tag": 3,
        "rule": None,
        "length": 60,
        **changes,
    }


def metrics(*lines: str, logging: bool = True) -> Metrics:
    """/metrics of a node that dropped nothing yet, and LINES."""
    text = (
        "# TYPE zt_drops_total counter\n"
        "# TYPE zt_logging_enabled gauge\n"
        f"zt_logging_enabled {int(logging)}\n" + "".join(f"{line}\n" for line in lines)
    )
    return parse_metrics(text)


def action(**fields: Any) -> ActionResult:
    """An action that began at 100 s and was done at 101 s."""
    return ActionResult(**{"began_at": 100.0, "done_at": 101.0, **fields})


def seen(**fields: Any) -> Observed:
    """One look, 0.1 s after the action unless FIELDS say otherwise."""
    return Observed(**{"elapsed_s": 0.1, "action": action(), **fields})
