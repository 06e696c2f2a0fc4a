"""Quotas: a token bucket for each identity that has one, at what comes out of the tunnel."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from agent import abi
from tests.kernel import packets as p
from tests.kernel import testrun
from tests.kernel.conftest import Node
from tests.unit.agent.datapath.configs import TAGS, node_config, rule
from ztlab.model.config import NodeConfig
from ztlab.model.policy import Quota, Rule
from ztlab.model.verdict import AuthzMode, Hook, Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

PACKET = p.udp(p.GUEST, p.API, 1, 2, b"x" * 972)  # 1000 bytes
PACKET_6 = p.udp(p.GUEST6, p.API6, 1, 2, b"x" * 952)  # 1000 bytes as well
OTHERS = {
    PACKET: p.udp(p.WEB, p.API, 1, 2, b"x" * 972),
    PACKET_6: p.udp(p.WEB6, p.API6, 1, 2, b"x" * 952),
}
both_families = pytest.mark.parametrize("packet", OTHERS, ids=["4", "6"])
OVER = Verdict.OVER_QUOTA


def limited(
    rate: str, burst: str, *rules: Rule, identity: str = "guest", default: str = "allow"
) -> NodeConfig:
    """A policy, by default of `allow`, with one quota."""
    config = node_config(*rules, default=default, role="gateway")
    assert config.policy is not None
    quota = Quota(identity=identity, rate=rate, burst=burst)
    return replace(config, policy=replace(config.policy, quotas=(quota,)))


def passed(node: Node, tag: int) -> int:
    """Bytes that went on from TAG."""
    counted = node.counted().items()
    return sum(size for (t, _, v), (_, size) in counted if t == tag and not v.is_drop)


@both_families
def test_a_burst_passes_and_what_is_beyond_it_is_dropped_and_named(
    node: Node, packet: bytes
) -> None:
    node.configure(limited("8kbit", "9500B", rule("all", "*", "*", "allow")))
    verdicts = [node.ingress(packet).verdict for _ in range(12)]
    assert verdicts == [Verdict.ALLOWED, *[Verdict.ESTABLISHED] * 9, OVER, OVER]
    event = node.ingress(packet).event
    assert (event.verdict, event.rule, event.source_tag) == (OVER, "all", TAGS["guest"])
    assert node.counted()[TAGS["guest"], Hook.INGRESS, OVER] == (3, 3000)
    (flow,) = node.flows().values()
    assert flow.packets[0] == 10  # what was dropped is no part of it
    hits = {h.rule: h.packets for h in node.datapath.rule_hits()}
    assert hits == {"all": 10}


@both_families
@pytest.mark.parametrize("senders", [1, 2])
def test_over_time_it_is_the_rate_and_another_identity_does_not_notice(
    node: Node, packet: bytes, senders: int
) -> None:
    """Each sender in a thread, so on a CPU, of its own, much faster than the quota. A bucket holds
    what passes in 0.2 s: only while a busy machine kept all of them longer than that from sending
    could it be full, and tokens be lost. Of a run of packets only its begin and end are known, not
    when it was kept waiting: its packets count as sent as long ago as they can have been."""
    node.datapath.set_logging(False)
    node.configure(limited("80mbit", "2MB"))
    program = node.datapath.programs[Hook.INGRESS]
    rate, burst, seconds = 10_000_000, 2_000_000, 2.0
    began = time.monotonic()
    runs: list[tuple[float, float]] = []

    def send() -> None:
        while (start := time.monotonic()) - began < seconds:
            testrun.run(program, packet, repeat=500)
            runs.append((start, time.monotonic()))
            testrun.run(program, OTHERS[packet], repeat=100)

    threads = [threading.Thread(target=send) for _ in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - began
    sent = sum(n for (t, _, _), (n, _) in node.counted().items() if t == TAGS["guest"])
    assert sent * 1000 > 1.5 * (burst + rate * elapsed), "the senders are not faster than the quota"
    assert passed(node, TAGS["guest"]) < 1.05 * (burst + rate * elapsed)
    runs.sort()
    # From a run's begin to the end of the next, at worst nobody asked for tokens.
    starved = sum(max(0.0, b[1] - a[0] - burst / rate) for a, b in pairwise(runs))
    used = runs[-1][0] - began - starved  # what came into the bucket after that, nobody asked for
    assert passed(node, TAGS["guest"]) > 0.95 * (burst + rate * used)
    others = sum(n for (t, _, v), (n, _) in node.counted().items() if t == TAGS["web"])
    assert others >= 100 and passed(node, TAGS["web"]) == 1000 * others


def test_both_families_take_from_one_bucket(node: Node) -> None:
    node.configure(limited("8kbit", "3500B"))
    packets = (PACKET, PACKET_6, PACKET, PACKET_6, PACKET, PACKET_6)
    assert [node.ingress(packet).passed for packet in packets] == [True] * 4 + [False] * 2


@both_families
def test_a_pause_fills_the_bucket_and_no_more_than_that(node: Node, packet: bytes) -> None:
    node.configure(limited("80kbit", "10kB"))

    def burst() -> int:
        count = 0
        while node.ingress(packet).passed:
            count += 1
        return count

    assert burst() in (10, 11)  # the bucket fills while it is emptied
    node.age_quotas(0.5)
    assert burst() in (5, 6)
    node.age_quotas(3600)
    assert burst() in (10, 11)


@pytest.mark.parametrize(("gso", "size"), [((4, 500), 2000), ((0, 500), 2000)])
def test_a_super_packet_takes_what_it_is_on_the_wire_and_may_leave_a_debt(
    node: Node, gso: tuple[int, int], size: int
) -> None:
    node.configure(limited("8mbit", "2kB"))
    assert node.ingress(p.udp(p.GUEST, p.API, 1, 2, b"x" * size), gso=gso).passed
    (value,) = node.datapath._maps["zt_quotas"].items().values()
    taken_ns = 1_000 * (size + 4 * 28)  # of a megabyte per second
    full_in_ns = abi.Quota.from_buffer_copy(value).full_at / 16 - time.monotonic_ns()
    assert taken_ns - 50_000_000 < full_in_ns <= taken_ns
    assert node.ingress(PACKET).verdict is OVER or full_in_ns < 2_000_000


def test_only_what_is_let_in_takes_from_it_and_only_out_of_the_tunnel(node: Node) -> None:
    node.configure(limited("8kbit", "1500B", rule("udp", "*", "*", "allow", proto="udp"),
                           default="deny"))  # fmt: skip
    full = node.datapath._maps["zt_quotas"].items()
    assert node.ingress(p.tcp(p.GUEST, p.API, 1, 2)).verdict is Verdict.NO_RULE
    for _ in range(3):
        assert node.egress(p.udp(p.API, p.GUEST, 1, 2, b"x" * 972)).passed
        assert node.from_lan(p.udp(p.LAN_HOST, p.GUEST, 1, 2, b"x" * 972)).passed
    assert node.datapath._maps["zt_quotas"].items() == full
    assert node.ingress(PACKET).passed and node.ingress(PACKET).passed
    assert node.ingress(PACKET).verdict is OVER  # control


def test_in_observe_no_quota_holds(node: Node) -> None:
    node.configure(limited("8kbit", "1500B"))
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    assert all(node.ingress(PACKET).passed for _ in range(5))
    node.datapath.set_authz_mode(AuthzMode.ENFORCE)
    assert [node.ingress(PACKET).passed for _ in range(3)] == [True, True, False]


def test_a_change_of_policy_leaves_a_bucket_as_empty_as_it_was(node: Node) -> None:
    node.configure(limited("8kbit", "1500B"))
    assert [node.ingress(PACKET).passed for _ in range(3)] == [True, True, False]
    node.configure(limited("8kbit", "1500B", rule("more", "web", "api", "allow")))
    assert node.ingress(PACKET).verdict is OVER
    node.configure(limited("16kbit", "1500B"))  # another quota: another bucket
    assert node.ingress(PACKET).passed


def test_a_quota_that_is_taken_away_holds_nothing_back(node: Node) -> None:
    node.configure(limited("8kbit", "1500B"))
    assert [node.ingress(PACKET).passed for _ in range(3)] == [True, True, False]
    assert not node.datapath.apply_policy(node.datapath_state(limited("8kbit", "1500B")))
    node.configure(node_config(default="allow", role="gateway"))
    assert all(node.ingress(PACKET).passed for _ in range(5))
    assert not node.datapath._maps["zt_quotas"].items()


def test_a_resource_behind_a_peer_can_have_one(node: Node) -> None:
    node.configure(limited("8kbit", "1500B", identity="lan"))
    packet = p.udp(p.LAN_HOST, p.API, 1, 2, b"x" * 972)
    assert [node.ingress(packet).passed for _ in range(3)] == [True, True, False]
    assert node.ingress(p.udp(p.PRINTER, p.API, 1, 2, b"x" * 972)).passed
