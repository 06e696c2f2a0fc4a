"""authz_mode is switched while a policy of 100,000 entries is being applied, on a real tunnel."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.e2e.nodes import Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import BOB, config, pair
from tests.e2e.test_wireguard_gso import Running
from ztlab.lab.pace import scaled

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

ANSWER_S, EFFECT_S = 0.2, 0.010  # the first beyond what an answer takes in a calm agent
JOURNEY_S = 0.1  # that a packet may take until it is judged
FLIPS, CALM = 6, 10  # switches in the midst of changes, and before
PORT = 9000  # no rule allows it

RECEIVER = """
import json, select, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
    s.bind(("10.77.0.3", PORT))
    print("ready", flush=True)
    numbers = []
    while sys.stdin not in (ready := select.select([s, sys.stdin], [], [])[0]) or s in ready:
        if s in ready:
            numbers.append(struct.unpack("!I", s.recv(100))[0])
print(json.dumps(numbers), flush=True)
"""
# When each packet was sent: not before the first time and not after the second.
SENDER = """
import json, select, socket, struct, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.connect(("10.77.0.3", PORT))
    print("ready", flush=True)
    times = []
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        before = time.monotonic()
        s.send(struct.pack("!I", len(times)))
        times.append((before, time.monotonic()))
print(json.dumps(times), flush=True)
"""
# The mode is switched to and fro, also while policies are applied in turn. All over the socket.
OPERATOR = """
import json, sys, threading, time
from agent.control import APPLY_S, ask, default_socket
policies = [json.load(open(path)) for path in PATHS.split()]
applied, flips = [], []
def within():
    return sum(b < asked and answered < e for asked, answered, _ in flips for b, e in applied)
def apply():
    while within() < FLIPS:
        began = time.monotonic()
        request = {"do": "apply", "config": policies[1 - len(applied) % 2]}
        ask(default_socket(), request, answer_s=APPLY_S)
        applied.append((began, time.monotonic()))
applier = threading.Thread(target=apply)
while len(flips) < CALM or applier.is_alive():
    mode = ("observe", "enforce")[len(flips) % 2]
    asked = time.monotonic()
    ask(default_socket(), {"do": "set-authz-mode", "mode": mode})
    flips.append((asked, time.monotonic(), mode))
    time.sleep(0.3)
    if len(flips) == CALM:
        applier.start()
applier.join()
print(json.dumps({"applied": applied, "flips": flips}), flush=True)
"""


def policy(parity: int) -> list[dict[str, Any]]:
    """Rules of close to 100,000 entries, none of which is one of the other parity's."""
    ports = [port for port in range(parity, 1 << 16, 2) if port != PORT]
    ends = (("alice", "bob", "tcp"), ("alice", "bob", "udp"), ("bob", "alice", "tcp"))
    return [
        {"id": f"{a}-{proto}-{parity}", "from": a, "to": b, "proto": proto, "ports": ports,
         "action": "allow"}
        for a, b, proto in ends
    ] + [{"id": "ping", "from": "*", "to": "*", "proto": "icmp", "action": "allow"}]  # fmt: skip


def written(node: Node, other: Node, parity: int) -> Path:
    path = node.directory / f"policy-{parity}.json"
    path.write_text(json.dumps(config(node, other, policy(parity))))
    return path


def observed(alice: Node, bob: Node) -> tuple[list[tuple[float, float]], set[int], Any]:
    """(when each packet was sent, which arrived, what the operator did)."""
    paths = " ".join(str(written(bob, alice, parity)) for parity in (0, 1))
    receiver = Running(bob, RECEIVER, PORT=PORT).ready()
    sender = Running(alice, SENDER, PORT=PORT).ready()
    try:
        did = Running(bob, f"PATHS = {paths!r}\n" + OPERATOR, FLIPS=FLIPS, CALM=CALM).result()
        sent = sender.result()
        wait_for(partial(alice.pings, BOB), 10, "what was sent has arrived")
        return sent, set(receiver.result()), did
    finally:
        sender.stop()
        receiver.stop()


def test_a_switch_in_the_midst_of_a_change_is_answered_soon_and_holds_from_then_on(
    tmp_path: Path,
) -> None:
    alice, bob = pair(tmp_path)
    with namespaces(alice, bob):
        cable(alice, bob)
        # alice lets everything out and no answer matters: what arrives is bob's to judge.
        alice.start_agent(config(alice, bob, []))
        bob.start_agent(config(bob, alice, policy(0)))
        wait_for(partial(alice.pings, BOB), 10, "the tunnel")
        sent, arrived, did = observed(alice, bob)
        assert bob.metrics()["zt_policy_drift"] == 0

    flips, applied = did["flips"], did["applied"]
    calm = [answered - asked for asked, answered, _ in flips[:CALM]]
    within = [
        answered - asked
        for asked, answered, _ in flips
        if any(began < asked and answered < ended for began, ended in applied)
    ]
    print(f"changes took {[round(ended - began, 2) for began, ended in applied]} s; answers came")
    print(f"after {median(calm):.3f} s, in their midst after {median(within):.3f} s (the median)")
    assert len(within) >= FLIPS
    assert median(within) < median(calm) + scaled(ANSWER_S)

    ends = [*flips, (sent[-1][0], 0.0, "")]
    checked = {"observe": 0, "enforce": 0}
    for (_, answered, mode), (next_asked, _, _) in pairwise(ends):
        for number, (before, after) in enumerate(sent):
            if answered + EFFECT_S < before and after < next_asked - JOURNEY_S:
                assert (number in arrived) == (mode == "observe"), (before - answered, mode)
                checked[mode] += 1
    assert min(checked.values()) > 50
