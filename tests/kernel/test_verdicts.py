"""The rows of ARCHITECTURE.md's truth table, one packet at a time, through the real programs."""

from __future__ import annotations

import struct

import pytest

from tests.kernel import packets as p
from tests.kernel.conftest import MARKS, Node
from tests.unit.agent.datapath.configs import TAGS, node_config, rule
from ztlab.model.verdict import AuthzMode, Hook, Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

WEB_TO_API = rule("web-to-api", "web", "api", "allow", proto="tcp", ports=(8080,))
PING = rule("ping", "*", "*", "allow", proto="icmp")
BOTH_FAMILIES = pytest.mark.parametrize(
    ("web", "api", "guest", "stranger"),
    [(p.WEB, p.API, p.GUEST, p.STRANGER), (p.WEB6, p.API6, p.GUEST6, p.STRANGER6)],
    ids=["IPv4", "IPv6"],
)


@BOTH_FAMILIES
def test_what_a_rule_allows_is_let_in_identified_and_named(
    node: Node, web: str, api: str, guest: str, stranger: str
) -> None:
    node.configure(node_config(WEB_TO_API))
    passage = node.ingress(p.tcp(web, api, 40000, 8080))
    event = passage.event
    assert passage.passed and event.verdict is Verdict.ALLOWED
    assert (event.source_tag, event.destination_tag) == (TAGS["web"], TAGS["api"])
    assert (str(event.source), str(event.destination)) == (web, api)
    assert (event.source_port, event.destination_port) == (40000, 8080)
    assert (event.rule, event.hook, event.protocol) == ("web-to-api", Hook.INGRESS, 6)
    assert event.is_first and event.tcp_flags == 0x02


@BOTH_FAMILIES
def test_what_no_rule_allows_is_dropped(
    node: Node, web: str, api: str, guest: str, stranger: str
) -> None:
    node.configure(node_config(WEB_TO_API))
    assert node.ingress(p.tcp(guest, api, 40000, 8080)).verdict is Verdict.NO_RULE
    assert node.ingress(p.tcp(web, api, 40000, 8081)).verdict is Verdict.NO_RULE
    assert node.ingress(p.udp(web, api, 40000, 8080)).verdict is Verdict.NO_RULE
    assert not node.flows()


@BOTH_FAMILIES
def test_an_unknown_source_is_dropped_whatever_the_default_says(
    node: Node, web: str, api: str, guest: str, stranger: str
) -> None:
    node.configure(node_config(rule("all", "*", "*", "allow"), default="allow"))
    assert node.ingress(p.tcp(guest, api, 1, 2)).passed  # control
    passage = node.ingress(p.tcp(stranger, api, 1, 2))
    assert passage.verdict is Verdict.UNKNOWN_SOURCE and passage.event.source_tag == 0


@BOTH_FAMILIES
def test_a_deny_beats_every_allow_and_is_named(
    node: Node, web: str, api: str, guest: str, stranger: str
) -> None:
    deny = rule("not-guest", "guest", "*", "deny", proto="tcp")
    node.configure(node_config(rule("all", "*", "api", "allow"), deny))
    passage = node.ingress(p.tcp(guest, api, 1, 2))
    assert passage.verdict is Verdict.DENY_RULE and passage.event.rule == "not-guest"
    assert node.ingress(p.udp(guest, api, 1, 2)).event.rule == "all"


@BOTH_FAMILIES
def test_a_reply_belongs_to_its_flow(
    node: Node, web: str, api: str, guest: str, stranger: str
) -> None:
    node.configure(node_config(WEB_TO_API))
    assert node.ingress(p.tcp(web, api, 40000, 8080)).verdict is Verdict.ALLOWED
    reply = node.egress(p.tcp(api, web, 8080, 40000, "SA"))
    assert reply.verdict is Verdict.ESTABLISHED and reply.event.rule == "web-to-api"
    again = node.ingress(p.tcp(web, api, 40000, 8080, "A", b"hello"))
    assert again.verdict is Verdict.ESTABLISHED and not again.event.is_first
    (flow,) = node.flows().values()
    assert list(flow.packets) == [2, 1]


