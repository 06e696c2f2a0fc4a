"""Hostile packets on a real tunnel: each dropped, counted and logged for what it is, or let in.

They are put on the sender's wg0 behind its own egress program, as a peer would whose programs are
not ours. A harmless packet follows each: one tunnel keeps the order, so when that was counted, what
came before it was judged. In observe all of them get through.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.nodes import BIN, Node, cable, namespaces, wait_for
from tests.e2e.test_agent_standalone import config, has_shaken_hands, pair
from tests.kernel import packets as p

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

ALICE, BOB, STRANGER = "10.77.0.2", "10.77.0.3", "10.88.0.9"
ALICE_6, BOB_6, STRANGER_6 = "fd77::2", "fd77::3", "fd88::9"
RULES: list[dict[str, Any]] = [
    {"id": proto, "from": "alice", "to": "bob", "proto": proto, "ports": [8080], "action": "allow"}
    for proto in ("udp", "tcp")
]
SEND = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as s:
    s.setsockopt(263, 20, int(sys.argv[1]))  # SOL_PACKET, PACKET_QDISC_BYPASS
    for text in sys.argv[2:]:
        data = bytes.fromhex(text)
        s.sendto(data, ("wg0", 0x86DD if data[0] >> 4 == 6 else 0x0800))
"""
QUIET = "table inet quiet { chain in { type filter hook input priority 0; iifname wg0 drop; }; }"


@dataclass(frozen=True, kw_only=True)
class Case:
    """PACKETS from alice, of which the last is dropped for REASON, or gets through where there is
    none; the ones before it get through. `sent` is what bob sends first."""

    packets: tuple[bytes, ...]
    reason: str | None
    identity: str = "alice"
    sent: tuple[bytes, ...] = ()


def v4(payload: bytes, proto: int, **fields: Any) -> bytes:
    return bytes(p.ip(ALICE, BOB, proto=proto, **fields) / payload)


def v6(next_header: int, payload: bytes) -> bytes:
    return p.other(ALICE_6, BOB_6, next_header, payload)


def datagram(sport: int, size: int = 24) -> bytes:
    """To the port that policy allows, without a checksum."""
    return struct.pack("!HHHH", sport, 8080, size, 0) + bytes(size - 8)


def extension(following: int, length: int = 0, segments_left: int = 0) -> bytes:
    return bytes((following, length, 4, segments_left, 0, 0, 0, 0))


def chain(count: int, sport: int) -> bytes:
    """An allowed datagram behind COUNT destination options."""
    return v6(60, extension(60) * (count - 1) + extension(17) + datagram(sport))


