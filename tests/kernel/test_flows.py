"""Flows over time: judged again when the epoch rises, kept as tombstones, forgotten when idle."""

from __future__ import annotations

import pytest

from agent.abi import Origin
from tests.kernel import packets as p
from tests.kernel.conftest import Node
from tests.unit.agent.datapath.configs import TAGS, node_config, rule
from ztlab.model.verdict import AuthzMode, Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

WEB_TO_API = rule("web-to-api", "web", "api", "allow", proto="tcp", ports=(8080,))
NOT_WEB = rule("not-web", "web", "*", "deny")
LAN_OUT = rule("lan-out", "lan", "web", "allow")
ALLOWED = node_config(WEB_TO_API)
REVOKED = node_config()

SYN = p.tcp(p.WEB, p.API, 40000, 8080, "S")
DATA = p.tcp(p.WEB, p.API, 40000, 8080, "PA", b"data")
ANSWER = p.tcp(p.API, p.WEB, 8080, 40000, "PA", b"answer")


def open_connection(node: Node) -> None:
    assert node.ingress(SYN).verdict is Verdict.ALLOWED
    assert node.egress(p.tcp(p.API, p.WEB, 8080, 40000, "SA")).verdict is Verdict.ESTABLISHED
    assert node.ingress(DATA).verdict is Verdict.ESTABLISHED


def test_a_revocation_cuts_a_connection_both_ways(node: Node) -> None:
    node.configure(ALLOWED)
    open_connection(node)
    node.configure(REVOKED)
    assert node.ingress(DATA).verdict is Verdict.NO_RULE
    assert node.egress(ANSWER).verdict is Verdict.NO_RULE


def test_the_end_that_was_asked_may_be_the_first_to_notice(node: Node) -> None:
    node.configure(ALLOWED)
    open_connection(node)
    node.configure(node_config(WEB_TO_API, NOT_WEB))
    answer = node.egress(ANSWER)  # judged by the original direction: web to api, port 8080
    assert answer.verdict is Verdict.DENY_RULE and answer.event.rule == "not-web"
    assert node.ingress(DATA).verdict is Verdict.DENY_RULE


def test_a_change_that_still_allows_a_flow_does_not_cut_it(node: Node) -> None:
    node.configure(ALLOWED)
    open_connection(node)
    node.configure(node_config(rule("broader", "web", "api", "allow")))
    passage = node.egress(ANSWER)
    assert passage.verdict is Verdict.ESTABLISHED and passage.event.rule == "broader"


def test_a_cut_flow_lives_again_when_policy_allows_it_again(node: Node) -> None:
    node.configure(ALLOWED)
    open_connection(node)
    node.configure(REVOKED)
    assert node.ingress(DATA).verdict is Verdict.NO_RULE
    node.configure(ALLOWED)
    assert node.ingress(DATA).verdict is Verdict.ESTABLISHED
    assert node.egress(ANSWER).verdict is Verdict.ESTABLISHED


def test_a_new_syn_at_a_tombstone_is_judged_by_itself(node: Node) -> None:
    node.configure(ALLOWED)
    open_connection(node)
    reverse = rule("api-to-web", "api", "web", "allow", proto="tcp")
    node.configure(node_config(reverse, rule("no", "web", "api", "deny")))
    assert node.ingress(DATA).verdict is Verdict.DENY_RULE
    assert node.ingress(SYN).verdict is Verdict.DENY_RULE  # in its own direction: still denied
    # The other end begins a connection of its own over the same ports: this node sends it.
    assert node.egress(p.tcp(p.API, p.WEB, 8080, 40000, "S")).verdict is Verdict.OBSERVED
    assert node.ingress(p.tcp(p.WEB, p.API, 40000, 8080, "SA")).verdict is Verdict.ESTABLISHED


def test_a_tombstone_is_not_kept_alive_by_what_it_drops(node: Node) -> None:
    node.configure(ALLOWED)
    open_connection(node)
    node.configure(REVOKED)
    node.ingress(DATA)
    ((key, before),) = node.flows().items()
    for _ in range(3):
        assert not node.ingress(DATA).passed and not node.egress(ANSWER).passed
    assert node.flows() == {key: before}


