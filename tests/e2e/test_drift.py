"""Somebody changes peers and maps behind an agent's back: it reads them back, and mends them.

No kernel tells of such a change, so an agent reads everything each 30 s; until then what lost its
entry is refused, not let in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from agent.abi import IdKey, PairKey, PolicyKey, pack_address
from agent.daemon import DRIFT_S
from tests.e2e.nodes import Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import BOB, BOB_6, config, pair

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

ALICE_6, ALICE_TOO = "fd77::2", "10.77.0.22"
RULES: list[dict[str, Any]] = [
    {"id": "web", "from": "alice", "to": "bob", "proto": "tcp", "ports": [8080, 8083],
     "action": "allow"},
    {"id": "any", "from": "*", "to": "bob", "proto": "tcp", "ports": [8082], "action": "allow"},
    {"id": "ping", "from": "*", "to": "*", "proto": "icmp", "action": "allow"},
]  # fmt: skip
NOTICE_S = 5.0  # beyond the interval, for the reading and the mending themselves
REPAIRS = 'zt_repairs_total{what="drift"}'
DROPS = 'zt_drops_total{hook="ingress",identity="%s",reason="%s"}'


def whole(node: Node, other: Node) -> dict[str, Any]:
    result = config(node, other, RULES)
    result["identities"][0]["prefixes"].append(f"{ALICE_TOO}/32")
    return result


def take_away(node: Node, name: str, is_meant: Callable[[bytes], bool]) -> None:
    """Delete the one entry of map NAME in force whose key IS_MEANT, as an operator could."""
    pin = node.output("sh", "-c", f"ls -d /sys/fs/bpf/ztlab/*/wg0/v*/maps/{name}").strip()
    dumped = json.loads(node.output("bpftool", "-j", "map", "dump", "pinned", pin))
    (key,) = (each["key"] for each in dumped if is_meant(bytes(int(b, 16) for b in each["key"])))
    node.output("bpftool", "map", "delete", "pinned", pin, "key", *key)


def is_alice_6(key: bytes) -> bool:
    return bytes(IdKey.from_buffer_copy(key).address) == pack_address(ip_address(ALICE_6))


def is_8080(key: bytes) -> bool:
    return bool(PolicyKey.from_buffer_copy(key).port == 8080)


def is_any_to_bob(key: bytes) -> bool:
    found = PairKey.from_buffer_copy(key)
    return bool(found.destination == 3 and found.source != 2)


def reaches(alice: Node) -> dict[str, bool]:
    """What alice gets through to bob, each by a packet of no flow."""
    from_too = ("ping", "-c1", "-W1", "-I", ALICE_TOO, BOB)
    return {
        "8080": alice.connects(BOB, 8080, 0.5),
        "8083": alice.connects(BOB, 8083, 0.5),
        "8082": alice.connects(BOB, 8082, 0.5),
        "8083 of IPv6": alice.connects(BOB_6, 8083, 0.5),
        "from the second address": alice.run(*from_too).returncode == 0,
        "what no rule allows": alice.connects(BOB, 9090, 0.5),
    }


def test_peers_and_maps_changed_by_hand_let_nothing_in_and_are_mended_within_the_interval(
    tmp_path: Path,
) -> None:
    alice, bob = pair(tmp_path)
    alice.addresses += (f"{ALICE_TOO}/32",)
    with namespaces(alice, bob):
        cable(alice, bob)
        alice.start_agent(whole(alice, bob))
        bob.start_agent(whole(bob, alice))
        wait_for(partial(alice.pings, BOB), 10, "the tunnel")
        with bob.serving(8080, 8083, 8082, 9090):
            allowed = dict.fromkeys(reaches(alice), True) | {"what no rule allows": False}
            assert reaches(alice) == allowed  # control
            before = bob.metrics()
            assert before[REPAIRS] == before["zt_identity_drift"] == before["zt_policy_drift"] == 0

            thief = bob.output("sh", "-c", "wg genkey | wg pubkey").strip()
            with bob.agent_held():  # it mends nothing, however slow this machine is
                bob.output("wg", "set", "wg0", "peer", thief, "allowed-ips", f"{ALICE_TOO}/32")
                take_away(bob, "zt_ids", is_alice_6)
                take_away(bob, "zt_policy", is_8080)
                take_away(bob, "zt_pairs", is_any_to_bob)
                meanwhile = reaches(alice)
            now = bob.metrics()
            # What has lost nothing goes on beside it, without an agent.
            assert meanwhile == dict.fromkeys(allowed, False) | {"8083": True}
            for identity, reason in (("unknown", "unknown_source"), ("alice", "no_rule")):
                name = DROPS % (identity, reason)
                assert now.get(name, 0) > before.get(name, 0)

            alice.output("ip", "route", "del", f"{BOB_6}/128", "dev", "wg0")
            for node in (alice, bob):
                is_mended = partial(lambda node: node.metrics()[REPAIRS] > 0, node)
                wait_for(is_mended, DRIFT_S + NOTICE_S, "it is noticed")

            # The thief has one prefix too many and alice one too few; alice's other address has no
            # entry, and so one of her prefixes nobody who is named.
            assert "4 prefixes and 2 policy entries were changed: put back" in bob.log
            lost = f"AddRoute(route=Route(prefix='{BOB_6}/128'"
            assert f"to be done again on wg0: {lost}" in alice.log
            assert reaches(alice) == allowed
            assert thief not in bob.output("wg", "show", "wg0", "peers")
            now = bob.metrics()
            assert now[REPAIRS] == 1
            assert now["zt_identity_drift"] == now["zt_policy_drift"] == 0

            bob.output("wg", "set", "wg0", "peer", thief, "allowed-ips", f"{ALICE_TOO}/32")
            another = whole(bob, alice)
            another["policy"]["rules"][0]["ports"] = [8080]
            bob.zt("apply", str(bob.write(another)))
            # A change of policy does not wait for the interval, and looks at the peers as well.
            assert thief not in bob.output("wg", "show", "wg0", "peers")
            assert reaches(alice) == allowed | {"8083": False, "8083 of IPv6": False}
