"""Every metric that is documented is served, and nothing else."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.applied import Applied
from agent.health import Health
from agent.ledger import LogCounts
from agent.metrics import MetricsServer, RuleTraffic, Snapshot, Traffic
from agent.session import SessionStatus
from agent.settings import Switches
from ztlab.errors import HostUnfit
from ztlab.model.config import NodeConfig, Revision, Self
from ztlab.model.verdict import AuthzMode, Hook, Verdict

NODE = Self(node_id="n", name="me", role="mesh", identity="me", addresses=("10.1.0.1/32",))
SNAPSHOT = Snapshot(
    rules=(
        RuleTraffic(rule="web-to-api", action="allow", packets=7, bytes=700),
        RuleTraffic(rule="no-guest", action="deny", packets=5, bytes=300),
    ),
    traffic=(
        Traffic(identity="web", hook=Hook.INGRESS, verdict=Verdict.ALLOWED, packets=3, bytes=180),
        Traffic(identity="web", hook=Hook.EGRESS, verdict=Verdict.ESTABLISHED, packets=2, bytes=9),
        Traffic(identity="guest", hook=Hook.INGRESS, verdict=Verdict.NO_RULE, packets=4, bytes=240),
        # Two tags may have had one name, one after the other.
        Traffic(identity="guest", hook=Hook.INGRESS, verdict=Verdict.NO_RULE, packets=1, bytes=60),
    ),
    uncounted=2,
    log=LogCounts(emitted=10, delivered=6, ring_full=1),
    suppressed=3,
    retries=5,
    flows=5,
    health=Health(
        attached={Hook.INGRESS: True, Hook.EGRESS: False},
        belt_installed=True,
        drift=0,
        belt_drops=9,
    ),
    switches=Switches(authz_mode=AuthzMode.ENFORCE, logging_enabled=False),
    session=SessionStatus(is_enrolled=True, is_connected=False, node_id="n", last_error=None),
    applied=Applied(
        revision=Revision(epoch="e1", number=7),
        config=NodeConfig(version=1, network_id="x", node=NODE),
    ),
    applies={"applied": 2, "refused": 1},
    rotations={"done": 1},
    handshakes={"bob": 0.0, "carol": 1234.5},
    version="0.1.0",
    wireguard="kernel",
    loader="bcc",
)


class Served:
    """A metrics server on a free port, whose snapshot a test may change."""

    def __init__(self) -> None:
        self.snapshot = SNAPSHOT
        self.server = MetricsServer("127.0.0.1:0", lambda: self.snapshot)

    def text(self) -> str:
        url = f"http://127.0.0.1:{self.server.port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())

    def value(self, name: str, **labels: str) -> float:
        found = [
            sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.name == name and labels == sample.labels
        ]
        assert len(found) == 1, (name, labels, found)
        return found[0]


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.server.stop()


def documented() -> set[str]:
    text = (Path(__file__).parents[3] / "docs" / "CONFIGURATION.md").read_text()
    table = text.partition("## Metrics of an agent")[2].partition("\n## ")[0]
    rows = (line.split("|")[1] for line in table.splitlines() if line.startswith("| `zt_"))
    return {name for row in rows for name in re.findall(r"zt_\w+", row)}


def test_exactly_the_documented_metrics_are_served(served: Served) -> None:
    samples = {
        sample.name
        for family in text_string_to_metric_families(served.text())
        for sample in family.samples
    }
    assert samples == documented()


def test_traffic_is_told_by_identity_direction_and_verdict(served: Served) -> None:
    value = served.value
    assert value("zt_packets_total", identity="web", direction="in", verdict="allowed") == 3
    assert value("zt_bytes_total", identity="web", direction="in", verdict="allowed") == 180
    assert value("zt_packets_total", identity="web", direction="out", verdict="established") == 2
    assert value("zt_drops_total", identity="guest", reason="no_rule", hook="ingress") == 5
    assert value("zt_rule_packets_total", rule="web-to-api", action="allow") == 7
    assert value("zt_rule_bytes_total", rule="no-guest", action="deny") == 300
    assert value("zt_drop_bytes_total", identity="guest", reason="no_rule", hook="ingress") == 300


def test_state_is_told_as_it_is(served: Served) -> None:
    value = served.value
    assert value("zt_log_events_total", outcome="emitted") == 10
    assert value("zt_log_events_in_flight") == 3
    assert value("zt_authz_enforce") == 1 and value("zt_logging_enabled") == 0
    assert value("zt_datapath_attached", hook="ingress") == 1
    assert value("zt_datapath_attached", hook="egress") == 0
    assert value("zt_belt_drops_total") == 9 and value("zt_uncounted_packets_total") == 2
    assert value("zt_belt_installed") == 1 and value("zt_identity_drift") == 0
    assert value("zt_agent_enrolled") == 1 and value("zt_stream_connected") == 0
    assert value("zt_config_revision", epoch="e1") == 7
    assert value("zt_config_applies_total", result="refused") == 1
    assert value("zt_peers") == 2
    assert value("zt_peer_last_handshake_seconds", peer="bob") == 0
    assert value("zt_peer_last_handshake_seconds", peer="carol") == 1234.5
    assert value("zt_agent_info", version="0.1.0", wireguard="kernel", loader="bcc") == 1


def test_each_scrape_is_asked_anew(served: Served) -> None:
    assert served.value("zt_flows") == 5
    served.snapshot = replace(SNAPSHOT, flows=6, session=None, applied=None)
    assert served.value("zt_flows") == 6
    assert served.value("zt_agent_enrolled") == 0


def test_a_port_that_is_taken_is_the_hosts_fault(served: Served) -> None:
    with pytest.raises(HostUnfit, match="cannot serve metrics on"):
        MetricsServer(f"127.0.0.1:{served.server.port}", lambda: SNAPSHOT)
