"""The log of a real agent at an OpenTelemetry collector: the account holds whatever that does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.nodes import Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import ALICE, BOB, config, has_shaken_hands, pair
from tests.e2e.test_log_account import TERMS, packets, pings, settled
from tests.unit.agent.otlp.collector import (
    Collector,
    Received,
    Reply,
    collecting,
    partly,
    plain,
    records,
)
from ztlab.lab import syscalls
from ztlab.lab.pace import scaled

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

CLONE_NEWNET = 0x40000000
RESIDENT_MB = 60  # the agent's bar with any sink


@contextmanager
def collecting_at(node: Node) -> Iterator[Collector]:
    """A collector on the loopback of NODE's namespace: its sockets live there, its thread here."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{node.pid}/ns/net", os.O_RDONLY)
    try:
        syscalls.setns(there, CLONE_NEWNET)
        collector = collecting()
        server = collector.__enter__()
    finally:
        syscalls.setns(home, CLONE_NEWNET)
        os.close(home)
        os.close(there)
    try:
        yield server
    finally:
        collector.__exit__(None, None, None)


@pytest.fixture(scope="module")
def logging_pair(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Node, Node, Collector]]:
    """Bob logs every packet to a collector beside him; alice sends them."""
    directory = tmp_path_factory.mktemp("otlp")
    alice, bob = pair(directory)
    headers = directory / "headers"
    headers.write_text("Authorization: Bearer of-this-test\n")
    headers.chmod(0o600)
    with namespaces(alice, bob), collecting_at(bob) as collector:
        bob.settings["log_granularity"] = "packet"
        bob.settings["log"] = {"sink": "otlp", "flush_after_s": 0.2}
        bob.settings["log.otlp"] = {
            "endpoint": f"http://127.0.0.1:{collector.port}",
            "headers_file": str(headers),
            "timeout_s": 2.0,
        }
        cable(alice, bob)
        for node, other in ((alice, bob), (bob, alice)):
            node.start_agent(config(node, other), wait=False)
        for node in (alice, bob):
            node.wait_ready()
        wait_for(lambda: has_shaken_hands(bob), what="a handshake")
        yield alice, bob, collector


def said(received: Received) -> list[dict[str, Any]]:
    return [plain(record.attributes) for record in records(received.request)]


def resident_mb(node: Node) -> float:
    lines = Path(f"/proc/{node.agent_pid()}/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("VmRSS"))
    return int(found) / 1024


def test_each_packet_is_at_the_collector_once_and_the_agent_stays_small(
    logging_pair: tuple[Node, Node, Collector],
) -> None:
    alice, bob, collector = logging_pair
    flood = alice.run("ping", "-q", "-f", "-c", "2000", BOB)
    assert flood.returncode == 0, flood.stdout
    counts = settled(bob)
    assert counts["emitted"] == packets(bob) == counts["delivered"] >= 4000
    events = [event for received in collector.received for event in said(received)]
    assert len(events) == counts["delivered"]
    assert len({event["log.record.uid"] for event in events}) == len(events)
    (first, *_) = (e for e in events if e["source.address"] == ALICE)
    assert first["zt.source.identity"] == "alice" and first["destination.address"] == BOB
    assert first["zt.peer.node.id"] == "id-alice"

    sender = plain(collector.received[-1].request.resource_logs[0].resource.attributes)
    assert sender["service.name"] == "zt-agent" and sender["service.instance.id"] == "id-bob"
    assert sender["zt.client.id"] == bob.status()["client_id"]
    assert collector.received[-1].headers["authorization"] == "Bearer of-this-test"
    assert bob.status()["log_sink"]["sink"] == "otlp"
    assert resident_mb(bob) < RESIDENT_MB


def test_what_waits_comes_and_what_was_rejected_is_counted(
    logging_pair: tuple[Node, Node, Collector],
) -> None:
    alice, bob, collector = logging_pair
    before, seen = settled(bob), len(collector.received)
    for reply in (
        Reply(status=503, headers={"Retry-After": "1"}),
        Reply(status=429),
        Reply(status=0),
        Reply(status=-1),  # longer than the agent waits
        partly(3, "not these"),
        Reply(status=400),
    ):
        collector.replies.put(reply)
    pings(alice, 10)
    wait_for(lambda: len(collector.received) >= seen + 5, scaled(30), "the batch is taken in part")
    pings(alice, 10)  # refused for good
    wait_for(collector.replies.empty, what="all replies were given")
    pings(alice, 10)
    now = settled(bob)

    tried = collector.received[seen:]
    assert len({event["zt.batch.id"] for got in tried[:5] for event in said(got)}) == 1
    assert tried[1].at - tried[0].at >= 1
    refused = [got for got in tried if got.reply.status == 400]
    taken = [got for got in tried if got.reply.status == 200]
    delivered = sum(len(said(got)) for got in taken) - 3
    assert now["delivered"] - before["delivered"] == delivered > 0
    failed = now["push_failed"] - before["push_failed"]
    assert failed == 3 + sum(len(said(got)) for got in refused)
    assert now["emitted"] == packets(bob) == sum(now[term] for term in TERMS)
    assert bob.metrics()["zt_log_push_retries_total"] >= 4


def test_the_account_holds_across_a_kill_while_a_push_hangs(
    logging_pair: tuple[Node, Node, Collector],
) -> None:
    alice, bob, collector = logging_pair
    before, seen = settled(bob), len(collector.received)
    collector.replies.put(Reply(status=-1))
    pings(alice, 10)
    wait_for(lambda: len(collector.received) > seen, what="the push that hangs")
    bob.stop_agent(signal.SIGKILL)
    bob.start_agent(config(bob, alice))
    pings(alice, 10)
    now = settled(bob)
    assert now["emitted"] == packets(bob) == sum(now[term] for term in TERMS)
    assert now["agent_died"] > before["agent_died"]
    assert now["delivered"] >= before["delivered"] + 20


def test_an_agent_whose_collector_hangs_or_is_gone_ends_at_once(
    logging_pair: tuple[Node, Node, Collector],
) -> None:
    alice, bob, collector = logging_pair
    seen = len(collector.received)
    collector.replies.put(Reply(status=503, headers={"Retry-After": "300"}))
    pings(alice, 10)
    wait_for(lambda: len(collector.received) > seen, what="the push that is to come later")
    began = time.monotonic()
    code, _ = bob.stop_agent()
    assert code == 0 and time.monotonic() - began < scaled(5)
    bob.start_agent(config(bob, alice))
    now = settled(bob)
    assert now["emitted"] == packets(bob) == sum(now[term] for term in TERMS)