@BOTH_FAMILIES
def test_what_this_node_opens_may_be_answered(
    node: Node, web: str, api: str, guest: str, stranger: str
) -> None:
    node.configure(node_config())
    assert node.ingress(p.udp(web, api, 53, 5000)).verdict is Verdict.NO_RULE  # control
    assert node.egress(p.udp(api, web, 5000, 53)).verdict is Verdict.OBSERVED
    assert node.egress(p.udp(api, web, 5000, 53)).verdict is Verdict.ESTABLISHED
    assert node.ingress(p.udp(web, api, 53, 5000)).verdict is Verdict.ESTABLISHED
    assert node.ingress(p.udp(web, api, 53, 5001)).verdict is Verdict.NO_RULE


@BOTH_FAMILIES
def test_an_echo_is_answered_and_its_answer_opens_nothing(
    node: Node, web: str, api: str, guest: str, stranger: str
) -> None:
    node.configure(node_config(rule("ping", "web", "api", "allow", proto="icmp")))
    assert node.ingress(p.echo_request(web, api)).verdict is Verdict.ALLOWED
    assert node.egress(p.echo_reply(api, web)).verdict is Verdict.ESTABLISHED
    assert node.ingress(p.echo_request(guest, api)).verdict is Verdict.NO_RULE
    node.egress(p.echo_request(api, guest, id=9))
    assert node.ingress(p.echo_reply(guest, api, id=9)).verdict is Verdict.ESTABLISHED
    # The same identifier the other way round is not a reply.
    assert node.ingress(p.echo_request(guest, api, id=9)).verdict is Verdict.NO_RULE
    assert node.ingress(p.echo_reply(guest, api, id=10)).verdict is Verdict.NO_RULE
    # An answer that nobody asked for is judged by itself, and opens nothing.
    flows = node.flows()
    assert node.ingress(p.echo_reply(web, api, id=11)).verdict is Verdict.ALLOWED
    assert node.flows() == flows


@BOTH_FAMILIES
def test_an_icmp_type_is_judged_by_itself_and_its_answer_comes_back(
    node: Node, web: str, api: str, guest: str, stranger: str
) -> None:
    ping = rule("ping", "web", "api", "allow", proto="icmp", icmp_types=("echo-request",))
    node.configure(node_config(ping))
    assert node.ingress(p.echo_request(web, api)).verdict is Verdict.ALLOWED  # control
    assert node.egress(p.echo_reply(api, web)).verdict is Verdict.ESTABLISHED
    assert node.ingress(p.echo_reply(web, api, id=11)).verdict is Verdict.NO_RULE
    # Judged anew it is still the request that counts, whoever sends the next packet.
    node.configure(node_config(ping, rule("more", "web", "api", "allow", proto="udp")))
    assert node.egress(p.echo_reply(api, web)).verdict is Verdict.ESTABLISHED
    node.configure(
        node_config(
            rule(
                "unreachable",
                "web",
                "api",
                "allow",
                proto="icmp",
                icmp_types=("destination-unreachable",),
            )
        )
    )
    assert node.egress(p.echo_reply(api, web)).verdict is Verdict.NO_RULE
    assert node.ingress(p.echo_request(web, api, id=12)).verdict is Verdict.NO_RULE


def test_other_protocols_are_judged_by_number(node: Node) -> None:
    node.configure(node_config(rule("gre", "web", "api", "allow", proto=47)))
    assert node.ingress(p.other(p.WEB, p.API, 47)).verdict is Verdict.ALLOWED
    assert node.egress(p.other(p.API, p.WEB, 47)).verdict is Verdict.ESTABLISHED
    assert node.ingress(p.other(p.WEB, p.API, 50)).verdict is Verdict.NO_RULE


