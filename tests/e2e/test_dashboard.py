"""The Grafana dashboard and the alerts, asked of a real Prometheus that scraped a real lab."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.plans import mesh
from tests.e2e.waiting import wait_until
from ztlab.lab import build, metrics, teardown
from ztlab.lab.lab import Lab
from ztlab.lab.pace import scaled

pytestmark = [
    pytest.mark.root,
    pytest.mark.lab,
    pytest.mark.wireguard,
    pytest.mark.bpf,
    pytest.mark.prometheus,
]

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "agent/deploy/grafana-dashboard.json").read_text())
RULES = ROOT / "agent/deploy/prometheus-rules.yml"
PATH = f"{os.environ['PATH']}:{ROOT}/build/prometheus/usr/bin"
QUERIES = [
    (panel["title"], target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]
# What Grafana puts in place of its variables.
VARIABLES = {
    "$__rate_interval": f"{scaled(10):.0f}s",
    "$__range": f"{scaled(60):.0f}s",
    "$node": ".*",
    "$identity": ".*",
}


def tool(name: str) -> str:
    found = shutil.which(name, path=PATH)
    assert found is not None
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def within_reach(lab: Lab, node: str) -> Iterator[str]:
    """HOST:PORT here that answers with what NODE's agent says in its namespace."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = lab.metrics(node).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(text)))
            with contextlib.suppress(BrokenPipeError):  # a scrape that took longer than its time
                self.end_headers()
                self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Prometheus:
    """Scrapes TARGETS, node name to HOST:PORT, every half second of an unhurried machine: an answer
    that takes longer than that is none."""

    def __init__(self, folder: Path, targets: dict[str, str]) -> None:
        scrape = [{"targets": [at], "labels": {"instance": node}} for node, at in targets.items()]
        every = f"{scaled(500):.0f}ms"
        config = {
            "global": {"scrape_interval": every, "evaluation_interval": every},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "zt-agent", "static_configs": scrape}],
        }
        file, port = folder / "prometheus.yml", free_port()
        file.write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "prometheus.log"
        command = [
            *(tool("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder}/data"),
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def get(self, path: str, **query: str) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=scaled(10)) as answer:
            return json.load(answer)["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("query", query=expr)["result"]
        return found

    def last(self, series: str) -> list[dict[str, Any]]:
        """The last value of each that was scraped, though the newest scrape came late: one such
        makes every series stale."""
        return self.query(f"last_over_time({series}[1h])")

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return len(self.query("up == 1")) == 3
        except OSError:
            return False

    def scrapes(self) -> int:
        """How often it has scraped one of them in the last hour."""
        return len(self.query('zt_flows{instance="bob"}[1h]')[0]["values"])

    def has_scraped(self, times: int) -> bool:
        return self.scrapes() >= times

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has scraped every agent of a mesh, before, while and after alice was let in to bob and
    carol was not."""
    folder = tmp_path_factory.mktemp("dashboard")
    name = f"t{os.getpid()}-dash"
    with pytest.MonkeyPatch.context() as environment, contextlib.ExitStack() as undo:
        environment.setenv("ZTLAB_STATE_DIR", str(folder / "labs"))
        lab = build.up(mesh(name))
        undo.callback(teardown.down, name)
        targets = {n.name: undo.enter_context(within_reach(lab, n.name)) for n in lab.nodes}
        made = Prometheus(folder, targets)
        undo.callback(made.stop)
        wait_until(made.is_ready, 30)
        for _ in range(3):
            scrapes = made.scrapes()
            with lab.connect("alice", ("bob", 8080), timeout=scaled(5)) as connection:
                assert connection.recv(200)
            with pytest.raises(TimeoutError):
                lab.connect("carol", ("bob", 8080), timeout=0.5)
            wait_until(partial(made.has_scraped, scrapes + 2))
        delivered = {"outcome": "delivered"}
        wait_until(
            lambda: (metrics.total(lab.metrics("bob"), "zt_log_events_total", delivered) or 0) > 0
        )
        yield made


@pytest.mark.parametrize(
    "expr", [expr for _, expr in QUERIES], ids=[f"{title}: {expr[:24]}" for title, expr in QUERIES]
)
def test_every_query_of_the_dashboard_returns_data(prometheus: Prometheus, expr: str) -> None:
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    assert "$" not in expr
    # Again: one scrape that came late makes every series stale until the next.
    wait_until(lambda: bool(prometheus.query(expr)))


def test_the_dashboards_variables_have_values(prometheus: Prometheus) -> None:
    assert prometheus.get("label/instance/values") == ["alice", "bob", "carol"]
    assert {"web", "api", "guest"} <= set(prometheus.get("label/identity/values"))


def test_what_is_shown_is_what_happened(prometheus: Prometheus) -> None:
    (drops,) = prometheus.last('zt_drops_total{instance="bob",identity="guest",reason="no_rule"}')
    assert float(drops["value"][1]) >= 3
    (hits,) = prometheus.last('zt_rule_packets_total{instance="bob",rule="web-to-api"}')
    assert float(hits["value"][1]) >= 3
    assert hits["metric"]["action"] == "allow"


def test_no_alert_fires_in_a_lab_that_is_well(prometheus: Prometheus) -> None:
    (group,) = prometheus.get("rules")["groups"]
    states = {rule["name"]: (rule["health"], rule["state"]) for rule in group["rules"]}
    assert len(states) == 8
    assert set(states.values()) == {("ok", "inactive")}


def test_promtool_finds_no_fault_in_the_alerts() -> None:
    command = [tool("promtool"), "check", "rules", str(RULES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "SUCCESS: 8 rules" in done.stdout
