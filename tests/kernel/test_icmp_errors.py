"""ICMP errors: those that quote a live flow come through, whatever policy says; no others do."""

from __future__ import annotations

import struct

import pytest

from tests.kernel import packets as p
from tests.kernel.conftest import Node
from tests.unit.agent.datapath.configs import TAGS, node_config, rule
from ztlab.model.verdict import AuthzMode, Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

TOO_BIG = (3, 4)
NOTHING = node_config()
WEB_TO_API = rule("web-to-api", "web", "api", "allow", proto="tcp", ports=(8080,))
WEB_TO_LAN = rule("web-to-lan", "web", "lan", "allow", proto="tcp")
GATEWAY = node_config(WEB_TO_LAN, role="gateway")


def error(
    source: str, destination: str, quoted: bytes, kind: tuple[int, int] = TOO_BIG, l4: int = 8
) -> bytes:
    """An error of KIND (type, code) from SOURCE about the packet QUOTED, of which the IP header and
    L4 bytes behind it are in it."""
    is_v4 = quoted[0] >> 4 == 4
    header = (quoted[0] & 0xF) * 4 if is_v4 else 40
    message = struct.pack("!BBHI", *kind, 0, 1280) + quoted[: header + l4]
    return p.other(source, destination, 1 if is_v4 else 58, message)


@pytest.mark.parametrize(
    ("self", "peer", "kind"),
    [(p.API, p.GUEST, (kind, 0)) for kind in (3, 4, 11, 12)]
    + [(p.API6, p.GUEST6, (kind, 0)) for kind in (1, 2, 3, 4)],
)
def test_an_error_about_what_this_node_sent_comes_in_through_default_deny(
    node: Node, self: str, peer: str, kind: tuple[int, int]
) -> None:
    node.configure(NOTHING)
    sent = p.udp(self, peer, 5000, 53)
    complaint = error(peer, self, sent, kind)
    assert node.ingress(complaint).verdict is Verdict.NO_RULE  # control: about nothing we know
    assert node.egress(sent).passed
    passage = node.ingress(complaint)
    assert passage.verdict is Verdict.ESTABLISHED and passage.event.source_tag == TAGS["guest"]
    assert passage.event.icmp_type == kind[0] and not passage.event.is_first


@pytest.mark.parametrize(
    ("self", "peer", "kind"),
    [
        *((p.API, p.GUEST, kind) for kind in (0, 5, 8, 9, 13)),
        *((p.API6, p.GUEST6, kind) for kind in (0, 5, 100, 128, 137)),
    ],
)
def test_other_icmp_that_quotes_a_packet_is_no_error(
    node: Node, self: str, peer: str, kind: int
) -> None:
    node.configure(NOTHING)
    sent = p.udp(self, peer, 5000, 53)
    assert node.egress(sent).passed
    assert node.ingress(error(peer, self, sent, (kind, 0))).verdict is Verdict.NO_RULE


def test_a_router_without_identity_may_speak_about_a_flow_behind_it_and_of_nothing_else(
    node: Node,
) -> None:
    node.configure(NOTHING)
    to_lan, to_node = p.tcp(p.API, p.LAN_HOST, 5000, 80), p.tcp(p.API, p.GUEST, 5000, 80)
    complaint = error(p.ROUTER, p.API, to_lan)
    assert node.ingress(complaint).verdict is Verdict.UNKNOWN_SOURCE
    assert node.egress(to_lan).passed and node.egress(to_node).passed
    passage = node.ingress(complaint)
    assert passage.verdict is Verdict.ESTABLISHED and passage.event.source_tag == 0
    # To a node there is no router: its own tunnel leads to it.
    assert node.ingress(error(p.ROUTER, p.API, to_node)).verdict is Verdict.UNKNOWN_SOURCE


def test_a_peer_may_not_speak_about_a_flow_with_another_one(node: Node) -> None:
    node.configure(NOTHING)
    sent = p.tcp(p.API, p.GUEST, 5000, 80)
    assert node.egress(sent).passed
    assert node.ingress(error(p.WEB, p.API, sent)).verdict is Verdict.NO_RULE
    assert node.ingress(error(p.GUEST, p.API, sent)).verdict is Verdict.ESTABLISHED  # control


