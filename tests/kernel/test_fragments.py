"""Fragments: the first is judged, the others are what it was; an overlap poisons them all."""

from __future__ import annotations

import random
import struct

import pytest

from tests.kernel import packets as p
from tests.kernel import testrun
from tests.kernel.conftest import Node
from tests.unit.agent.datapath.configs import TAGS, node_config, rule
from ztlab.model.verdict import AuthzMode, Hook, Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

DNS = node_config(rule("dns", "web", "api", "allow", proto="udp", ports=(53,)))
V4, V6 = (p.WEB, p.API), (p.WEB6, p.API6)
BOTH_FAMILIES = pytest.mark.parametrize("ends", [V4, V6], ids=["IPv4", "IPv6"])
EST, FRAGMENT = Verdict.ESTABLISHED, Verdict.FRAGMENT


def piece(
    ends: tuple[str, str],
    start: int,
    data: bytes,
    *,
    more: bool = True,
    id: int = 7,
    proto: int = 17,
) -> bytes:
    """DATA as the fragment of packet ID that begins at byte START, which 8 divides."""
    if ":" not in ends[0]:
        flags = "MF" if more else 0
        return bytes(p.ip(*ends, frag=start // 8, flags=flags, id=id, proto=proto) / data)
    header = struct.pack("!BBHI", proto, 0, start | more, id)
    return p.other(*ends, 44, header + data)


def datagram(size: int, sport: int = 1000, dport: int = 53) -> bytes:
    """A UDP header and so much behind it that it is SIZE bytes long."""
    return struct.pack("!HHHH", sport, dport, size, 0) + bytes(size - 8)


def pieces(ends: tuple[str, str], whole: bytes, size: int, **more: int) -> list[bytes]:
    """WHOLE in fragments of SIZE bytes."""
    return [
        piece(ends, at, whole[at : at + size], more=at + size < len(whole), **more)
        for at in range(0, len(whole), size)
    ]


@BOTH_FAMILIES
def test_the_rest_of_a_packet_is_of_its_flow(node: Node, ends: tuple[str, str]) -> None:
    node.configure(DNS)
    first, *rest = pieces(ends, datagram(3001), 1000)
    for later in rest:
        assert node.ingress(later).verdict is FRAGMENT  # control: nobody knows it yet
    assert node.ingress(first).verdict is Verdict.ALLOWED
    for later in rest:
        event = node.ingress(later).event
        assert (event.verdict, event.rule, event.is_first) == (EST, "dns", False)
        assert (event.source_port, event.destination_port, event.protocol) == (1000, 53, 17)
    (flow,) = node.flows().values()
    assert flow.packets[0] == 1 + len(rest)
    assert flow.bytes[0] == sum(len(fragment) for fragment in (first, *rest))


@BOTH_FAMILIES
def test_the_rest_of_a_denied_packet_is_denied_for_the_same_reason(
    node: Node, ends: tuple[str, str]
) -> None:
    node.configure(node_config(rule("no", "web", "api", "deny", proto="udp", ports=(54,))))
    for fragment in pieces(ends, datagram(3000, dport=54), 1000):
        event = node.ingress(fragment).event
        assert (event.verdict, event.rule) == (Verdict.DENY_RULE, "no")


def test_a_revocation_counts_from_the_next_fragment_on(node: Node) -> None:
    node.configure(DNS)
    first, second, third = pieces(V4, datagram(3000), 1000)
    assert node.ingress(first).passed and node.ingress(second).passed
    node.configure(node_config())
    assert node.ingress(third).verdict is Verdict.NO_RULE


@BOTH_FAMILIES
def test_an_answer_in_fragments_belongs_to_its_question(node: Node, ends: tuple[str, str]) -> None:
    node.configure(node_config())
    web, api = ends
    assert node.egress(p.udp(api, web, 1000, 53)).passed
    answer = pieces(ends, datagram(2000, sport=53, dport=1000), 1200)
    assert [node.ingress(fragment).verdict for fragment in answer] == [EST, EST]


@BOTH_FAMILIES
def test_a_large_echo_is_one_conversation(node: Node, ends: tuple[str, str]) -> None:
    node.configure(node_config(rule("ping", "web", "api", "allow", proto="icmp")))
    request = (b"\x08" if ends is V4 else b"\x80") + b"\0\0\0\0\x07\0\1" + bytes(2000)
    proto = 1 if ends is V4 else 58
    verdicts = [node.ingress(x).verdict for x in pieces(ends, request, 1200, proto=proto)]
    assert verdicts == [Verdict.ALLOWED, EST]


@BOTH_FAMILIES
@pytest.mark.parametrize(
    ("start", "size", "more"),
    [(0, 1000, True), (0, 16, True), (8, 8, True), (992, 16, True), (992, 8, False)],
    ids=["first again", "first, shorter", "in the header", "at the seam", "the end inside"],
)
def test_an_overlap_poisons_the_packet(
    node: Node, ends: tuple[str, str], start: int, size: int, more: bool
) -> None:
    node.configure(DNS)
    whole = datagram(3000)
    first, second, third = pieces(ends, whole, 1000)
    assert node.ingress(first).passed
    overlap = piece(ends, start, whole[start : start + size], more=more)
    assert node.ingress(overlap).verdict is FRAGMENT
    assert node.ingress(second).verdict is FRAGMENT
    assert node.ingress(third).verdict is FRAGMENT
    assert node.ingress(first).verdict is FRAGMENT
    other = pieces(ends, whole, 1000, id=8)  # control: another packet of the same flow
    assert [node.ingress(x).verdict for x in other] == [EST] * 3


@pytest.mark.parametrize(
    "order",
    [
        [(2000, 1000), (2000, 1000)],
        [(2000, 1000), (1992, 16)],
        [(2000, 1000), (1000, 1008)],
        [(4000, 1000), (3000, 8), (3992, 16)],
        [(1000, 1000), (1992, 16)],
    ],
)
def test_an_overlap_among_later_fragments_poisons_too(
    node: Node, order: list[tuple[int, int]]
) -> None:
    node.configure(DNS)
    assert node.ingress(piece(V4, 0, datagram(1000))).passed
    verdicts = [node.ingress(piece(V4, start, bytes(size))).verdict for start, size in order]
    assert verdicts == [EST] * (len(order) - 1) + [FRAGMENT]
    assert node.ingress(piece(V4, 8000, bytes(8))).verdict is FRAGMENT


@pytest.mark.parametrize(("start", "more"), [(3000, True), (3000, False), (1000, False)])
def test_nothing_comes_behind_the_last_fragment(node: Node, start: int, more: bool) -> None:
    node.configure(DNS)
    assert node.ingress(piece(V4, 0, datagram(1000))).passed
    assert node.ingress(piece(V4, 2000, bytes(1000), more=False)).passed
    assert node.ingress(piece(V4, start, bytes(1000), more=more)).verdict is FRAGMENT


def test_fragments_may_come_in_any_order_after_the_first(node: Node) -> None:
    node.configure(DNS)
    chance = random.Random(7)
    for id in range(40):
        first, *rest = pieces(V4, datagram(6000), 1000, id=id)
        chance.shuffle(rest)
        assert node.ingress(first).passed
        assert [node.ingress(x).verdict for x in rest] == [EST] * 5
        assert not node.ingress(rest[0]).passed  # it is complete


def test_a_packet_with_more_holes_than_can_be_noted_is_not_let_through(node: Node) -> None:
    node.configure(DNS)
    assert node.ingress(piece(V4, 0, datagram(1000))).passed
    for start in (2000, 4000, 6000):
        assert node.ingress(piece(V4, start, bytes(1000))).verdict is EST
    assert node.ingress(piece(V4, 8000, bytes(1000))).verdict is FRAGMENT
    assert node.ingress(piece(V4, 1000, bytes(1000))).verdict is EST  # no overlap: not poisoned
    assert node.ingress(piece(V4, 8000, bytes(1000))).verdict is EST


def test_a_complete_packet_makes_room_for_one_with_the_same_number(node: Node) -> None:
    node.configure(DNS)
    for sport in range(1, 5):
        for fragment in pieces(V4, datagram(3000, sport=sport), 1000):
            assert node.ingress(fragment).event.source_port == sport


def test_after_thirty_seconds_the_first_is_forgotten(node: Node) -> None:
    node.configure(DNS)
    first, second, third = pieces(V4, datagram(3000), 1000)
    assert node.ingress(first).passed
    node.age_fragments(25)
    assert node.ingress(second).verdict is EST
    node.age_fragments(6)
    assert node.ingress(third).verdict is FRAGMENT
    assert node.ingress(first).passed  # no overlap with what is forgotten


@BOTH_FAMILIES
def test_fragments_of_different_packets_are_not_confused(node: Node, ends: tuple[str, str]) -> None:
    node.configure(node_config(rule("all", "*", "*", "allow"), role="gateway"))
    web, api = ends
    guest = p.GUEST if ends is V4 else p.GUEST6
    assert node.ingress(piece(ends, 0, datagram(1000))).passed
    later = {"more": True, "id": 7, "proto": 17}
    for elsewhere, difference in (
        ((guest, api), {}),
        ((web, guest), {}),
        (ends, {"id": 8}),
        (ends, {"id": 0x10007} if ends is V6 else {"id": 0x700}),
    ):
        fragment = piece(elsewhere, 1000, bytes(8), **{**later, **difference})  # type: ignore[arg-type]
        assert node.ingress(fragment).verdict is FRAGMENT
    assert node.ingress(piece(ends, 1000, bytes(8))).verdict is EST


def test_the_protocol_tells_packets_apart_where_it_does_for_a_destination(node: Node) -> None:
    """RFC 791 reassembles by protocol too; RFC 8200 takes the first fragment's."""
    node.configure(node_config(rule("all", "*", "*", "allow")))
    for ends, verdict in ((V4, FRAGMENT), (V6, EST)):
        assert node.ingress(piece(ends, 0, datagram(1000))).passed
        event = node.ingress(piece(ends, 1000, bytes(8), proto=6)).event
        assert event.verdict is verdict
        assert event.protocol == (6 if ends is V4 else 17)


def test_what_came_from_elsewhere_is_another_packet(node: Node) -> None:
    """A host of the LAN cannot spoil, or complete, what comes out of the tunnel."""
    node.configure(node_config(rule("all", "*", "*", "allow"), role="gateway"))
    ends = (p.WORLD_HOST, p.WEB)
    assert node.from_lan(piece(ends, 0, datagram(1000))).passed
    assert node.ingress(piece(ends, 1000, bytes(8))).verdict is Verdict.UNKNOWN_SOURCE
    assert node.from_lan(piece(ends, 1000, bytes(8))).verdict is EST
    assert node.ingress(piece(V4, 0, datagram(1000))).passed
    assert node.from_lan(piece(V4, 0, datagram(16))).verdict is Verdict.SPOOFED_SOURCE
    assert node.from_lan(piece(V4, 1000, bytes(8))).verdict is Verdict.SPOOFED_SOURCE
    assert node.ingress(piece(V4, 1000, bytes(8))).verdict is EST


def test_nobody_unknown_takes_room_from_others(node: Node) -> None:
    node.configure(DNS)
    assert node.ingress(piece((p.STRANGER, p.API), 0, datagram(1000))).verdict is (
        Verdict.UNKNOWN_SOURCE
    )
    assert not node.datapath._maps["zt_frags"].items()


@BOTH_FAMILIES
@pytest.mark.parametrize("start", [0, 1000], ids=["first", "later"])
@pytest.mark.parametrize(
    ("size", "more"), [(1001, True), (0, True), (0, False)], ids=["odd", "empty", "empty last"]
)
def test_a_fragment_that_no_sender_makes_is_malformed(
    node: Node, ends: tuple[str, str], start: int, size: int, more: bool
) -> None:
    if not start and not more:
        start = 8
    node.configure(DNS)
    packet = piece(ends, start, datagram(1001)[:size], more=more)
    assert node.ingress(packet).verdict is Verdict.MALFORMED
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    assert node.ingress(packet).passed


@BOTH_FAMILIES
def test_a_packet_longer_than_any_can_be_is_malformed(node: Node, ends: tuple[str, str]) -> None:
    node.configure(DNS)
    assert node.ingress(piece(ends, 65528, bytes(8), more=False)).verdict is Verdict.MALFORMED
    assert node.ingress(piece(ends, 65520, bytes(8), more=False)).verdict is FRAGMENT


def test_a_lone_fragment_of_ipv6_is_a_whole_packet(node: Node) -> None:
    node.configure(DNS)
    atomic = piece(V6, 0, datagram(100), more=False)
    for _ in range(2):
        assert node.ingress(atomic).passed
    assert not node.datapath._maps["zt_frags"].items()


def test_two_fragment_headers_are_malformed(node: Node) -> None:
    node.configure(DNS)
    inner = struct.pack("!BBHI", 17, 0, 1, 9) + datagram(1000)
    assert node.ingress(piece(V6, 0, inner, proto=44)).verdict is Verdict.MALFORMED


def test_what_this_node_sends_in_fragments_is_never_held_back(node: Node) -> None:
    node.configure(node_config())
    first, second, third = pieces((p.API, p.WEB), datagram(3000), 1000)
    for fragment in (second, first, second, second, third):
        assert node.egress(fragment).passed


def test_in_observe_no_fragment_is_dropped_and_a_flip_finds_them_known(node: Node) -> None:
    node.configure(DNS)
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    first, second, third = pieces(V4, datagram(3000), 1000)
    assert node.ingress(third).verdict is Verdict.OBSERVED
    assert node.ingress(first).passed
    assert node.ingress(second).verdict is EST
    node.datapath.set_authz_mode(AuthzMode.ENFORCE)
    assert node.ingress(third).verdict is EST
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    for _ in range(2):  # again: an overlap, and poison
        assert node.ingress(first).passed and node.ingress(second).passed


def test_the_memory_of_fragments_is_bounded(node: Node) -> None:
    node.configure(DNS)
    room = node.datapath._maps["zt_frags"].max_entries
    program = node.datapath.programs[Hook.INGRESS]

    for id in range(room + 500):
        testrun.run(program, piece(V4, 0, datagram(16, sport=id // 65536 + 1), id=id & 0xFFFF))
    assert node.datapath._maps["zt_frags"].count() <= room
    assert node.counted()[TAGS["web"], Hook.INGRESS, EST][0] == room + 499
    while node.datapath.read_events(0):
        pass
