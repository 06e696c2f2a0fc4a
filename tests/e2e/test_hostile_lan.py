"""Hostile packets from behind a gateway: what goes from its LAN to a peer is judged where it enters
the tunnel, each dropped, counted and logged for what it is, or let on.

    alice ══ tunnel ══ bob, the gateway ── mallory, who sends what she likes

What the kernel itself does not forward (a wrong checksum or length of the IP header) never comes so
far. It would not forward a packet with its own address as source either: here it is told to.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.e2e.nodes import Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import config, has_shaken_hands, pair
from tests.e2e.test_hostile_packets import (
    ALICE,
    ALICE_6,
    BOB,
    BOB_6,
    FRAGMENT,
    MALFORMED,
    NO_RULE,
    QUIET,
    UNSUPPORTED,
    Case,
    Ends,
    datagram,
    drops,
    extension,
    passed,
    require_its_fate,
    send,
    watching,
)
from tests.kernel import packets as p

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

CAROL, CAROL_6 = "10.77.0.4", "fd77::4"  # behind alice's key, too
MALLORY, MALLORY_6 = "192.168.50.9", "fd50::9"
WORLD, WORLD_6 = "203.0.113.9", "2001:db8::9"
RULES: list[dict[str, Any]] = [
    {"id": "in-udp", "from": "lan", "to": "alice", "proto": "udp", "ports": [8080],
     "action": "allow"},
    {"id": "in-tcp", "from": "lan", "to": "alice", "proto": "tcp", "ports": [8080],
     "action": "allow"},
    {"id": "in-udp6", "from": "lan6", "to": "alice", "proto": "udp", "ports": [8080],
     "action": "allow"},
    {"id": "out", "from": "alice", "to": "lan", "proto": "udp", "ports": [53], "action": "allow"},
]  # fmt: skip
SEND = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as s:
    for text in sys.argv[2:]:
        data = bytes.fromhex(text)
        kind = 0x86DD if data[0] >> 4 == 6 else 0x0800
        s.sendto(data, ("to-bob", kind, 0, 0, bytes.fromhex(sys.argv[1])))
"""


def v4(payload: bytes, proto: int, **fields: Any) -> bytes:
    return bytes(p.ip(MALLORY, ALICE, proto=proto, **fields) / payload)


def v6(next_header: int, payload: bytes) -> bytes:
    return p.other(MALLORY_6, ALICE_6, next_header, payload)