def fragment(start: int, id: int, *, more: bool = True, size: int = 24) -> bytes:
    data = (datagram(id, 200) + bytes(200))[start : start + size]
    return v4(data, 17, frag=start // 8, flags="MF" if more else 0, id=id)


def fragment_6(start: int, id: int, *, behind: int = 0, more: bool = True, size: int = 24) -> bytes:
    """The piece at START, behind so many other extensions."""
    data = (datagram(id, 200) + bytes(200))[start : start + size]
    piece = struct.pack("!BBHI", 17, 0, start | more, id) + data
    headers = b"".join(extension(60) for _ in range(behind - 1)) + extension(44)
    return v6(60, headers + piece) if behind else v6(44, piece)


def error(quoted: bytes, source: str = ALICE, kind: int = 3) -> bytes:
    message = struct.pack("!BBHI", kind, 4 if kind == 3 else 0, 0, 1280) + quoted[:28]
    return p.other(source, BOB, 1, message)


def error_6(quoted: bytes, source: str = ALICE_6, kind: int = 1) -> bytes:
    return p.other(source, BOB_6, 58, struct.pack("!BBHI", kind, 0, 0, 1280) + quoted[:48])


def tcp(flags: str, sport: int, dport: int = 9090) -> bytes:
    return p.tcp(ALICE, BOB, sport, dport, flags)


def tcp_6(flags: str, sport: int, dport: int = 9090) -> bytes:
    return p.tcp(ALICE_6, BOB_6, sport, dport, flags)


def udp_that_says(length: int) -> bytes:
    """A UDP header with this length, and four bytes."""
    return struct.pack("!4H", 1, 9090, length, 0) + bytes(4)


OUT = p.udp(BOB, ALICE, 5000, 53)
OUT_SYN = p.tcp(BOB, ALICE, 5001, 7000)
OUT_6 = p.udp(BOB_6, ALICE_6, 5000, 53)
OUT_SYN_6 = p.tcp(BOB_6, ALICE_6, 5001, 7000)
RECORD_ROUTE = b"\x07\x0b\x04" + bytes(9)
MALFORMED, FRAGMENT, NO_RULE = "malformed", "fragment", "no_rule"
UNSUPPORTED = "unsupported_protocol"

# Where an IPv4 header lies about its own length nothing in it is believed: not even whose it is.
CASES = {
    "half a UDP header": Case(packets=(v4(datagram(1)[:7], 17),), reason=MALFORMED),
    "UDP longer than the packet": Case(packets=(v4(udp_that_says(13), 17),), reason=MALFORMED),
    "UDP longer than the packet over IPv6": Case(
        packets=(v6(17, udp_that_says(65_535)),), reason=MALFORMED
    ),
    "UDP shorter than its header": Case(packets=(v4(udp_that_says(7), 17),), reason=MALFORMED),
    "UDP without a length": Case(packets=(v4(udp_that_says(0), 17),), reason=MALFORMED),
    "half a TCP header": Case(packets=(v4(tcp("S", 1, 8080)[20:36], 6),), reason=MALFORMED),
    "half an ICMP header": Case(packets=(v4(b"\x08\0\0\0", 1),), reason=MALFORMED),
    "no transport header over IPv6": Case(packets=(v6(6, b""),), reason=MALFORMED),
    "an IP header longer than the packet": Case(
        packets=(v4(datagram(2), 17, ihl=15),), reason=MALFORMED, identity="unknown"
    ),
    "an IP header shorter than any": Case(
        packets=(v4(datagram(2), 17, ihl=4),), reason=MALFORMED, identity="unknown"
    ),
    "a TCP header longer than the packet": Case(
        packets=(bytes(p.ip(ALICE, BOB) / p.TCP(sport=1, dport=8080, dataofs=15)),),
        reason=MALFORMED,
    ),
    "a TCP header shorter than any": Case(
        packets=(bytes(p.ip(ALICE, BOB) / p.TCP(sport=1, dport=8080, dataofs=4)),),
        reason=MALFORMED,
    ),
    "IP options": Case(packets=(v4(RECORD_ROUTE + datagram(1), 17, ihl=8),), reason=None),
    "a tiny first fragment": Case(
        packets=(v4(tcp("S", 1, 8080)[20:28], 6, flags="MF", id=3),), reason=MALFORMED
    ),
    "a later fragment alone": Case(packets=(fragment(24, 4),), reason=FRAGMENT),
    "fragments in order": Case(
        packets=(fragment(0, 5), fragment(24, 5), fragment(48, 5, more=False)), reason=None
    ),
    "an overlap with the first": Case(
        packets=(fragment(0, 6), fragment(24, 6), fragment(8, 6)), reason=FRAGMENT
    ),
    "an overlap with a later one": Case(
        packets=(fragment(0, 7), fragment(48, 7), fragment(40, 7)), reason=FRAGMENT
    ),
    "a fragment of odd length": Case(packets=(fragment(0, 8, size=23),), reason=MALFORMED),
    "a fragment beyond 65535 bytes": Case(
        packets=(v4(bytes(64), 17, frag=8191, flags=0, id=9),), reason=MALFORMED
    ),
    "as many extensions as are walked": Case(packets=(chain(6, 10),), reason=None),
    "one extension more": Case(packets=(chain(7, 11),), reason=UNSUPPORTED),
    "an authentication header": Case(packets=(v6(51, bytes(32)),), reason=UNSUPPORTED),
    "a routing header that is not over": Case(
        packets=(v6(43, extension(17, 2, 1) + bytes(16) + datagram(12)),), reason=UNSUPPORTED
    ),
    "an extension longer than the packet": Case(
        packets=(v6(60, extension(17, 200) + datagram(13)),), reason=MALFORMED
    ),
    "a later fragment behind too many extensions": Case(
        packets=(fragment_6(0, 14), fragment_6(24, 14, behind=6)), reason=UNSUPPORTED
    ),
    "the receiver's own address": Case(
        packets=(p.udp(BOB, BOB, 1, 8080),), reason="spoofed_source", identity="bob"
    ),
    "the receiver's own address over IPv6": Case(
        packets=(p.udp(BOB_6, BOB_6, 1, 8080),), reason="spoofed_source", identity="bob"
    ),
    "nobody's address": Case(
        packets=(p.udp(STRANGER, BOB, 1, 8080),), reason="unknown_source", identity="unknown"
    ),
    "nobody's address over IPv6": Case(
        packets=(p.udp(STRANGER_6, BOB_6, 1, 8080),), reason="unknown_source", identity="unknown"
    ),
    "ACK without a flow": Case(packets=(tcp("A", 20),), reason=NO_RULE),
    "ACK without a flow where a SYN may": Case(packets=(tcp("A", 21, 8080),), reason=None),
    "SYN and ACK without a flow": Case(packets=(tcp("SA", 22),), reason=NO_RULE),
    "RST without a flow": Case(packets=(tcp("R", 23),), reason=NO_RULE),
    "SYN in the middle": Case(
        packets=(tcp("S", 24, 8080), tcp("A", 24, 8080), tcp("S", 24, 8080)), reason=None
    ),
    "an answer to a SYN": Case(
        sent=(OUT_SYN,), packets=(p.tcp(ALICE, BOB, 7000, 5001, "SA"),), reason=None
    ),
    "a SYN in answer to a SYN": Case(
        sent=(OUT_SYN,), packets=(p.tcp(ALICE, BOB, 7000, 5001, "S"),), reason=NO_RULE
    ),
    "an error about what was sent": Case(sent=(OUT,), packets=(error(OUT),), reason=None),
    "an error about what was never sent": Case(
        sent=(OUT,), packets=(error(p.udp(BOB, ALICE, 5002, 53)),), reason=NO_RULE
    ),
    "an error about a flow with somebody else": Case(
        sent=(OUT,), packets=(error(p.udp(BOB, STRANGER, 5000, 53)),), reason=NO_RULE
    ),
    "an error about what was sent, from nobody": Case(
        sent=(OUT,),
        packets=(error(OUT, STRANGER),),
        reason="unknown_source",
        identity="unknown",
    ),
    "an error that quotes too little": Case(
        sent=(OUT,), packets=(error(OUT[:27]),), reason=NO_RULE
    ),
    "a redirect about what was sent": Case(
        sent=(OUT,), packets=(error(OUT, kind=5),), reason=NO_RULE
    ),
}  # fmt: skip
CASES |= {
    f"{name} over IPv6": case
    for name, case in {
        "half a UDP header": Case(packets=(v6(17, datagram(1)[:7]),), reason=MALFORMED),
        "half a TCP header": Case(packets=(v6(6, tcp_6("S", 1, 8080)[40:56]),), reason=MALFORMED),
        "half an ICMP header": Case(packets=(v6(58, b"\x80\0\0\0"),), reason=MALFORMED),
        "a tiny first fragment": Case(
            packets=(v6(44, struct.pack("!BBHI", 6, 0, 1, 33) + tcp_6("S", 1, 8080)[40:48]),),
            reason=MALFORMED,
        ),
        "a later fragment alone": Case(packets=(fragment_6(24, 34),), reason=FRAGMENT),
        "fragments in order": Case(
            packets=(fragment_6(0, 35), fragment_6(24, 35), fragment_6(48, 35, more=False)),
            reason=None,
        ),
        "an overlap with the first": Case(
            packets=(fragment_6(0, 36), fragment_6(24, 36), fragment_6(8, 36)), reason=FRAGMENT
        ),
        "an overlap with a later one": Case(
            packets=(fragment_6(0, 37), fragment_6(48, 37), fragment_6(40, 37)), reason=FRAGMENT
        ),
        "a fragment of odd length": Case(packets=(fragment_6(0, 38, size=23),), reason=MALFORMED),
        "ACK without a flow": Case(packets=(tcp_6("A", 20),), reason=NO_RULE),
        "ACK without a flow where a SYN may": Case(packets=(tcp_6("A", 21, 8080),), reason=None),
        "SYN and ACK without a flow": Case(packets=(tcp_6("SA", 22),), reason=NO_RULE),
        "RST without a flow": Case(packets=(tcp_6("R", 23),), reason=NO_RULE),
        "SYN in the middle": Case(
            packets=(tcp_6("S", 24, 8080), tcp_6("A", 24, 8080), tcp_6("S", 24, 8080)),
            reason=None,
        ),
        "an answer to a SYN": Case(
            sent=(OUT_SYN_6,), packets=(tcp_6("SA", 7000, 5001),), reason=None
        ),
        "a SYN in answer to a SYN": Case(
            sent=(OUT_SYN_6,), packets=(tcp_6("S", 7000, 5001),), reason=NO_RULE
        ),
        "an error about what was sent": Case(sent=(OUT_6,), packets=(error_6(OUT_6),), reason=None),
        "a packet that is too big": Case(
            sent=(OUT_6,), packets=(error_6(OUT_6, kind=2),), reason=None
        ),
        "an error about what was never sent": Case(
            sent=(OUT_6,), packets=(error_6(p.udp(BOB_6, ALICE_6, 5002, 53)),), reason=NO_RULE
        ),
        "an error about a flow with somebody else": Case(
            sent=(OUT_6,), packets=(error_6(p.udp(BOB_6, STRANGER_6, 5000, 53)),), reason=NO_RULE
        ),
        "an error about what was sent, from nobody": Case(
            sent=(OUT_6,),
            packets=(error_6(OUT_6, STRANGER_6),),
            reason="unknown_source",
            identity="unknown",
        ),
        "an error that quotes too little": Case(
            sent=(OUT_6,), packets=(error_6(OUT_6[:47]),), reason=NO_RULE
        ),
        "a redirect about what was sent": Case(
            sent=(OUT_6,), packets=(error_6(OUT_6, kind=137),), reason=NO_RULE
        ),
    }.items()
}


def send(node: Node, packets: tuple[bytes, ...], *, bypass: bool) -> None:
    """Onto wg0; BYPASS: behind this node's own program."""
    node.output(sys.executable, "-c", SEND, str(int(bypass)), *(x.hex() for x in packets))


# What bob's own kernel says to all routers on wg0, whenever it likes: to nobody.
OF_ITSELF = 'zt_drops_total{hook="egress",identity="bob",reason="unknown_destination"}'


def drops(metrics: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if k.startswith("zt_drops_total") and k != OF_ITSELF}


def passed(metrics: dict[str, float], direction: str = "in") -> float:
    """Packets that went on: in, out of the tunnel; out, into it."""
    return sum(
        value
        for name, value in metrics.items()
        if name.startswith("zt_packets_total") and f'direction="{direction}"' in name
    )


@dataclass
class Ends:
    """The two nodes, and what bob's agent logs, line by line into a file."""

    alice: Node
    bob: Node
    log: Path
    _port: int = 40000

    @property
    def hook(self) -> str:
        """Where bob judges what is thrown."""
        return "ingress"

    def put(self, packets: tuple[bytes, ...]) -> None:
        """PACKETS go their way to bob."""
        send(self.alice, packets, bypass=True)

    def control(self, port: int) -> bytes:
        """A harmless packet from PORT."""
        return p.udp(ALICE, BOB, port, 8080)

    def passed(self) -> float:
        """How many packets bob let on that came this way."""
        return passed(self.bob.metrics())

    def throw(self, packets: tuple[bytes, ...]) -> None:
        """PACKETS, and a harmless one behind them, until bob has counted that."""
        self._port += 1
        before = self.passed()
        self.put((*packets, self.control(self._port)))
        wait_for(partial(self.logged, source_port=self._port), 10, "the control is logged")
        assert self.passed() > before

    def is_seen(self) -> bool:
        """Does what is thrown show in the log?"""
        self._port += 1
        self.put((self.control(self._port),))
        return bool(self.logged(source_port=self._port))

    def logged(self, **fields: Any) -> list[dict[str, Any]]:
        lines = self.log.read_text().split("\n")[:-1]
        return [event for event in map(json.loads, lines) if event | fields == event]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    alice, bob = pair(tmp_path_factory.mktemp("hostile"))
    wide = config(bob, alice, RULES)
    # As an operator would who trusts one peer with everything: then only the programs are left.
    wide["peers"][0]["allowed_ips"] = [
        "10.77.0.0/24", "10.88.0.0/24", "fd77::/64", "fd88::/64",
    ]  # fmt: skip
    with namespaces(alice, bob):
        cable(alice, bob)
        alice.settings["authz_mode"] = "observe"
        alice.start_agent(config(alice, bob), wait=False)
        bob.start_agent(wide, wait=False)
        for node in (alice, bob):
            node.wait_ready()
            wait_for(partial(has_shaken_hands, node), 10, "a handshake")
        alice.output("nft", QUIET)  # answers would be packets of their own
        both = Ends(alice, bob, bob.directory / "events")
        with watching(both):
            yield both


@contextmanager
def watching(ends: Ends) -> Iterator[None]:
    """What bob's agent logs goes into the file while the block runs."""
    with ends.log.open("wb") as file:
        program = ends.bob.command(str(BIN / "zt-agent"), "observe", "--json")
        watcher = subprocess.Popen(program, stdout=file)
    try:
        # Until the subscription stands nothing is seen.
        wait_for(ends.is_seen, 15, "the log of events")
        yield
    finally:
        watcher.kill()
        watcher.wait()


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_packet_is_dropped_counted_and_logged_for_what_it_is(
    ends: Ends, name: str
) -> None:
    case = CASES[name]
    if case.sent:
        send(ends.bob, case.sent, bypass=False)
    require_its_fate(ends, case)


def require_its_fate(ends: Ends, case: Case) -> None:
    """CASE is thrown, and what became of it is counted and logged."""
    before, passed_before = ends.bob.metrics(), ends.passed()
    logged = len(ends.logged(verdict=case.reason))

    ends.throw(case.packets)

    now = ends.bob.metrics()
    labels = f'hook="{ends.hook}",identity="{case.identity}",reason="{case.reason}"'
    expected = drops(before)
    if case.reason is not None:
        key = f"zt_drops_total{{{labels}}}"
        expected[key] = expected.get(key, 0) + 1
    assert drops(now) == expected
    through = len(case.packets) - (case.reason is not None)
    assert ends.passed() == passed_before + through + 1
    if case.reason is not None:
        (event,) = ends.logged(verdict=case.reason)[logged:]
        assert event["source_identity"] == case.identity
        assert event["hook"] == ends.hook


def test_a_length_that_is_a_lie_does_not_get_out_of_wireguard_itself(ends: Ends) -> None:
    before = ends.bob.metrics()
    longer = v4(datagram(30), 17, len=200)
    ends.throw((longer,))
    now = ends.bob.metrics()
    assert drops(now) == drops(before) and passed(now) == passed(before) + 1


def test_in_observe_all_of_them_get_through(ends: Ends) -> None:
    packets = tuple(packet for case in CASES.values() for packet in case.packets)
    ends.bob.zt("set", "authz-mode", "observe")
    try:
        before = ends.bob.metrics()
        ends.throw(packets)
        now = ends.bob.metrics()
    finally:
        ends.bob.zt("set", "authz-mode", "enforce")
    assert drops(now) == drops(before)
    assert passed(now) == passed(before) + len(packets) + 1