def test_the_receiver_must_have_sent_what_is_quoted(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    received, answer = p.tcp(p.WEB, p.API, 1, 8080), p.tcp(p.API, p.WEB, 8080, 1, "SA")
    assert node.ingress(received).passed and node.egress(answer).passed
    assert node.ingress(error(p.WEB, p.API, received)).verdict is Verdict.NO_RULE
    assert node.ingress(error(p.WEB, p.GUEST, answer)).verdict is Verdict.NO_RULE
    assert node.ingress(error(p.WEB, p.API, answer)).verdict is Verdict.ESTABLISHED


def test_a_gateway_lets_errors_from_beyond_it_reach_the_client_that_sent(node: Node) -> None:
    node.configure(GATEWAY)
    sent = p.tcp(p.WEB, p.LAN_HOST, 40000, 80)
    router, stranger = "192.168.1.1", p.WORLD_HOST
    assert node.from_lan(error(router, p.WEB, sent)).verdict is Verdict.NO_RULE  # control
    assert node.ingress(sent).verdict is Verdict.ALLOWED
    for source in (router, stranger, p.LAN_HOST):
        passage = node.from_lan(error(source, p.WEB, sent))
        assert passage.verdict is Verdict.ESTABLISHED and passage.event.rule == "web-to-lan"
    # From a stolen address, to somebody else, or out of the tunnel, where the packet never went.
    assert node.from_lan(error(p.GUEST, p.WEB, sent)).verdict is Verdict.SPOOFED_SOURCE
    assert node.from_lan(error(router, p.GUEST, sent)).verdict is Verdict.NO_RULE
    assert node.ingress(error(p.GUEST, p.WEB, sent)).verdict is Verdict.NO_RULE
    # The other way: the host of the LAN sent, and the client complains.
    answer = p.tcp(p.LAN_HOST, p.WEB, 80, 40000, "SA")
    assert node.from_lan(answer).verdict is Verdict.ESTABLISHED
    assert node.ingress(error(p.WEB, p.LAN_HOST, answer)).verdict is Verdict.ESTABLISHED
    assert node.ingress(error(p.GUEST, p.LAN_HOST, answer)).verdict is Verdict.NO_RULE
    assert node.from_lan(error(router, p.LAN_HOST, answer)).verdict is Verdict.NO_RULE


def test_between_two_clients_only_the_other_client_may_complain(node: Node) -> None:
    node.configure(node_config(rule("a", "web", "guest", "allow"), role="gateway"))
    sent = p.udp(p.WEB, p.GUEST, 1, 2)
    assert node.ingress(sent).passed and node.transit(sent).passed
    complaint = error(p.GUEST, p.WEB, sent)
    assert node.ingress(complaint).verdict is Verdict.ESTABLISHED
    assert node.transit(complaint).verdict is Verdict.OBSERVED
    assert node.from_lan(error("192.168.1.1", p.WEB, sent)).verdict is Verdict.NO_RULE


def test_an_error_neither_makes_nor_keeps_a_flow_alive(node: Node) -> None:
    node.configure(NOTHING)
    sent = p.udp(p.API, p.GUEST, 5000, 53)
    complaint = error(p.GUEST, p.API, sent)
    assert not node.ingress(complaint).passed and not node.flows()
    node.egress(sent)
    before = node.flows()
    for _ in range(3):
        assert node.ingress(complaint).verdict is Verdict.ESTABLISHED
    assert node.flows() == before
    node.age_flows(181)
    assert node.ingress(complaint).verdict is Verdict.NO_RULE
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    node.ingress(error(p.WEB, p.API, p.udp(p.API, p.WEB, 1, 2)))
    assert len(node.flows()) == 1


def test_the_errors_of_a_flow_that_was_cut_are_dropped_with_its_reason(node: Node) -> None:
    answer = p.tcp(p.API, p.WEB, 8080, 1, "SA")
    complaint = error(p.WEB, p.API, answer)
    node.configure(node_config(WEB_TO_API))
    assert node.ingress(p.tcp(p.WEB, p.API, 1, 8080)).passed
    node.configure(node_config(rule("other", "guest", "api", "allow"), WEB_TO_API))
    passage = node.ingress(complaint)  # judged again, and still allowed
    assert passage.verdict is Verdict.ESTABLISHED and passage.event.rule == "web-to-api"
    node.configure(node_config(rule("no", "web", "*", "deny", proto="tcp"), WEB_TO_API))
    passage = node.ingress(complaint)
    assert passage.verdict is Verdict.DENY_RULE and passage.event.rule == "no"
    assert not node.egress(answer).passed
    # Even where a rule lets ICMP in: it is the flow's, and the flow is cut.
    ping = rule("ping", "*", "*", "allow", proto="icmp")
    node.configure(node_config(rule("no", "web", "*", "deny", proto="tcp"), WEB_TO_API, ping))
    assert node.ingress(complaint).verdict is Verdict.DENY_RULE
    assert node.ingress(p.echo_request(p.WEB, p.API)).event.rule == "ping"  # control


def test_an_error_about_nothing_known_is_judged_like_any_icmp(node: Node) -> None:
    node.configure(node_config(rule("ping", "*", "*", "allow", proto="icmp")))
    passage = node.ingress(error(p.WEB, p.API, p.udp(p.API, p.WEB, 1, 2)))
    assert passage.verdict is Verdict.ALLOWED and passage.event.rule == "ping"
    assert not node.flows()


@pytest.mark.parametrize(
    ("sent", "l4", "is_matched"),
    [
        pytest.param(p.tcp(p.API, p.GUEST, 1, 2), 8, True, id="8 bytes of TCP"),
        pytest.param(p.tcp(p.API, p.GUEST, 1, 2), 20, True, id="all of TCP"),
        pytest.param(p.tcp(p.API, p.GUEST, 1, 2), 7, False, id="7 bytes"),
        pytest.param(p.tcp(p.API, p.GUEST, 1, 2), 0, False, id="no transport header"),
        pytest.param(p.udp(p.API6, p.GUEST6, 1, 2), 8, True, id="UDP over IPv6"),
        pytest.param(p.udp(p.API6, p.GUEST6, 1, 2), 7, False, id="7 bytes over IPv6"),
        pytest.param(p.echo_request(p.API, p.GUEST), 8, True, id="echo"),
        pytest.param(p.echo_request(p.API6, p.GUEST6), 8, True, id="echo over IPv6"),
        pytest.param(p.other(p.API, p.GUEST, 47, bytes(8)), 8, True, id="GRE"),
    ],
)
def test_eight_bytes_behind_the_quoted_header_are_enough(
    node: Node, sent: bytes, l4: int, is_matched: bool
) -> None:
    node.configure(NOTHING)
    assert node.egress(sent).passed
    ends = (p.GUEST6, p.API6) if sent[0] >> 4 == 6 else (p.GUEST, p.API)
    verdict = node.ingress(error(*ends, sent, l4=l4)).verdict
    assert verdict is (Verdict.ESTABLISHED if is_matched else Verdict.NO_RULE)


def test_quotes_that_no_sender_of_ours_makes_match_nothing(node: Node) -> None:
    node.configure(NOTHING)
    sent = p.tcp(p.API, p.GUEST, 1, 2)
    assert node.egress(sent).passed
    for quoted in (
        b"\x55" + sent[1:],  # IP version 5
        b"\x44" + sent[1:],  # a header of 16 bytes
        sent[:6] + b"\x00\x10" + sent[8:],  # a later fragment
        sent[:9] + b"\x11" + sent[10:],  # UDP
        sent[:20] + b"\x00\x09" + sent[22:],  # another port
        p.tcp(p.GUEST, p.API, 2, 1),  # the other way
    ):
        message = struct.pack("!BBHI", 3, 4, 0, 1280) + quoted[:28]
        assert node.ingress(p.other(p.GUEST, p.API, 1, message)).verdict is Verdict.NO_RULE
    assert node.ingress(error(p.GUEST, p.API, sent)).passed  # control
    options = b"\x46" + sent[1:20] + b"\x01\x01\x01\x00" + sent[20:]
    message = struct.pack("!BBHI", 3, 4, 0, 1280) + options[:32]
    assert node.ingress(p.other(p.GUEST, p.API, 1, message)).passed


def test_over_ipv6_a_first_fragment_may_be_quoted(node: Node) -> None:
    node.configure(NOTHING)
    sent = p.udp(p.API6, p.GUEST6, 1, 2, b"x" * 100)
    assert node.egress(sent).passed
    for offset, verdict in ((1, Verdict.ESTABLISHED), (9, Verdict.NO_RULE)):
        header = struct.pack("!BBHI", 17, 0, offset, 7)
        quoted = p.other(p.API6, p.GUEST6, 44, header + sent[40:])
        assert node.ingress(error(p.GUEST6, p.API6, quoted, (2, 0), l4=16)).verdict is verdict


def test_a_client_takes_errors_about_what_it_opened_from_whoever_routes(node: Node) -> None:
    node.configure(node_config(role="client"))
    sent = p.tcp(p.API, p.WORLD_HOST, 5000, 443)
    complaint = error("198.51.100.1", p.API, sent)
    assert node.ingress(complaint).verdict is Verdict.NOT_ESTABLISHED
    assert node.egress(sent).passed
    assert node.ingress(complaint).verdict is Verdict.ESTABLISHED


def test_in_observe_an_error_passes_either_way_and_says_whether_it_is_a_flows(node: Node) -> None:
    node.configure(NOTHING)
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    sent = p.udp(p.API, p.GUEST, 5000, 53)
    complaint = error(p.GUEST, p.API, sent)
    assert node.ingress(complaint).verdict is Verdict.OBSERVED
    node.egress(sent)
    assert node.ingress(complaint).verdict is Verdict.ESTABLISHED