def fragment(start: int, id: int, *, more: bool = True, size: int = 24) -> bytes:
    data = (datagram(id, 200) + bytes(200))[start : start + size]
    return v4(data, 17, frag=start // 8, flags="MF" if more else 0, id=id)


def fragment_6(start: int, id: int) -> bytes:
    data = (datagram(id, 200) + bytes(200))[start : start + 24]
    return v6(44, struct.pack("!BBHI", 17, 0, start | 1, id) + data)


def tcp(flags: str, sport: int, dport: int = 9090) -> bytes:
    return p.tcp(MALLORY, ALICE, sport, dport, flags)


def error(quoted: bytes, source: str = MALLORY) -> bytes:
    return p.other(source, ALICE, 1, struct.pack("!BBHI", 3, 4, 0, 1280) + quoted[:28])


OUT = p.udp(ALICE, MALLORY, 5000, 53)
SPOOFED = "spoofed_source"
CASES = {
    "a peer's address": Case(
        packets=(p.udp(CAROL, ALICE, 1, 8080),), reason=SPOOFED, identity="carol"
    ),
    "a peer's address over IPv6": Case(
        packets=(p.udp(CAROL_6, ALICE_6, 1, 8080),), reason=SPOOFED, identity="carol"
    ),
    "the receiver's own address": Case(
        packets=(p.udp(ALICE, ALICE, 1, 8080),), reason=SPOOFED, identity="alice"
    ),
    "the gateway's address": Case(
        packets=(p.udp(BOB, ALICE, 1, 8080),), reason=SPOOFED, identity="bob"
    ),
    "the gateway's address over IPv6": Case(
        packets=(p.udp(BOB_6, ALICE_6, 1, 8080),), reason=SPOOFED, identity="bob"
    ),
    "a peer's address in a later fragment": Case(
        packets=(bytes(p.ip(CAROL, ALICE, proto=17, frag=3, id=1) / bytes(24)),),
        reason=SPOOFED,
        identity="carol",
    ),
    "a peer's address in the answer to what the peer sent": Case(
        sent=(OUT,), packets=(p.udp(CAROL, ALICE, 53, 5000),), reason=SPOOFED, identity="carol"
    ),
    "an allowed datagram": Case(packets=(v4(datagram(2), 17),), reason=None),
    "an allowed datagram over IPv6": Case(packets=(v6(17, datagram(2)),), reason=None),
    "a port that policy does not name": Case(
        packets=(p.udp(MALLORY, ALICE, 1, 9090),), reason=NO_RULE, identity="lan"
    ),
    "what belongs to nobody is the world": Case(
        packets=(p.udp(WORLD, ALICE, 1, 8080),), reason=NO_RULE, identity="world"
    ),
    "what belongs to nobody is the world over IPv6": Case(
        packets=(p.udp(WORLD_6, ALICE_6, 1, 8080),), reason=NO_RULE, identity="world"
    ),
    "an answer": Case(sent=(OUT,), packets=(p.udp(MALLORY, ALICE, 53, 5000),), reason=None),
    "an answer from the wrong port": Case(
        sent=(OUT,), packets=(p.udp(MALLORY, ALICE, 54, 5000),), reason=NO_RULE, identity="lan"
    ),
    "half a UDP header": Case(
        packets=(v4(datagram(3)[:7], 17),), reason=MALFORMED, identity="lan"
    ),
    "half a TCP header": Case(
        packets=(v4(tcp("S", 1, 8080)[20:36], 6),), reason=MALFORMED, identity="lan"
    ),
    "half a UDP header over IPv6": Case(
        packets=(v6(17, datagram(3)[:7]),), reason=MALFORMED, identity="lan6"
    ),
    "a tiny first fragment": Case(
        packets=(v4(tcp("S", 1, 8080)[20:28], 6, flags="MF", id=3),),
        reason=MALFORMED,
        identity="lan",
    ),
    "a later fragment alone": Case(packets=(fragment(24, 4),), reason=FRAGMENT, identity="lan"),
    "a later fragment alone over IPv6": Case(
        packets=(fragment_6(24, 4),), reason=FRAGMENT, identity="lan6"
    ),
    "fragments in order": Case(
        packets=(fragment(0, 5), fragment(24, 5), fragment(48, 5, more=False)), reason=None
    ),
    "fragments in order over IPv6": Case(
        packets=(fragment_6(0, 5), fragment_6(24, 5)), reason=None
    ),
    "an overlap with the first": Case(
        packets=(fragment(0, 6), fragment(24, 6), fragment(8, 6)), reason=FRAGMENT, identity="lan"
    ),
    "a fragment of odd length": Case(
        packets=(fragment(0, 7, size=23),), reason=MALFORMED, identity="lan"
    ),
    "a fragment beyond 65535 bytes": Case(
        packets=(v4(bytes(64), 17, frag=8191, flags=0, id=8),), reason=MALFORMED, identity="lan"
    ),
    "one extension too many": Case(
        packets=(v6(60, extension(60) * 6 + extension(17) + datagram(9)),),
        reason=UNSUPPORTED,
        identity="lan6",
    ),
    "an authentication header": Case(
        packets=(v6(51, bytes(32)),), reason=UNSUPPORTED, identity="lan6"
    ),
    "an extension longer than the packet": Case(
        packets=(v6(60, extension(17, 200) + datagram(10)),), reason=MALFORMED, identity="lan6"
    ),
    "ACK without a flow": Case(packets=(tcp("A", 20),), reason=NO_RULE, identity="lan"),
    "SYN and ACK without a flow": Case(packets=(tcp("SA", 21),), reason=NO_RULE, identity="lan"),
    "an error about what was sent": Case(sent=(OUT,), packets=(error(OUT),), reason=None),
    "an error about what was never sent": Case(
        sent=(OUT,), packets=(error(p.udp(ALICE, MALLORY, 5002, 53)),), reason=NO_RULE,
        identity="lan",
    ),
    "an error about what was sent, from a peer's address": Case(
        sent=(OUT,), packets=(error(OUT, CAROL),), reason=SPOOFED, identity="carol"
    ),
}  # fmt: skip


@dataclass
class LanEnds(Ends):
    """The same, and who sends from the LAN. A Case's `sent` is what alice sends first."""

    mallory: Node | None = None

    @property
    def hook(self) -> str:
        return "egress"

    def put(self, packets: tuple[bytes, ...]) -> None:
        assert self.mallory is not None
        (link,) = json.loads(self.bob.output("ip", "-j", "link", "show", "to-mallory"))
        to = link["address"].replace(":", "")
        self.mallory.output(sys.executable, "-c", SEND, to, *(x.hex() for x in packets))

    def control(self, port: int) -> bytes:
        return p.udp(MALLORY, ALICE, port, 8080)

    def passed(self) -> float:
        return passed(self.bob.metrics(), "out")


def gateway_config(bob: Node, alice: Node) -> dict[str, Any]:
    found = config(bob, alice, RULES)
    found["node"]["role"] = "gateway"
    found["peers"][0]["allowed_ips"] += [f"{CAROL}/32", f"{CAROL_6}/128"]
    found["identities"].append(
        {"name": "carol", "tag": 4, "prefixes": [f"{CAROL}/32", f"{CAROL_6}/128"]}
    )
    found["resources"] = [
        {"name": "lan", "tag": 10, "cidr": "192.168.50.0/24", "gateway": "bob"},
        {"name": "lan6", "tag": 11, "cidr": "fd50::/64", "gateway": "bob"},
    ]
    return found


def alice_config(alice: Node, bob: Node) -> dict[str, Any]:
    found = config(alice, bob)
    found["node"]["role"] = "client"
    found["peers"][0]["role"] = "gateway"
    found["peers"][0]["allowed_ips"] += ["192.168.50.0/24", "203.0.113.0/24", "fd50::/64"]
    return {**found, "identities": [], "policy": None}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanEnds]:
    directory = tmp_path_factory.mktemp("lan")
    alice, bob = pair(directory)
    bob.settings = {"gateway": {"forwarding": True}}
    mallory = Node("mallory", directory / "mallory", (), MALLORY)
    with namespaces(alice, bob, mallory):
        cable(alice, bob)
        cable(bob, mallory, "192.168.50.1", MALLORY)
        for name in ("rp_filter=0", "accept_local=1"):
            bob.output("sysctl", "-qw", *(f"net.ipv4.conf.{k}.{name}" for k in ("all", "default")))
        bob.output("sysctl", "-qw", "net.ipv4.conf.to-mallory.rp_filter=0")
        alice.settings["authz_mode"] = "observe"
        alice.start_agent(alice_config(alice, bob), wait=False)
        bob.start_agent(gateway_config(bob, alice), wait=False)
        for node in (alice, bob):
            node.wait_ready()
            wait_for(partial(has_shaken_hands, node), 10, "a handshake")
        alice.output("nft", QUIET)  # answers would be packets of their own
        mallory.output("nft", QUIET.replace("wg0", "to-bob"))
        found = LanEnds(alice, bob, bob.directory / "events", mallory=mallory)
        with watching(found):
            yield found