def test_a_flip_to_enforce_cuts_what_policy_denies_and_nothing_else(node: Node) -> None:
    node.configure(ALLOWED)
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    denied = p.tcp(p.GUEST, p.API, 1000, 22)
    outgoing, incoming = p.tcp(p.API, p.GUEST, 6000, 443), p.tcp(p.GUEST, p.API, 443, 6000, "SA")
    for packet in (SYN, denied):
        assert node.ingress(packet).verdict is Verdict.OBSERVED
    assert node.egress(outgoing).verdict is Verdict.OBSERVED
    assert {flow.judged >> 32 for flow in node.flows().values()} == {0}

    node.datapath.set_authz_mode(AuthzMode.ENFORCE)

    allowed = node.egress(ANSWER)
    assert allowed.verdict is Verdict.ESTABLISHED and allowed.event.rule == "web-to-api"
    assert node.ingress(DATA).verdict is Verdict.ESTABLISHED
    assert node.ingress(incoming).verdict is Verdict.ESTABLISHED
    cut = p.tcp(p.GUEST, p.API, 1000, 22, "A")
    assert node.ingress(cut).verdict is Verdict.NO_RULE
    assert node.egress(p.tcp(p.API, p.GUEST, 22, 1000, "A")).verdict is Verdict.NO_RULE


def test_back_in_observe_a_tombstone_holds_nothing_back(node: Node) -> None:
    node.configure(ALLOWED)
    open_connection(node)
    node.configure(REVOKED)
    assert not node.ingress(DATA).passed
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    assert node.ingress(DATA).verdict is Verdict.OBSERVED
    assert node.egress(ANSWER).verdict is Verdict.ESTABLISHED
    node.datapath.set_authz_mode(AuthzMode.ENFORCE)
    assert node.ingress(DATA).verdict is Verdict.NO_RULE


def test_who_began_a_conversation_is_not_forgotten_in_observe(node: Node) -> None:
    question, answer = p.udp(p.WEB, p.API, 1000, 53), p.udp(p.API, p.WEB, 53, 1000)
    node.configure(node_config(rule("dns", "web", "api", "allow", proto="udp")))
    assert node.ingress(question).passed and node.egress(answer).passed
    node.configure(REVOKED)
    assert not node.egress(answer).passed
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    revived = node.egress(answer)  # this node speaks first now, and still only answers
    assert revived.verdict is Verdict.OBSERVED and revived.event.is_first
    node.datapath.set_authz_mode(AuthzMode.ENFORCE)
    assert node.ingress(question).verdict is Verdict.NO_RULE
    assert node.egress(answer).verdict is Verdict.NO_RULE


def test_a_revocation_while_observing_counts_at_the_flip(node: Node) -> None:
    node.configure(ALLOWED)
    open_connection(node)
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    node.configure(REVOKED)
    assert node.ingress(DATA).verdict is Verdict.ESTABLISHED
    node.datapath.set_authz_mode(AuthzMode.ENFORCE)
    assert node.ingress(DATA).verdict is Verdict.NO_RULE


def test_an_identity_taken_away_cuts_its_flows(node: Node) -> None:
    node.configure(ALLOWED)
    open_connection(node)
    node.configure(node_config(WEB_TO_API, without=("web",)))
    passage = node.ingress(DATA)
    assert passage.verdict is Verdict.UNKNOWN_SOURCE and passage.event.source_tag == 0


def test_what_this_node_opened_ends_when_the_far_end_is_nobody_any_more(node: Node) -> None:
    node.configure(REVOKED)
    assert node.egress(p.udp(p.API, p.GUEST, 5000, 53)).passed
    node.configure(node_config(NOT_WEB))  # no rule allows it, but it is not judged here
    assert node.ingress(p.udp(p.GUEST, p.API, 53, 5000)).verdict is Verdict.ESTABLISHED
    node.configure(node_config(without=("guest",)))
    assert node.ingress(p.udp(p.GUEST, p.API, 53, 5000)).verdict is Verdict.UNKNOWN_SOURCE
    assert node.egress(p.udp(p.API, p.GUEST, 5000, 53)).verdict is Verdict.UNKNOWN_DESTINATION


