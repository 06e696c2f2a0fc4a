"""The account of log events adds up, exactly: real programs and rings, a real collector over TLS
that answers, answers slowly, refuses, hangs, or is not there."""

from __future__ import annotations

import http.server
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from agent.events import Names
from agent.feed import DatapathFeed
from agent.flowlog import EventBuffer, FlowLog
from agent.ledger import Ledger, LogCounts
from coordinator import tls
from tests.kernel import packets as p
from tests.kernel import testrun
from tests.kernel.conftest import MARKS
from tests.kernel.device import until
from tests.unit.agent.chunks import of_bodies
from ztlab.client import transport
from ztlab.client.node import NodeClient
from ztlab.model import logbatch
from ztlab.model.verdict import AuthzMode, Hook

pytestmark = [pytest.mark.root, pytest.mark.bpf]

CAPACITY = 2000  # events in the buffer
PACKET = p.udp(p.WEB, p.API, 1, 2)


class Collector(http.server.ThreadingHTTPServer):
    """Stores what it acknowledges: batch id to number of events."""

    def __init__(self, certificates: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        files = tls.TlsFiles(certificates)
        context.load_cert_chain(files.server, files.server_key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.mode = "up"
        self.over = threading.Event()
        self.stored: dict[str, int] = {}

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that lost patience is what these tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        head, _ = logbatch.unpack(content)
        if self.server.mode == "hangs":
            self.server.over.wait(20)
            self.close_connection = True
            return
        if self.server.mode == "slow":
            self.server.over.wait(0.05)
        refuses = self.server.mode == "refuses"
        if not refuses:
            self.server.stored[head.batch_id] = head.count
        answer = json.dumps({"title": "no"} if refuses else {"stored": head.count}).encode()
        self.send_response(500 if refuses else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


class Agent:
    """All of an agent that has to do with logs, on programs that outlive it."""

    def __init__(self, datapath: Datapath, folder: Path, client: NodeClient) -> None:
        self.datapath = datapath
        self.ledger = Ledger(folder / "log.counts")
        self.ledger.begin(account=datapath.log_account, consumed=datapath.consumed_events)
        size = CAPACITY * logbatch.SIZE
        self.buffer = EventBuffer(
            self.ledger, capacity=size, flush_at=size // 4, flush_after_s=0.02
        )
        feed = DatapathFeed(datapath, Names())
        self.log = FlowLog(
            self.ledger,
            self.buffer,
            read=feed.read,
            emitted=feed.emitted,
            push=of_bodies(client.push_logs),
            is_ready=lambda: True,
        )
        self.log.start()

    def settled(self) -> LogCounts:
        """The account, once nothing is under way any more."""
        until(lambda: self.log.counts().in_flight == 0, "every event has come to its end")
        return self.log.counts()


@pytest.fixture
def datapath() -> Iterator[Datapath]:
    """Small rings; every packet becomes an event."""
    made = Datapath.load(
        marks=MARKS, limits=Limits(ring_pages=32), l3_offset=testrun.ETHERNET, loader="libbpf"
    )
    made.set_authz_mode(AuthzMode.OBSERVE)
    made.set_logging(True, "packet")
    yield made
    made.close()


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    tls.prepare(tmp_path, ("127.0.0.1",))
    with Collector(tmp_path) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.over.set()
        made.shutdown()
        thread.join()


@contextmanager
def agent(datapath: Datapath, collector: Collector, folder: Path) -> Iterator[Agent]:
    url = f"https://127.0.0.1:{collector.server_address[1]}"
    with closing(NodeClient(url, tls.read_authority(folder), "token")) as client:
        made = Agent(datapath, folder, client)
        yield made
        made.log.stop()


def send(datapath: Datapath, count: int) -> None:
    testrun.run(datapath.programs[Hook.INGRESS], PACKET, repeat=count)


def terms(counts: LogCounts) -> int:
    return counts.settled + counts.in_flight


def test_with_the_collector_up_everything_arrives(
    datapath: Datapath, collector: Collector, tmp_path: Path
) -> None:
    with agent(datapath, collector, tmp_path) as running:
        for _ in range(20):
            send(datapath, 50)
            running.settled()
        counts = running.settled()
    assert counts == LogCounts(emitted=1000, delivered=1000)
    assert sum(collector.stored.values()) == 1000


@pytest.mark.parametrize("mode", ["slow", "refuses", "hangs"])
def test_whatever_the_collector_does_the_account_adds_up_and_the_memory_is_bounded(
    datapath: Datapath,
    collector: Collector,
    tmp_path: Path,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 0.3)
    collector.mode = mode
    sent = 0
    with agent(datapath, collector, tmp_path) as running:
        before = resident_bytes()
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            send(datapath, 5000)  # more than the rings hold
            sent += 5000
            counts = running.log.counts()
            assert terms(counts) == counts.emitted == sent
            assert running.buffer.held <= CAPACITY
        grown = resident_bytes() - before
        assert running.log.counts().ring_full > 0
        assert grown < 16 * 2**20, f"{grown >> 20} MiB more"
        collector.mode = "up"
        counts = running.settled()
    assert counts.emitted == sent and counts.buffer_full > 0 and counts.in_flight == 0
    stored = sum(collector.stored.values())
    assert counts.delivered <= stored <= counts.delivered + counts.push_failed
    if mode == "slow":
        assert counts.delivered == stored > 0 and counts.push_failed == 0
    else:
        assert counts.push_failed > 0


def test_with_the_collector_gone_the_batches_are_given_up_and_counted(
    datapath: Datapath, collector: Collector, tmp_path: Path
) -> None:
    with agent(datapath, collector, tmp_path) as running:
        send(datapath, 10)
        assert running.settled().delivered == 10
        collector.socket.close()
        collector.mode = "refuses"  # on the connection that stands
        send(datapath, 200)
        counts = running.settled()
    assert (counts.emitted, counts.delivered, counts.push_failed) == (210, 10, 200)


def test_a_successor_drains_what_its_predecessor_left_in_the_rings(
    datapath: Datapath, collector: Collector, tmp_path: Path
) -> None:
    with agent(datapath, collector, tmp_path) as running:
        send(datapath, 100)
        assert running.settled().delivered == 100
    send(datapath, 60)  # nobody is there
    with agent(datapath, collector, tmp_path) as running:
        counts = running.settled()
    assert counts == LogCounts(emitted=160, delivered=160)


def resident_bytes() -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024