@pytest.mark.parametrize("name", CASES)
def test_what_comes_from_the_lan_is_judged_where_it_enters_the_tunnel(
    ends: LanEnds, name: str
) -> None:
    case = CASES[name]
    if case.sent:
        before = passed(ends.bob.metrics())
        send(ends.alice, case.sent, bypass=False)
        wait_for(lambda: passed(ends.bob.metrics()) > before, 5, "what was sent went by")
    require_its_fate(ends, case)


def test_what_the_gateway_drops_does_not_reach_the_peer_and_what_it_lets_on_does(
    ends: LanEnds,
) -> None:
    before = passed(ends.alice.metrics())
    ends.throw((p.udp(CAROL, ALICE, 31, 8080), p.udp(MALLORY, ALICE, 31, 9090)))
    ends.throw(())
    wait_for(lambda: passed(ends.alice.metrics()) >= before + 2, 5, "the two controls")
    assert passed(ends.alice.metrics()) == before + 2


def test_in_observe_all_of_them_get_through(ends: LanEnds) -> None:
    packets = tuple(packet for case in CASES.values() for packet in case.packets)
    ends.bob.zt("set", "authz-mode", "observe")
    try:
        before, passed_before = ends.bob.metrics(), ends.passed()
        ends.throw(packets)
        assert drops(ends.bob.metrics()) == drops(before)
        assert ends.passed() == passed_before + len(packets) + 1
    finally:
        ends.bob.zt("set", "authz-mode", "enforce")