def test_a_flow_from_the_lan_is_judged_again_as_one(node: Node) -> None:
    node.configure(node_config(LAN_OUT, role="gateway"))
    assert node.from_lan(p.udp(p.LAN_HOST, p.WEB, 1, 2)).verdict is Verdict.ALLOWED
    reply = p.udp(p.WEB, p.LAN_HOST, 2, 1)
    assert node.ingress(reply).verdict is Verdict.ESTABLISHED
    node.configure(node_config(role="gateway"))
    assert node.ingress(reply).verdict is Verdict.NO_RULE
    assert node.from_lan(p.udp(p.LAN_HOST, p.WEB, 1, 2)).verdict is Verdict.NO_RULE
    (flow,) = node.flows().values()
    assert flow.origin == Origin.LAN and flow.source_tag == TAGS["lan"]


@pytest.mark.parametrize(
    ("first", "later", "idle_s"),
    [
        (SYN, DATA, 3600),
        (p.udp(p.WEB, p.API, 1, 2), p.udp(p.WEB, p.API, 1, 2), 180),
        (p.echo_request(p.WEB, p.API), p.echo_request(p.WEB, p.API), 30),
        (p.other(p.WEB, p.API, 47), p.other(p.WEB, p.API, 47), 30),
    ],
    ids=["TCP", "UDP", "ICMP", "other"],
)
def test_an_idle_flow_is_forgotten(node: Node, first: bytes, later: bytes, idle_s: int) -> None:
    node.configure(node_config(default="allow"))
    assert node.ingress(first).verdict is Verdict.ALLOWED
    node.age_flows(idle_s - 5)
    assert node.ingress(later).verdict is Verdict.ESTABLISHED
    node.age_flows(idle_s + 5)
    assert node.ingress(later).verdict is Verdict.ALLOWED  # new, so judged
    (flow,) = node.flows().values()
    assert flow.packets[0] == 1


@pytest.mark.parametrize("how", ["both ends finish", "one end resets"])
def test_a_closed_connection_is_forgotten_after_ten_seconds(node: Node, how: str) -> None:
    node.configure(ALLOWED)
    open_connection(node)
    if how == "one end resets":
        node.egress(p.tcp(p.API, p.WEB, 8080, 40000, "R"))
    else:
        node.ingress(p.tcp(p.WEB, p.API, 40000, 8080, "FA"))
        node.age_flows(15)  # half closed, the other end may still send
        assert node.egress(ANSWER).verdict is Verdict.ESTABLISHED
        node.egress(p.tcp(p.API, p.WEB, 8080, 40000, "FA"))
    assert node.egress(ANSWER).verdict is Verdict.ESTABLISHED
    node.age_flows(15)
    assert node.egress(ANSWER).verdict is Verdict.OBSERVED  # midway, opens nothing


def test_a_syn_on_a_closed_connection_begins_a_new_one(node: Node) -> None:
    node.configure(ALLOWED)
    open_connection(node)
    assert node.ingress(SYN).verdict is Verdict.ESTABLISHED  # sent again, nothing new
    node.ingress(p.tcp(p.WEB, p.API, 40000, 8080, "R"))
    assert node.ingress(SYN).verdict is Verdict.ALLOWED


def test_a_flow_remembers_who_began_it_whichever_end_is_lower(node: Node) -> None:
    node.configure(node_config(default="allow"))
    for source, destination in ((p.WEB, p.API), (p.GUEST, p.API)):
        node.ingress(p.udp(source, destination, 1, 2))
        node.egress(p.udp(destination, source, 2, 1))
    flows = list(node.flows().values())
    assert {flow.source_tag for flow in flows} == {TAGS["web"], TAGS["guest"]}
    assert [list(flow.packets) for flow in flows] == [[1, 1], [1, 1]]
    assert {flow.flags for flow in flows} == {0, 1}