def test_a_tcp_packet_midway_is_judged_like_a_syn_in_its_direction(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    assert node.ingress(p.tcp(p.WEB, p.API, 1, 8080, "A")).verdict is Verdict.ALLOWED
    assert node.ingress(p.tcp(p.WEB, p.API, 8080, 1, "A")).verdict is Verdict.NO_RULE


@pytest.mark.parametrize("flags", ["A", "SA", "R", "FA"])
def test_tcp_midway_that_this_node_sends_opens_nothing(node: Node, flags: str) -> None:
    node.configure(node_config())
    sent = node.egress(p.tcp(p.API, p.WEB, 8080, 40000, flags))
    assert sent.verdict is Verdict.OBSERVED and not sent.event.is_first
    assert not node.flows()
    assert node.ingress(p.tcp(p.WEB, p.API, 40000, 8080, "A")).verdict is Verdict.NO_RULE


def test_a_syn_the_other_way_is_no_reply(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    node.egress(p.tcp(p.API, p.GUEST, 5000, 80))
    assert node.ingress(p.tcp(p.GUEST, p.API, 80, 5000, "SA")).verdict is Verdict.ESTABLISHED
    assert node.ingress(p.tcp(p.GUEST, p.API, 80, 5000, "S")).verdict is Verdict.NO_RULE
    assert node.ingress(p.tcp(p.GUEST, p.API, 80, 5000, "A")).verdict is Verdict.ESTABLISHED


def test_a_resource_is_the_most_specific_and_the_rest_is_world(node: Node) -> None:
    node.configure(
        node_config(
            rule("lan", "web", "lan", "allow"),
            rule("print", "web", "printer", "allow"),
            rule("out", "web", "world", "allow"),
            role="gateway",
        )
    )
    assert node.ingress(p.udp(p.WEB, p.LAN_HOST, 1, 2)).event.rule == "lan"
    assert node.ingress(p.udp(p.WEB, p.PRINTER, 1, 2)).event.rule == "print"
    assert node.ingress(p.udp(p.WEB, p.WORLD_HOST, 1, 2)).event.rule == "out"
    assert node.ingress(p.udp(p.WEB6, p.WORLD_HOST6, 1, 2)).event.rule == "out"
    assert node.ingress(p.udp(p.GUEST, p.WORLD_HOST, 1, 2)).verdict is Verdict.NO_RULE


def test_from_another_interface_a_packet_is_judged_as_its_resource_or_world(node: Node) -> None:
    node.configure(
        node_config(
            rule("lan-in", "lan", "web", "allow", proto="udp"),
            rule("world-in", "world", "guest", "allow", proto="udp"),
            role="gateway",
        )
    )
    assert node.from_lan(p.udp(p.LAN_HOST, p.WEB, 1, 2)).event.rule == "lan-in"
    assert node.ingress(p.udp(p.WEB, p.LAN_HOST, 2, 1)).verdict is Verdict.ESTABLISHED
    assert node.from_lan(p.udp(p.WORLD_HOST, p.GUEST, 1, 2)).event.rule == "world-in"
    assert node.from_lan(p.udp(p.WORLD_HOST, p.WEB, 1, 2)).verdict is Verdict.NO_RULE
    assert node.from_lan(p.udp(p.LAN_HOST, p.STRANGER, 1, 2)).verdict is Verdict.UNKNOWN_DESTINATION


def test_from_another_interface_no_nodes_address_is_believed(node: Node) -> None:
    config = node_config(rule("all", "*", "*", "allow"), role="gateway")
    node.configure(config)
    # A live flow between two clients, through this gateway.
    assert node.ingress(p.tcp(p.GUEST, p.WEB, 1000, 80)).passed
    assert node.transit(p.tcp(p.GUEST, p.WEB, 1000, 80)).passed
    before = node.flows()
    for source in (p.GUEST, p.API):
        forged = p.tcp(source, p.WEB, 1000, 80, "A", b"forged")
        assert node.from_lan(forged).verdict is Verdict.SPOOFED_SOURCE
    assert node.from_lan(p.udp(p.GUEST6, p.WEB6, 1, 2)).verdict is Verdict.SPOOFED_SOURCE
    assert node.flows() == before
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    assert node.from_lan(p.tcp(p.GUEST, p.WEB, 1000, 80)).verdict is Verdict.OBSERVED
    assert node.flows() == before


def test_out_of_the_tunnel_this_nodes_own_address_is_not_believed(node: Node) -> None:
    node.configure(node_config(rule("all", "*", "*", "allow"), default="allow"))
    assert node.ingress(p.udp(p.API, p.API, 1, 2)).verdict is Verdict.SPOOFED_SOURCE


def test_a_router_without_identity_is_an_unknown_source(node: Node) -> None:
    node.configure(node_config(default="allow"))
    assert node.ingress(p.udp(p.ROUTER, p.API, 1, 2)).verdict is Verdict.UNKNOWN_SOURCE


def test_between_two_peers_the_egress_only_counts(node: Node) -> None:
    node.configure(node_config(role="gateway"))
    assert node.ingress(p.udp(p.WEB, p.GUEST, 1, 2)).verdict is Verdict.NO_RULE
    assert node.transit(p.udp(p.WEB, p.GUEST, 1, 2)).verdict is Verdict.OBSERVED
    assert not node.flows()
    assert node.counted()[TAGS["guest"], Hook.EGRESS, Verdict.OBSERVED] == (1, 28)


def test_this_node_sends_nothing_to_an_address_nobody_owns(node: Node) -> None:
    node.configure(node_config())
    passage = node.egress(p.udp(p.API, p.STRANGER, 1, 2))
    assert passage.verdict is Verdict.UNKNOWN_DESTINATION
    assert passage.event.source_tag == TAGS["api"]


def malformed() -> dict[str, bytes]:
    good = p.tcp(p.WEB, p.API, 1, 8080)
    good6 = p.tcp(p.WEB6, p.API6, 1, 8080)
    return {
        "no version": b"\x00" + good[1:],
        "version 5": b"\x55" + good[1:],
        "short IPv4 header": b"\x44" + good[1:],
        "header beyond the packet": b"\x4f" + good[1:],
        "longer than it is": good[:2] + struct.pack("!H", len(good) + 1) + good[4:],
        "total below the header": good[:2] + struct.pack("!H", 19) + good[4:],
        "cut in the IPv4 header": good[:19],
        "cut in the TCP header": good[:2] + struct.pack("!H", 30) + good[4:30],
        "TCP offset too small": good[:32] + b"\x40" + good[33:],
        "TCP offset beyond the packet": good[:32] + b"\xf0" + good[33:],
        "cut in the IPv6 header": good6[:39],
        "IPv6 longer than it is": good6[:4] + struct.pack("!H", len(good6) - 39) + good6[6:],
        "IPv6 extension beyond the packet": p.other(p.WEB6, p.API6, 0, b"\x06\x09" + bytes(22)),
        "extension beyond the packet, no ports": p.other(
            p.WEB6, p.API6, 60, b"\x2f\x09" + bytes(22)
        ),
        "UDP cut": p.other(p.WEB, p.API, 17, b"1234567"),
        "UDP longer than it is": p.other(p.WEB, p.API, 17, struct.pack("!4H", 1, 2, 9, 0)),
        "UDP shorter than its header": p.other(p.WEB6, p.API6, 17, struct.pack("!4H", 1, 2, 7, 0)),
        "UDP without a length": p.other(p.WEB, p.API, 17, bytes(8)),
        "ICMP cut": p.other(p.WEB, p.API, 1, b"\x08\x00\x00"),
        "one byte": good[:1],
    }


@pytest.mark.parametrize("what", list(malformed()))
def test_a_malformed_packet_is_dropped_in_enforce_and_passes_in_observe(
    node: Node, what: str
) -> None:
    node.configure(node_config(rule("all", "*", "*", "allow"), default="allow"))
    packet = malformed()[what]
    assert node.ingress(packet).verdict is Verdict.MALFORMED
    assert node.egress(packet).verdict is Verdict.MALFORMED
    assert node.from_lan(packet).verdict is Verdict.MALFORMED
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    assert node.ingress(packet).verdict is Verdict.OBSERVED
    assert node.egress(packet).verdict is Verdict.OBSERVED
    assert not node.flows()


def extension(next_header: int, length: int = 0, rest: bytes = bytes(6)) -> bytes:
    return bytes((next_header, length)) + rest.ljust(6 + 8 * length, b"\0")


def test_extension_headers_are_walked_to_the_ports(node: Node) -> None:
    node.configure(node_config(WEB_TO_API))
    segment = p.tcp(p.WEB6, p.API6, 1, 8080)[40:]
    chain = extension(60) + extension(43, 1) + extension(44) + bytes((6, 0, 0, 0)) + bytes(4)
    walked = node.ingress(p.other(p.WEB6, p.API6, 0, chain + segment))
    assert walked.verdict is Verdict.ALLOWED and walked.event.protocol == 6
    assert walked.event.destination_port == 8080


@pytest.mark.parametrize(
    ("protocol", "payload"),
    [
        pytest.param(51, bytes(24), id="authentication header"),
        pytest.param(135, extension(59), id="mobility"),
        pytest.param(139, extension(59), id="host identity"),
        pytest.param(140, extension(59), id="shim6"),
        pytest.param(60, extension(60) * 6 + extension(17) + bytes(8), id="seven of them"),
        pytest.param(43, extension(17, 2, b"\x04\x01") + bytes(8), id="routing not over"),
    ],
)
def test_an_extension_that_is_not_walked_is_unsupported(
    node: Node, protocol: int, payload: bytes
) -> None:
    node.configure(node_config(rule("all", "*", "*", "allow"), default="allow"))
    packet = p.other(p.WEB6, p.API6, protocol, payload)
    assert node.ingress(packet).verdict is Verdict.UNSUPPORTED_PROTOCOL
    assert node.from_lan(p.other(p.LAN_HOST6, p.WEB6, protocol, payload)).verdict is (
        Verdict.UNSUPPORTED_PROTOCOL
    )
    assert node.egress(p.other(p.API6, p.WEB6, protocol, payload)).passed
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    assert node.ingress(packet).verdict is Verdict.OBSERVED


def test_a_later_fragment_whose_first_nobody_saw_is_dropped(node: Node) -> None:
    node.configure(node_config(rule("dns", "web", "api", "allow", proto="udp", ports=(53,))))
    later = bytes(p.ip(p.WEB, p.API, frag=126, proto=17) / bytes(400))
    assert node.ingress(later).verdict is Verdict.FRAGMENT
    later6 = p.other(p.WEB6, p.API6, 44, bytes((17, 0, 0x05, 0xD8)) + bytes(4) + bytes(400))
    assert node.ingress(later6).verdict is Verdict.FRAGMENT
    # This node's own fragments are the destination's to judge.
    own = bytes(p.ip(p.API, p.WEB, frag=126, proto=17) / bytes(400))
    assert node.egress(own).verdict is Verdict.OBSERVED
    unknown = bytes(p.ip(p.STRANGER, p.API, frag=126, proto=17) / bytes(400))
    assert node.ingress(unknown).verdict is Verdict.UNKNOWN_SOURCE
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    assert node.ingress(later).verdict is Verdict.OBSERVED


def test_a_first_fragment_too_short_for_its_ports_is_malformed(node: Node) -> None:
    node.configure(node_config(default="allow"))
    tiny = bytes(p.ip(p.WEB, p.API, flags="MF", proto=6) / bytes(8))
    assert node.ingress(tiny).verdict is Verdict.MALFORMED


def test_the_length_in_a_udp_header_binds_only_where_it_is_this_packet_s(node: Node) -> None:
    node.configure(node_config(default="allow"))
    beyond = struct.pack("!4H", 1, 2, 2000, 0)
    first = bytes(p.ip(p.WEB, p.API, flags="MF", proto=17) / (beyond + bytes(16)))
    assert node.ingress(first).passed
    assert node.ingress(p.other(p.WEB, p.API, 17, beyond + bytes(400)), gso=(4, 100)).passed
    jumbo = p.other(p.WEB6, p.API6, 17, struct.pack("!4H", 1, 2, 0, 0) + bytes(16))
    assert node.ingress(jumbo).passed
    assert node.ingress(p.other(p.WEB, p.API, 17, beyond + bytes(400))).verdict is Verdict.MALFORMED


@BOTH_FAMILIES
def test_a_client_lets_in_only_what_it_opened(
    node: Node, web: str, api: str, guest: str, stranger: str
) -> None:
    node.configure(node_config(role="client"))
    assert node.ingress(p.udp(web, api, 53, 5000)).verdict is Verdict.NOT_ESTABLISHED
    assert node.egress(p.udp(api, web, 5000, 53)).verdict is Verdict.OBSERVED
    assert node.ingress(p.udp(web, api, 53, 5000)).verdict is Verdict.ESTABLISHED
    assert node.ingress(p.udp(web, api, 53, 5001)).verdict is Verdict.NOT_ESTABLISHED
    assert node.egress(p.tcp(api, guest, 5000, 80)).verdict is Verdict.OBSERVED
    assert node.ingress(p.tcp(guest, api, 80, 5000, "SA")).verdict is Verdict.ESTABLISHED
    assert node.ingress(p.tcp(guest, api, 80, 5000, "S")).verdict is Verdict.NOT_ESTABLISHED
    assert node.ingress(p.echo_request(web, api)).verdict is Verdict.NOT_ESTABLISHED
    assert node.from_lan(p.udp("172.17.0.2", "10.0.0.8", 1, 2)).verdict is Verdict.OBSERVED


def test_a_client_keeps_its_flows_when_the_epoch_rises(node: Node) -> None:
    node.configure(node_config(role="client"))
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    assert node.egress(p.udp(p.API, p.WEB, 5000, 53)).verdict is Verdict.OBSERVED
    assert node.ingress(p.udp(p.GUEST, p.API, 1, 2)).verdict is Verdict.OBSERVED
    node.datapath.set_authz_mode(AuthzMode.ENFORCE)
    assert node.ingress(p.udp(p.WEB, p.API, 53, 5000)).verdict is Verdict.ESTABLISHED
    assert node.ingress(p.udp(p.GUEST, p.API, 1, 2)).verdict is Verdict.NOT_ESTABLISHED
    assert node.egress(p.udp(p.API, p.GUEST, 2, 1)).verdict is Verdict.NOT_ESTABLISHED


def test_in_observe_nothing_is_dropped_and_everything_is_identified(node: Node) -> None:
    node.configure(node_config(rule("none", "*", "*", "deny")))
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    packet = p.tcp(p.GUEST, p.API, 1, 2)
    first = node.ingress(packet)
    assert first.verdict is Verdict.OBSERVED and first.event.source_tag == TAGS["guest"]
    assert node.ingress(packet).verdict is Verdict.ESTABLISHED
    assert node.ingress(p.udp(p.STRANGER, p.API, 1, 2)).verdict is Verdict.OBSERVED
    assert node.egress(p.udp(p.API, p.STRANGER, 1, 2)).passed
    assert node.from_lan(p.udp(p.GUEST, p.WEB, 1, 2)).verdict is Verdict.OBSERVED


@pytest.mark.parametrize("mode", AuthzMode, ids=lambda mode: mode.word)
def test_the_mark_carries_judged_bit_and_tag_and_keeps_all_other_bits(
    node: Node, mode: AuthzMode
) -> None:
    node.configure(node_config(WEB_TO_API))
    node.datapath.set_authz_mode(mode)
    passage = node.ingress(p.tcp(p.WEB, p.API, 1, 8080), mark=0xAB00DCBA)
    assert passage.mark == (0xAB00DCBA & ~MARKS.mask) | MARKS.mark(TAGS["web"])
    assert passage.mark == 0x0200FCBA


def test_in_observe_an_unknown_source_is_marked_judged_with_tag_0(node: Node) -> None:
    node.configure(node_config())
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    assert node.ingress(p.udp(p.STRANGER, p.API, 1, 2), mark=0xFF000001).mark == 0x2001


def test_egress_leaves_the_mark_alone(node: Node) -> None:
    node.configure(node_config())
    assert node.egress(p.udp(p.API, p.WEB, 1, 2)).mark == 0
