"""What the coordinator's log says of a flow is what went through the tunnel, to the last packet."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.e2e.plans import mesh
from tests.e2e.test_rotation import agent_pid, kill_agent, start_agent
from tests.e2e.waiting import wait_until
from ztlab.lab import build, state
from ztlab.lab.lab import Lab
from ztlab.lab.pace import scaled

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.wireguard, pytest.mark.bpf]

PINGS, PING_BYTES = 40, 20 + 8 + 100
IDLE_S = {"icmp": 30, "closed TCP": 10}
PASS_S = 0.5
PING = {"id": "ping", "from": "web", "to": "api", "proto": "icmp", "action": "allow"}
# Skbs; each is one packet, as no two of the bytes below travel together.
COUNTERS = """
table inet count {
    chain in { type filter hook prerouting priority -400; iifname "wg0" tcp dport 8080 counter; }
    chain out { type filter hook postrouting priority 400; oifname "wg0" tcp sport 8080 counter; }
}
"""
TERMS = ("ring_full", "undecodable", "buffer_full", "push_failed", "agent_died", "delivered")


@pytest.fixture
def lab(lab_name: str) -> Iterator[Lab]:
    """web may also ping api; bob goes through his flows twice a second."""
    plan = mesh(lab_name)
    policy = dict(plan.document["policy"])
    policy["rules"] = [*policy["rules"], PING]
    made = build.up(replace(plan, document={**plan.document, "policy": policy}))
    with open(state.node_dir(made.name, "bob") / "agent.toml", "a") as file:
        file.write(f"\n[log]\nflow_records_s = {PASS_S}\n")
    restart(made, "bob", lambda: None)
    yield made


def restart(lab: Lab, node: str, meanwhile: Any) -> None:
    """Kill NODE's agent, and start another when MEANWHILE is over."""
    kill_agent(lab, node)
    meanwhile()
    start_agent(lab, node)
    wait_until(lambda: agent_pid(lab, node) is not None and account(lab, node) is not None, 30)


def account(lab: Lab, node: str) -> dict[str, int] | None:
    done = lab.run(node, ["zt-agent", "status", "--json"])
    return json.loads(done.stdout)["log_events"] if done.returncode == 0 else None


def rows(lab: Lab, **fields: Any) -> list[dict[str, Any]]:
    """What bob logged that has these FIELDS, in order."""
    items = lab.admin().logs(node="bob", limit=5000).items
    return [event for event in map(dict, items) if event | fields == event]


def test_the_end_of_a_flow_has_all_its_packets_also_where_the_agent_was_killed_meanwhile(
    lab: Lab,
) -> None:
    bob = lab.tunnel_addresses("bob")[0]
    command = ["ping", "-q", "-i", "0.1", "-s", "100", "-c", str(PINGS), bob]
    with lab.popen("alice", command, stdout=subprocess.DEVNULL) as ping:
        icmp = {"kind": "update", "protocol": 1, "source_identity": "web"}
        wait_until(lambda: bool(rows(lab, **icmp)), 20)
        assert rows(lab, **icmp)[0]["packets"] < PINGS
        restart(lab, "bob", lambda: ping.wait(30))  # the rest of the pings meets no agent
        assert ping.returncode == 0

    ended = {"kind": "end", "protocol": 1}
    wait_until(lambda: len(rows(lab, **ended)) == 2, IDLE_S["icmp"] + 10)
    both = rows(lab, **ended)
    assert {event["source_identity"] for event in both} == {"web", "api"}
    for event in both:
        assert (event["packets"], event["length"]) == (PINGS, PINGS * PING_BYTES)
        assert (event["verdict"], event["rule"], event["hook"]) == ("allowed", "ping", "ingress")
        assert event["began_at"] < event["at"]
        told = [e["packets"] for e in rows(lab, protocol=1, source=event["source"])]
        assert told == sorted(told) and told[-1] == PINGS  # `end` is the last word
    check_account(lab)


def test_a_finished_connection_ends_with_what_the_kernel_counted_of_it(lab: Lab) -> None:
    lab.run("bob", ["nft", "-f", "-"], input=COUNTERS, check=True)
    with lab.connect("alice", ("bob", 8080), timeout=scaled(5)) as connection:
        port = connection.getsockname()[1]
        connection.sendall(b"x" * 7)
        connection.recv(1000)
    wait_until(lambda: len(rows(lab, kind="end", protocol=6)) == 2, IDLE_S["closed TCP"] + 10)
    said = lab.run("bob", ["nft", "list", "table", "inet", "count"], check=True).stdout
    counted = re.findall(r"counter packets (\d+) bytes (\d+)", said)
    (there,) = rows(lab, kind="end", protocol=6, source_port=port, destination_port=8080)
    (back,) = rows(lab, kind="end", protocol=6, source_port=8080, destination_port=port)
    assert [(str(e["packets"]), str(e["length"])) for e in (there, back)] == counted
    assert there["packets"] >= 3 and there["rule"] == "web-to-api"
    assert not rows(lab, kind="end", verdict="no_rule")
    check_account(lab)


def check_account(lab: Lab) -> None:
    """Each event of bob's ended somewhere, and what was delivered is stored."""
    found: dict[str, int] | None = None
    stored = 0

    def is_at_rest() -> bool:
        nonlocal found, stored
        found, stored = account(lab, "bob"), len(rows(lab))
        # Nothing was logged while we looked.
        return found is not None and found == account(lab, "bob") and found["in_flight"] == 0

    wait_until(is_at_rest)
    assert found is not None
    assert found["emitted"] == sum(found[term] for term in TERMS)
    assert 4 <= found["flow_records"] < found["emitted"]
    lost = found["push_failed"] + found["agent_died"]
    assert found["delivered"] <= stored <= found["delivered"] + lost
