"""Stories for the differential test: two configurations and what happens under them, step by step.

Hypothesis draws the policies and a number for each step, which stands for some bytes (a gene). Zero
is nothing, so what hypothesis shrinks away leaves the rest of the story as it was. A story's steps
are concrete (packets are bytes): one that was kept stays what it was when the generator changes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2s
from ipaddress import ip_address
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.kernel import packets as p
from tests.kernel.truth import Way
from tests.unit.agent.datapath.configs import node_config
from ztlab.model import codec
from ztlab.model.config import NodeConfig
from ztlab.model.flow import ICMP, ICMPV6, TCP, UDP
from ztlab.model.policy import Policy
from ztlab.model.verdict import AuthzMode

GENE = 20
_NUMBER = 3  # bytes: a whole story must fit into the 8 KiB that hypothesis gives one example
FEW_FLOWS = 32  # room for so many, in a story that has little
STEPS = 480  # of which fewer than one in ten is no packet: each of two policies gets more than 200
NAMES = ("web", "api", "guest", "lan", "printer", "world")
SELECTORS = (*NAMES, "lan6", "staff", "outside", "web", "api", "staff", "*", "*", "*", "*")
PORTS = (8080, 53, 0, 1, 8079, 8081, 9000, 9999, 10000, 32768, 65535)
WAYS = (Way.TUNNEL,) * 9 + (Way.LOCAL,) * 4 + (Way.LAN,) * 5 + (Way.TRANSIT,)
_PEERS = (p.WEB, p.WEB, p.GUEST, p.STRANGER, p.LAN_HOST, p.ROUTER, p.API, p.WORLD_HOST)
_HERE = (p.API, p.API, p.LAN_HOST, p.PRINTER, p.WORLD_HOST, p.GUEST, p.STRANGER, p.WEB)
_SIX = {
    p.WEB: p.WEB6, p.GUEST: p.GUEST6, p.STRANGER: p.STRANGER6, p.LAN_HOST: p.LAN_HOST6,
    p.ROUTER: "fd99::1", p.API: p.API6, p.WORLD_HOST: p.WORLD_HOST6, p.PRINTER: "fd99:0:7::7",
}  # fmt: skip
_PROTOCOLS = (TCP,) * 6 + (UDP,) * 4 + (ICMP,) * 4 + (47, 132, ICMPV6, 0)
_FLAGS = (2, 2, 2, 0x12, 0x10, 0x18, 0x11, 0x14, 0x04, 0x01, 0x03, 0)
_OTHER_ICMP = (3, 4, 5, 11, 12, 13, 1, 2, 128, 133)
_ICMP_NAMES = ("echo-request", "echo-reply", "time-exceeded", "redirect", "packet-too-big")
_ELAPSED = (7, 14, 35, 182, 3605)  # no sum of them is within 2 s of a time-out
_EXTENSIONS = (0, 60, 43, 44, 60, 0, 51, 135)
_DATA = bytes(range(1, 241))


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens: a packet (way and bytes; number and size of the segments that a
    super-packet has), a mode, another of the story's configurations, or time going by (seconds)."""

    packet: tuple[Way, bytes] | None = None
    gso: tuple[int, int] = (0, 0)
    mode: AuthzMode | None = None
    apply: int | None = None
    elapse: int = 0

    def written(self) -> Any:
        """As it stands in a file of the corpus."""
        if self.packet is not None:
            return [
                self.packet[0].value,
                self.packet[1].hex(),
                *(self.gso if any(self.gso) else ()),
            ]
        if self.mode is not None:
            return self.mode.word
        return {"apply": self.apply} if self.apply is not None else {"elapse": self.elapse}

    @classmethod
    def parsed(cls, text: Any) -> Step:
        """The inverse of `written`."""
        if isinstance(text, list):
            gso = (text[2], text[3]) if len(text) > 2 else (0, 0)
            return cls(packet=(Way(text[0]), bytes.fromhex(text[1])), gso=gso)
        return cls(mode=AuthzMode[text.upper()]) if isinstance(text, str) else cls(**text)


