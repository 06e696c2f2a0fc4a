"""Bulk streams across the end of an agent: they go on, each second, and so do their counters."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.nodes import BIN, Node
from tests.e2e.streams import received, stream
from tests.e2e.test_agent_standalone import BOB, BOB_6, config
from tests.e2e.tunnels import tunnel
from ztlab.lab.pace import scaled

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

STREAMS = {5201: BOB, 5202: BOB_6}
RULES: list[dict[str, Any]] = [
    {"id": f"stream-{port}", "from": "alice", "to": "bob", "proto": "tcp", "ports": [port],
     "action": "allow"}
    for port in STREAMS
]  # fmt: skip
CLOCK_DRIFT = timedelta(milliseconds=100)  # of the wall clock against the kernel's
HITS = 'zt_rule_packets_total{action="allow",rule="stream-%d"}'


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """alice may stream to bob; he tells of his flows twice a second."""
    with tunnel(tmp_path, RULES, settings={"log": {"flow_records_s": 0.5}}) as both:
        yield both


def told(node: Node) -> dict[int, dict[str, Any]]:
    """By port, the biggest flow of those that the agent next tells of (the other connection that
    iperf3 has to the same port is small)."""
    found: dict[int, dict[str, Any]] = {}
    deadline = time.monotonic() + scaled(20.0)
    watcher = subprocess.Popen(
        node.command(str(BIN / "zt-agent"), "observe", "--json"), stdout=subprocess.PIPE
    )
    with watcher:
        try:
            assert watcher.stdout is not None
            while len(found) < len(STREAMS):
                assert time.monotonic() < deadline, f"no word of every stream, but of {found}"
                if not select.select([watcher.stdout], [], [], 1.0)[0]:
                    continue
                event = json.loads(watcher.stdout.readline())
                port = event["destination_port"]
                if event["kind"] == "update" and port in STREAMS and event["length"] > 200_000:
                    found[port] = event
        finally:
            watcher.kill()
    return found


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_stream_goes_on_each_second_while_an_agent_ends_and_another_starts(
    nodes: tuple[Node, Node], end: signal.Signals
) -> None:
    alice, bob = nodes
    with stream(alice, bob, BOB, 5201) as four, stream(alice, bob, BOB_6, 5202) as six:
        for each in (four, six):
            each.goes_on()
        before, hits = told(bob), bob.metrics()

        bob.stop_agent(end)
        for each in (four, six):
            each.goes_on()  # nobody is there
        came = {port: received(bob, port) for port in STREAMS}
        bob.start_agent(config(bob, alice, RULES))
        for each in (four, six):
            each.goes_on()

        after, hits_now = told(bob), bob.metrics()
        assert bob.status()["origin"] == "adopted"
    for each in (four, six):
        assert len(each.seconds()) >= 9 and all(each.seconds()), each.seconds()
    for port in STREAMS:
        # The flow of before, whose counters have all that came while nobody was there.
        began = [datetime.fromisoformat(flows[port]["began_at"]) for flows in (before, after)]
        assert abs(began[1] - began[0]) < CLOCK_DRIFT
        assert after[port]["source_port"] == before[port]["source_port"]
        assert after[port]["packets"] > before[port]["packets"] > 0
        assert after[port]["length"] > came[port] > before[port]["length"]
        assert hits_now[HITS % port] - hits[HITS % port] >= (
            after[port]["packets"] - before[port]["packets"]
        )
    assert not [name for name, n in hits_now.items() if "zt_drops_total{" in name and n]


def test_a_stream_that_is_cut_is_silent_by_the_same_measure(nodes: tuple[Node, Node]) -> None:
    """The control of the test above."""
    alice, bob = nodes
    with stream(alice, bob, BOB, 5201) as four, stream(alice, bob, BOB_6, 5202) as six:
        for each in (four, six):
            each.goes_on()
        bob.zt("apply", str(bob.write(config(bob, alice, []))))
        for each in (four, six):
            each.goes_on()
            assert each.seconds()[0] and not each.seconds()[-1]
