"""What `up` promises when it returns, on a mesh and behind a gateway."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.commands import ZTLAB, shown, ztlab
from tests.e2e.plans import gateway, mesh
from tests.e2e.waiting import wait_until
from ztlab.lab import build, metrics, ready, state
from ztlab.lab.lab import Lab
from ztlab.lab.pace import scaled

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.wireguard, pytest.mark.bpf]


@pytest.fixture
def lab(lab_name: str) -> Iterator[Lab]:
    yield build.up(mesh(lab_name))


def first_line(lab: Lab, node: str, to: str) -> bytes:
    with lab.connect(node, (to, 8080), timeout=scaled(3)) as connection:
        return connection.recv(200)


def test_a_mesh_is_ready_when_up_returns(lab: Lab) -> None:
    names = [node.name for node in lab.nodes]
    for name in names:
        assert ready.missing(lab.metrics(name), names) == ()
        assert metrics.total(lab.metrics(name), "zt_peers") == 2
    network = lab.admin().network()
    assert network.has_converged
    assert network.nodes.total == 3

    # The very first packets go through: no handshake is still to come.
    assert b'"node": "bob"' in first_line(lab, "alice", "bob")
    with pytest.raises(TimeoutError):
        lab.connect("carol", ("bob", 8080), timeout=1)

    # A node's name is its tunnel address on every node, and the coordinator's answers.
    for name in names:
        found = lab.run(name, ["getent", "ahosts", "bob"], check=True).stdout
        assert set(lab.tunnel_addresses("bob")) == {line.split()[0] for line in found.splitlines()}

    # The coordinator's pages can be reached from this machine.
    command = [ZTLAB, "ui", "--lab", lab.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as leading:
        assert leading.stdout is not None
        port = urlsplit(leading.stdout.readline().strip()).port
        assert port is not None
        authority = state.coordinator_dir(lab.name) / "state/authority.pem"
        context = ssl.create_default_context(cafile=str(authority))
        context.check_hostname = False  # the certificate names the coordinator's own address
        pages = http.client.HTTPSConnection("127.0.0.1", port, timeout=scaled(10), context=context)
        pages.request("GET", "/ui/login")
        answer = pages.getresponse()
        assert answer.status == 200 and b"Log in" in answer.read()
        pages.close()
        leading.send_signal(signal.SIGINT)
        assert leading.wait(timeout=scaled(20)) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=3)

    # The commands show what is there.
    nodes = {node["name"]: node for node in shown("inspect")["nodes"]}
    assert nodes["bob"]["identity"] == "api"
    assert [a.partition("/")[0] for a in nodes["bob"]["tunnel"]] == list(
        lab.tunnel_addresses("bob")
    )
    assert "enrolled as bob" in ztlab("logs", "bob").stdout
    assert len(shown("logs", "coordinator", "-n", "1")["lines"]) == 1
    status = ztlab("exec", "bob", "--", "zt-agent", "status", "--json")
    assert json.loads(status.stdout)


def test_the_coordinator_runs_without_any_right(lab: Lab) -> None:
    for process in lab.processes("coordinator"):
        with open(f"/proc/{process.pid}/status") as file:
            status = dict(line.split(":", 1) for line in file)
        assert set(status["Uid"].split()) == {"64198"}
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0


def test_observe_shows_a_denied_packet_with_both_identities(lab: Lab) -> None:
    def knock() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"?", (lab.tunnel_addresses("bob")[0], 9))

    command = [ZTLAB, "observe", "bob", "--json"]
    event: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            deadline = time.monotonic() + 20
            # It may not be listening yet when the first one comes: each is a flow of its own.
            while event.get("destination_port") != 9:
                assert time.monotonic() < deadline
                lab.call("carol", knock)
                if select.select([process.stdout], [], [], 0.2)[0]:
                    event = json.loads(process.stdout.readline())
        finally:
            process.terminate()
    assert event["node"] == "bob"
    assert event["source_identity"] == "guest"
    assert event["destination_identity"] == "api"
    assert event["verdict"] == "no_rule"


def test_a_gateways_lab_is_ready_and_a_plain_host_behind_it_is_reached(lab_name: str) -> None:
    lab = build.up(gateway(lab_name))
    for address in lab.lan_addresses("files"):
        assert b'"node": "files"' in first_line(lab, "laptop", address)
    assert b'"node": "files"' in first_line(lab, "laptop", "files")
    assert [p for p in lab.processes("files") if "zt-agent" in " ".join(p.argv)] == []


def test_a_lab_that_lost_a_program_is_degraded_and_says_which(lab: Lab) -> None:
    assert shown("inspect")["state"] == "up"
    (agent,) = (p for p in lab.processes("bob") if any("zt-agent" in word for word in p.argv))

    os.kill(agent.pid, signal.SIGKILL)
    wait_until(lambda: lab.stopped() == ("bob",))

    seen = shown("inspect")
    assert (seen["state"], seen["stopped"]) == ("degraded", ["bob"])
    assert f"ztlab logs {lab.name}.bob" in ztlab("inspect").stdout