@dataclass(frozen=True, slots=True)
class Setup:
    """A configuration: `policy` is YAML text, as a person writes it."""

    role: str
    without: tuple[str, ...]
    policy: str

    def config(self) -> NodeConfig:
        config = node_config(role=self.role, without=self.without)
        if self.role == "client":
            return config
        return replace(config, policy=codec.decode(Policy, yaml.safe_load(self.policy)))


@dataclass(frozen=True, slots=True)
class Story:
    """What a node is configured to, the first setup at once, and what happens to it.

    flows  how many it has room for; None: enough
    """

    setups: tuple[Setup, ...]
    steps: tuple[Step, ...]
    flows: int | None = None

    def written(self) -> str:
        """As a file of the corpus."""
        setups = [
            {"role": s.role, "without": list(s.without), "policy": s.policy} for s in self.setups
        ]
        steps = [step.written() for step in self.steps]
        room = {"flows": self.flows} if self.flows is not None else {}
        written = {"setups": setups, **room, "steps": steps}
        return yaml.safe_dump(written, width=100, sort_keys=False)

    @classmethod
    def parsed(cls, text: str) -> Story:
        """The inverse of `written`."""
        found = yaml.safe_load(text)
        setups = (Setup(s["role"], tuple(s["without"]), s["policy"]) for s in found["setups"])
        steps = tuple(Step.parsed(step) for step in found["steps"])
        return cls(tuple(setups), steps, found.get("flows"))


# --- policies ---


@st.composite
def _rules(draw: st.DrawFn, number: int) -> dict[str, Any]:
    proto = draw(st.sampled_from(("tcp", "any", "udp", "icmp", "any", 47, 6, 17, 132, 0, 58)))
    ports: list[int | str] = []
    if proto in ("tcp", "udp", 6, 17):
        for first, last in draw(st.lists(st.tuples(_ports, _ports), max_size=2)):
            low, high = sorted((first, last))
            ports.append(low if low == high else f"{low}-{high}")
    types: list[int | str] = []
    if proto in ("icmp", 58):
        known = (128, 129, 1, 0, 13) if proto == 58 else _ICMP_NAMES
        types = draw(st.lists(st.sampled_from(known), max_size=2, unique=True))
    rule = {
        "id": f"r{number}",
        "from": draw(st.sampled_from(SELECTORS)),
        "to": draw(st.sampled_from(SELECTORS)),
        "proto": proto,
        "action": draw(st.sampled_from(("allow", "deny"))),
    }
    return rule | ({"ports": ports} if ports else {}) | ({"icmp_types": types} if types else {})


_ports = st.sampled_from(PORTS)
# From one behind which nearly nothing comes through to one that the player never reaches.
_quotas = st.fixed_dictionaries(
    {
        "identity": st.sampled_from(("web", "guest", "web", "lan", "web", "printer")),
        "rate": st.sampled_from(("500kbit", "1kbit", "2mbit", "1gbit")),
        "burst": st.sampled_from(("1500B", "2kB", "8kB")),
    }
)
_members = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    policy = {
        "default": draw(st.sampled_from(("deny", "allow"))),
        "groups": {"staff": draw(_members), "outside": draw(_members)},
        "rules": [draw(_rules(i)) for i in range(draw(st.integers(0, 9)))],
        "quotas": draw(st.lists(_quotas, max_size=3, unique_by=lambda quota: quota["identity"])),
    }
    return Setup(
        draw(st.sampled_from(("mesh",) * 7 + ("client",))),
        draw(st.sampled_from(((), (), (), ("guest",), ("web",)))),
        yaml.safe_dump(policy, sort_keys=False),
    )


@st.composite
def stories(draw: st.DrawFn, flows: tuple[int | None, ...] = (None,), steps: int = STEPS) -> Story:
    """Each with room for one of FLOWS."""
    numbers = draw(st.binary(min_size=_NUMBER * steps, max_size=_NUMBER * steps))
    both = draw(setups()), draw(setups())
    genes = (numbers[i : i + _NUMBER] for i in range(0, len(numbers), _NUMBER))
    written = tuple(_steps([_gene(number) for number in genes if any(number)]))
    return Story(both, written, draw(st.sampled_from(flows)))


def _gene(number: bytes) -> bytes:
    return blake2s(number, digest_size=GENE).digest()


