"""The hits of each rule: exact, whatever the policy changes to and wherever a change is cut off."""

from __future__ import annotations

import threading

import pytest

from agent.abi import Action, RuleName, RuleTotal
from agent.datapath.hits import HitCounters
from agent.datapath.maps import BpfMap
from agent.datapath.parts import CounterParts
from tests.kernel import packets as p
from tests.kernel import testrun
from tests.kernel.conftest import Node
from tests.unit.agent.datapath.configs import node_config, rule
from ztlab.model.verdict import AuthzMode, Hook, Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

WEB_TO_API = rule("web-to-api", "web", "api", "allow", proto="tcp", ports=(8080,))
NO_GUEST = rule("no-guest", "guest", "*", "deny")
OTHER = rule("other", "api", "web", "allow", proto="tcp")
SYN, DATA = p.tcp(p.WEB, p.API, 1, 8080), p.tcp(p.WEB, p.API, 1, 8080, "A", b"x" * 60)
ANSWER = p.tcp(p.API, p.WEB, 8080, 1, "SA")
DENIED = p.udp(p.GUEST, p.API, 1, 2)


def counted_now(node: Node) -> list[dict[int, tuple[int, int]]]:
    """What zt_hits holds, of the slots that hold anything."""
    parts = CounterParts(node.datapath._maps["zt_hits"])
    return [found for slot in (0, 1) if (found := parts.read(slot))]


def hits(node: Node) -> dict[tuple[str, Action], tuple[int, int]]:
    """(rule, action) to packets and bytes, of rules that decided anything."""
    found = node.datapath.rule_hits()
    return {(h.rule, h.action): (h.packets, h.bytes) for h in found if h.packets}


def test_a_rule_counts_what_it_let_in_with_all_that_belongs_to_it_and_what_it_held_back(
    node: Node,
) -> None:
    node.configure(node_config(WEB_TO_API, NO_GUEST))
    for packet in (SYN, DATA):
        assert node.ingress(packet).passed
    assert node.egress(ANSWER).passed
    assert node.ingress(DENIED).event.rule == "no-guest"
    assert node.ingress(p.udp(p.WEB, p.API, 1, 2)).verdict is Verdict.NO_RULE  # by no rule
    assert node.ingress(DATA, gso=(3, 20)).passed
    assert hits(node) == {
        ("web-to-api", Action.ALLOW): (3 + 3, 40 + 100 + 40 + 60 + 3 * 40),
        ("no-guest", Action.DENY): (1, 28),
    }


def test_every_rule_has_a_count_also_before_its_first_packet(node: Node) -> None:
    node.configure(node_config(WEB_TO_API, NO_GUEST))
    assert {(h.rule, h.packets) for h in node.datapath.rule_hits()} == {
        ("web-to-api", 0),
        ("no-guest", 0),
    }


def test_counts_outlive_the_policy_and_follow_a_rule_to_its_new_place(node: Node) -> None:
    node.configure(node_config(WEB_TO_API, NO_GUEST))
    node.ingress(SYN)
    node.ingress(DENIED)
    node.configure(node_config(OTHER, NO_GUEST, WEB_TO_API))
    node.ingress(DATA)
    node.ingress(DENIED)
    node.configure(node_config(OTHER))
    assert hits(node) == {
        ("web-to-api", Action.ALLOW): (2, 140),
        ("no-guest", Action.DENY): (2, 56),
    }
    assert not counted_now(node)