# --- packets ---


@dataclass(frozen=True, slots=True)
class Sent:
    """A packet before it is written out. `ports` are an echo's (identifier, 0)."""

    way: Way
    source: bytes
    destination: bytes
    protocol: int
    ports: tuple[int, int]
    flags: int = 2
    icmp: int = 8

    @property
    def is_ipv4(self) -> bool:
        return len(self.source) == 4

    def reversed(self, flags: int) -> Sent:
        """The answer, out of where the packet went to."""
        ways = {Way.TUNNEL: Way.LOCAL, Way.LOCAL: Way.TUNNEL, Way.LAN: Way.TUNNEL}
        reply = {8: 0, 128: 129, 0: 8, 129: 128}
        way = ways.get(self.way, Way.TUNNEL)
        if way is Way.LOCAL and flags & 1:  # a gateway: the answer comes from behind it
            way = Way.LAN
        is_icmp = self.protocol in (ICMP, ICMPV6)
        return replace(
            self, way=way, source=self.destination, destination=self.source,
            ports=self.ports if is_icmp else (self.ports[1], self.ports[0]),
            icmp=reply.get(self.icmp, self.icmp), flags=_FLAGS[flags % len(_FLAGS)],
        )  # fmt: skip

    def transport(self, data: bytes) -> bytes:
        """What is behind the IP header."""
        if self.protocol == TCP:
            head = struct.pack("!HHIIBBHHH", *self.ports, 1, 2, 0x50, self.flags, 9000, 0, 0)
        elif self.protocol == UDP:
            head = struct.pack("!HHHH", *self.ports, 8 + len(data), 0)
        elif self.protocol in (ICMP, ICMPV6):
            head = struct.pack("!BBHHH", self.icmp, 0, 0, self.ports[0], 1)
        else:
            head = b""
        return head + data

    def written(self, data: bytes) -> bytes:
        return self.around(self.transport(data))

    def around(
        self, payload: bytes, *, fragment: int = 0, id: int = 1, protocol: int | None = None
    ) -> bytes:
        """PAYLOAD behind an IP header. FRAGMENT is IPv4's word of flags and offset."""
        number = self.protocol if protocol is None else protocol
        if self.is_ipv4:
            header = struct.pack(
                "!BBHHHBBH", 0x45, 0, 20 + len(payload), id, fragment, 64, number, 0
            )
        else:
            header = struct.pack("!IHBB", 6 << 28, len(payload), number, 64)
        return header + self.source + self.destination + payload