def test_a_rule_that_changes_sides_is_counted_as_two(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    node.ingress(SYN)
    node.configure(node_config(rule("web-to-api", "web", "api", "deny")))
    node.ingress(SYN)
    assert hits(node) == {
        ("web-to-api", Action.ALLOW): (1, 40),
        ("web-to-api", Action.DENY): (1, 40),
    }


def test_what_no_rule_decided_is_no_hit(node: Node) -> None:
    node.configure(node_config(WEB_TO_API, default="allow"))
    node.ingress(p.udp(p.WEB, p.API, 1, 2))
    node.egress(p.udp(p.API, p.WEB, 5, 6))
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    node.ingress(SYN)
    assert hits(node) == {}


def test_policies_switched_under_traffic_lose_no_hit_and_count_none_twice(node: Node) -> None:
    """On another CPU, one packet of a flow and one that is judged each time, while the rule that
    decides about them moves to other numbers."""
    node.datapath.set_logging(False)
    timestamp = bytes(p.ip(p.GUEST, p.API) / p.ICMP(type=13))
    wanted = (WEB_TO_API, NO_GUEST)
    orders = [
        node_config(*wanted),
        node_config(OTHER, *reversed(wanted)),
        node_config(NO_GUEST, OTHER, WEB_TO_API),
    ]
    node.configure(orders[0])
    program = node.datapath.programs[Hook.INGRESS]
    stop = threading.Event()
    rounds = 0

    def send() -> None:
        nonlocal rounds
        while not stop.is_set():
            testrun.run(program, DATA, repeat=1000)
            testrun.run(program, timestamp, repeat=1000)
            rounds += 1

    sender = threading.Thread(target=send)
    sender.start()
    seen = 0
    try:
        for i in range(60):
            node.configure(orders[i % 3])
            now = sum(packets for packets, _ in hits(node).values())
            assert now >= seen, "a count went down"
            seen = now
    finally:
        stop.set()
        sender.join()
    assert rounds > 10
    assert hits(node) == {
        ("web-to-api", Action.ALLOW): (1000 * rounds, 100_000 * rounds),
        ("no-guest", Action.DENY): (1000 * rounds, len(timestamp) * 1000 * rounds),
    }


class Interrupted(Exception):
    """The agent is gone."""


@pytest.mark.parametrize("step", ["totals.put", "hits.put", "names.delete", "names.delete 2"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_change_cut_off_anywhere_loses_no_hit_and_counts_none_twice(
    node: Node, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    node.configure(node_config(WEB_TO_API, NO_GUEST))
    for packet in (SYN, DATA, DENIED):
        node.ingress(packet)
    before = hits(node)
    table, operation = step.split()[0].split(".")
    calls = 2 if step.endswith("2") else 1
    original = getattr(BpfMap, operation)

    def cut(self: BpfMap, *arguments: object) -> None:
        nonlocal calls
        calls -= self.name == f"zt_{table}"
        if calls or self.name != f"zt_{table}":
            original(self, *arguments)
            return
        if when == "after":
            original(self, *arguments)
        raise Interrupted

    slot = node.datapath._config[2] & 1
    node.datapath._hits.install(slot ^ 1, ("other",), (Action.ALLOW,))
    with monkeypatch.context() as patch:
        patch.setattr(BpfMap, operation, cut)
        with pytest.raises(Interrupted):
            node.datapath._hits.fold(slot)
    successor = HitCounters(node.datapath._maps)
    monkeypatch.setattr(node.datapath, "_hits", successor)
    assert hits(node) == before
    successor.fold(slot)
    assert hits(node) == before
    successor.fold(slot)
    assert hits(node) == before and not counted_now(node)
    assert successor.rules(slot ^ 1) == ("other",)


def test_rules_that_are_gone_make_room_for_new_ones(node: Node) -> None:
    room = node.datapath._maps["zt_totals"].max_entries
    gone = {f"gone-{i}": 1 for i in range(room)}

    node.datapath._maps["zt_totals"].put(
        {bytes(RuleName(id=name.encode(), action=1)): bytes(RuleTotal(packets=1)) for name in gone}
    )
    node.configure(node_config(WEB_TO_API))
    node.ingress(SYN)
    node.configure(node_config(OTHER))
    assert hits(node)["web-to-api", Action.ALLOW] == (1, 40)
    assert node.datapath._maps["zt_totals"].count() <= room