@dataclass(slots=True)
class _Writer:
    """Turns genes into steps; remembers what was sent, since much refers to it."""

    sent: list[Sent] = field(default_factory=list)
    pieces: list[tuple[Sent, int, int]] = field(default_factory=list)  # packet, id, next offset

    def packet(self, g: bytes) -> tuple[Way, bytes]:
        what = g[1]
        if what < 16 and what:
            return WAYS[g[2] % len(WAYS)], g[3 : 4 + g[15] % 13]  # whatever
        if what < 128 or not self.sent:
            packet = _fresh(g)
        else:
            packet = self.sent[-1 - g[12] % min(len(self.sent), 16)]
            if what < 176:
                packet = packet.reversed(g[8])
            elif what < 192:
                packet = replace(packet, flags=_FLAGS[g[8] % len(_FLAGS)])
        if what >= 224:
            return self._piece(g, packet)
        if what >= 192:
            return self._error(g, packet)
        self.sent.append(packet)
        data = _DATA[: g[15] % 24]
        return packet.way, _mutated(g, packet, packet.written(data))

    def hanging_up(self, g: bytes) -> Iterator[Step]:
        """A TCP connection that one end or both finish, some time, and one packet more."""
        syn = _fresh(g) if g[1] % 2 else self.sent[-1 - g[12] % len(self.sent)]
        syn = replace(syn, protocol=TCP, flags=2)
        answer = syn.reversed(g[14])
        ends = [syn, replace(answer, flags=0x11), replace(syn, flags=0x11)]
        for packet in ends[: 2 + g[13] % 2]:
            yield Step(packet=(packet.way, packet.written(b"")))
        yield Step(elapse=_ELAPSED[g[15] % 3])
        last = replace((syn, answer)[g[11] % 2], flags=_FLAGS[g[8] % len(_FLAGS)])
        yield Step(packet=(last.way, last.written(b"")))

    def flooding(self, g: bytes) -> Iterator[Step]:
        """Big packets of one conversation out of the tunnel, one behind the other."""
        packet = replace(self.sent[-1 - g[12] % len(self.sent)], way=Way.TUNNEL)
        if g[1] % 8:
            source, destination = (p.WEB, p.WEB, p.GUEST)[g[3] % 3], p.API
            packet = replace(packet, source=_ADDRESSES[source, packet.is_ipv4],
                             destination=_ADDRESSES[destination, packet.is_ipv4])  # fmt: skip
        step = Step(packet=(packet.way, packet.written(_DATA * (1 + g[4] % 6))), gso=_segments(g))
        yield from (step for _ in range(4 + g[5] % 8))

    def scattered(self, g: bytes) -> Iterator[Step]:
        """Pieces of one packet in any order, with holes between them."""
        packet = self.sent[-1 - g[12] % len(self.sent)]
        first = bytes((0, 0, 0, 0, g[4], 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0))
        yield Step(packet=self._piece(first, packet))
        for place in g[5:12]:
            later = bytes((0, 0, 0, 1, 0, 0, place, 1, 0, 0, 0, 0, 0, 3, place // 24, 0))
            yield Step(packet=self._piece(later, packet))

    def _error(self, g: bytes, quoted: Sent) -> tuple[Way, bytes]:
        """An ICMP error about a packet, from its receiver, a router or somebody else."""
        quote = quoted.written(_DATA[:16])
        answer = quoted.reversed(g[8])
        if g[3] % 4 == 0:
            router = _address(_PEERS[g[4] % len(_PEERS)], quoted.is_ipv4)
            answer = replace(answer, source=router)
        if g[5] % 8 == 0:
            answer = replace(answer, destination=quoted.destination)
        kinds = (3, 11, 12, 4) if quoted.is_ipv4 else (2, 1, 3, 4)
        number = ICMP if quoted.is_ipv4 else ICMPV6
        if g[6] % 8 == 0:
            quote = bytes(_poked(quote, g[10], g[11]))
        header = 20 if quoted.is_ipv4 else 40
        length = len(quote) if g[7] % 2 else header + g[7] % 16
        message = bytes((kinds[g[13] % 4], 0)) + bytes(6) + quote[:length]
        packet = replace(answer, protocol=number, icmp=kinds[g[13] % 4])
        return packet.way, _mutated(g, packet, packet.around(message))

    def _piece(self, g: bytes, packet: Sent) -> tuple[Way, bytes]:
        """A fragment: of a new packet, or one more of an earlier one."""
        if g[3] % 4 == 0 or not self.pieces:
            begun = (packet, g[4] % 4, 0)
        else:
            begun = self.pieces.pop(-1 - g[12] % min(len(self.pieces), 3))
        packet, id, at = begun
        length = (24, 32, 40, 8, 64)[g[13] % 5]
        if at and g[5] % 4 == 0:
            at = g[6] % 24 * 8
        is_last = at > 0 and g[14] % 4 == 0
        data = (packet.transport(_DATA) + _DATA)[at : at + length - (3 if is_last else 0)]
        self.pieces.append((packet, id, at + length + (8 if g[7] % 8 == 0 else 0)))
        more = not is_last
        if packet.is_ipv4:
            whole = packet.around(data, fragment=at // 8 | more << 13, id=id)
        else:
            header = struct.pack("!BBHI", packet.protocol, 0, at | more, id)
            whole = packet.around(header + data, protocol=44)
        return packet.way, _mutated(g, packet, whole)


def _steps(genes: list[bytes]) -> Iterator[Step]:
    writer, current = _Writer(), 0
    for g in genes:
        what = g[0]
        if what == 0:
            continue
        if what < 4:
            yield Step(mode=AuthzMode.OBSERVE)
        elif what < 16:
            yield Step(mode=AuthzMode.ENFORCE)
        elif what == 16:
            current = 1 - current
            yield Step(apply=current)
        elif what < 22:
            yield Step(elapse=_ELAPSED[g[1] % len(_ELAPSED)])
        elif what < 25 and writer.sent:
            yield from writer.hanging_up(g)
        elif what < 28 and writer.sent:
            yield from writer.scattered(g)
        elif what < 38 and writer.sent:
            yield from writer.flooding(g)
        else:
            way, packet = writer.packet(g)
            gso = _segments(g)
            if gso[1] and g[19] < 48:
                packet = _without_length(packet)
            yield Step(packet=(way, packet), gso=gso)


def _segments(g: bytes) -> tuple[int, int]:
    """Number and size of a super-packet's segments, of which a tun device says the size alone."""
    if g[16] >= 32:
        return 0, 0
    return (0, 2, 5, 44, 0, 64)[g[17] % 6], (8, 1, 13, 1400)[g[18] % 4]


def _without_length(packet: bytes) -> bytes:
    """As one that is longer than its header can say."""
    at = 2 if packet[0] >> 4 == 4 else 4
    return packet[:at] + b"\0\0"[: len(packet) - at] + packet[at + 2 :]


def _address(text: str, is_ipv4: bool) -> bytes:
    return ip_address(text if is_ipv4 else _SIX[text]).packed


_ADDRESSES = {
    (text, is_ipv4): _address(text, is_ipv4) for text in _SIX for is_ipv4 in (True, False)
}


def _fresh(g: bytes) -> Sent:
    way = WAYS[g[2] % len(WAYS)]
    is_ipv4 = g[5] & 1 == 0
    source, destination = _PEERS[g[3] % 8], _HERE[g[4] % 8]
    if way is Way.LOCAL:
        source, destination = p.API, _PEERS[g[4] % 8]
    elif way is Way.LAN:
        source, destination = _HERE[g[3] % 8], _PEERS[g[4] % 8]
    protocol = _PROTOCOLS[(g[5] >> 1) % len(_PROTOCOLS)]
    icmp = 8
    if protocol == ICMP:
        protocol, icmp = (ICMP, 8) if is_ipv4 else (ICMPV6, 128)
        if g[8] % 4 == 3:
            icmp = _OTHER_ICMP[g[9] % len(_OTHER_ICMP)]
    elif protocol == 0:
        protocol = g[9]
    port = PORTS[g[6] % len(PORTS)] if g[6] < 192 else g[6] << 8 | g[7]
    return Sent(
        way, _ADDRESSES[source, is_ipv4], _ADDRESSES[destination, is_ipv4], protocol,
        (1000 + g[7] % 3, port), _FLAGS[g[8] % len(_FLAGS)], icmp,
    )  # fmt: skip


def _mutated(g: bytes, packet: Sent, whole: bytes) -> bytes:
    """WHOLE as it is, or with something about its form that is odd or wrong."""
    how, at, value = g[9], g[10], g[11]
    if how < 176:
        return whole
    if how < 192:
        return whole[: 1 + at % len(whole)]
    if how < 204:
        return bytes(_poked(whole, at, value))
    if how < 212:
        return whole + _DATA[: 1 + at % 16]
    header = 20 if packet.is_ipv4 else 40
    if packet.is_ipv4:
        options = 4 * (1 + at % 10)
        total = struct.pack("!H", len(whole) + options)
        first = bytes((0x45 + options // 4,))
        return first + whole[1:2] + total + whole[4:20] + bytes((1,)) * options + whole[20:]
    chain, number = b"", whole[6]
    for i in range(1 + at % 8):
        kind = _EXTENSIONS[(value >> (i % 5)) % len(_EXTENSIONS)]
        body = struct.pack("!HI", 0, 7) if kind == 44 else bytes((4, value & 1 & at, 0, 0, 0, 0))
        chain = bytes((number, 0)) + body + chain
        number = kind
    length = struct.pack("!H", len(whole) - header + len(chain))
    return whole[:4] + length + bytes((number,)) + whole[7:40] + chain + whole[40:]


def _poked(data: bytes, at: int, value: int) -> bytearray:
    """DATA with one byte of its headers changed."""
    changed = bytearray(data)
    changed[at % min(len(data), 64)] = value
    return changed
