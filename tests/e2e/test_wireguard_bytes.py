"""Bytes as our programs count them, and as WireGuard does: apart by what its messages add.

A data message (WireGuard's paper, 5.4.6) is 16 bytes of header, the packet padded to a multiple of
16 but not beyond the interface's MTU, and 16 bytes of authentication. A keepalive is one without a
packet, so 32 bytes. What begins a session is 148 bytes, the answer to it 92.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pytest

from tests.e2e.nodes import Node, wait_for
from tests.e2e.test_agent_standalone import BOB, BOB_6
from tests.e2e.test_wireguard_gso import MTU, RULES, Running, counted
from tests.e2e.tunnels import quiet_tunnel

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

AROUND, KEEPALIVE, PADDING = 32, 32, 15  # bytes; the last at most
HANDSHAKE = {"1": 148, "2": 92}  # type of message to bytes
BLOCKS = 64  # of 64 KiB
ATTEMPTS = 5
IP_HEADER = {BOB: 20, BOB_6: 40}
SIZES = range(0, 1372, 7)  # 7 and 16 have no divisor in common: every padding occurs

TCP_RECEIVER = """
import json, socket
family = socket.AF_INET6 if ":" in ADDRESS else socket.AF_INET
with socket.create_server((ADDRESS, 8080), family=family) as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
    print("ready", flush=True)
    connection, _ = listener.accept()
    count = 0
    while data := connection.recv(1 << 16):
        count += len(data)
    connection.close()
print(json.dumps(count), flush=True)
"""
TCP_SENDER = """
import json, socket
with socket.create_connection((ADDRESS, 8080), 10) as s:
    s.settimeout(3 * PATIENCE)
    # No more on its way than any queue holds, behind our programs as well.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
    for _ in range(BLOCKS):
        s.sendall(b"x" * (1 << 16))
    s.shutdown(socket.SHUT_WR)
    assert s.recv(1) == b""  # the other end has read all, and closed
print(json.dumps(0), flush=True)
"""
UDP_ECHO = """
import json, socket
with socket.socket(socket.AF_INET6 if ":" in ADDRESS else socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind((ADDRESS, 8080))
    s.settimeout(PATIENCE)
    print("ready", flush=True)
    for _ in range(COUNT):
        s.sendto(*s.recvfrom(1 << 16))
print(json.dumps(COUNT), flush=True)
"""
UDP_SENDER = """
import json, socket
with socket.socket(socket.AF_INET6 if ":" in ADDRESS else socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(PATIENCE)
    s.connect((ADDRESS, 8080))
    for size in SIZES:
        s.send(b"x" * size)
        assert len(s.recv(1 << 16)) == size
print(json.dumps(0), flush=True)
"""
# WireGuard's messages on the cable, by direction and type; "keepalive" for one without a packet.
WATCHER = """
import collections, json, select, socket, struct, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # ETH_P_ALL
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
s.bind(("to-bob", 3))
s.setblocking(False)
print("ready", flush=True)
seen = {"tx": collections.Counter(), "rx": collections.Counter()}
octets = {"tx": 0, "rx": 0}
head = bytearray(29)
def take():
    while True:
        try:
            _, (_, protocol, kind, *_) = s.recvfrom_into(head)
        except BlockingIOError:
            return
        if protocol != 0x0800:
            continue  # ARP, and what IPv6 says to its neighbours
        assert head[9] == 17 and head[20:24] == struct.pack("!HH", 51820, 51820)
        size = int.from_bytes(head[24:26], "big") - 8
        way = "tx" if kind == 4 else "rx"  # PACKET_OUTGOING
        octets[way] += size
        seen[way]["keepalive" if head[28] == 4 and size == 32 else str(head[28])] += 1
while True:
    ready, _, _ = select.select([s, sys.stdin], [], [])
    take()
    if sys.stdin in ready:
        break
_, lost = struct.unpack("=II", s.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
print(json.dumps({"seen": seen, "octets": octets, "lost": lost}), flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What one end counted one way while something passed.

    packets, size  our programs: packets, and bytes from the IP header on
    encrypted      WireGuard: bytes of data messages that hold a packet
    """

    packets: int
    size: int
    encrypted: int

    @property
    def added(self) -> int:
        """Bytes that are WireGuard's own."""
        return self.encrypted - self.size


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    """alice and bob without keepalives that come by the clock."""
    with quiet_tunnel(tmp_path_factory.mktemp("nodes"), RULES) as both:
        yield both


def transferred(node: Node) -> dict[str, int]:
    """What WireGuard received from the one peer and sent to it, in bytes of its messages."""
    _, received, sent = node.output("wg", "show", "wg0", "transfer").split()
    return {"rx": int(received), "tx": int(sent)}


class LossyError(AssertionError):
    """The ends cannot have counted the same: a busy wireguard-go's queues ran over, or a keepalive
    came while they were read."""


class Passage:
    """What both ends counted, both ways, while the block ran."""

    def __init__(self, alice: Node, bob: Node) -> None:
        self._ends = {"alice": (alice, "bob"), "bob": (bob, "alice")}

    def _now(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        found = {}
        for name, (node, other) in self._ends.items():
            of_wireguard = transferred(node)
            for direction, way in (("out", "tx"), ("in", "rx")):
                packets, size = counted(node, direction, other)
                found[name, way] = packets, size, of_wireguard[way]
        return found

    def _at_rest(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        """As it is once nothing is on its way any more."""
        last = self._now()

        def has_settled() -> bool:
            nonlocal last
            before, last = last, self._now()
            return last == before

        wait_for(has_settled, 10, "nothing passes any more")
        return last

    def __enter__(self) -> Passage:
        alice, _ = self._ends["alice"]
        while True:
            self._before = self._at_rest()
            self._watcher = Running(alice, WATCHER).ready()
            if self._now() == self._before:  # or a keepalive came in between: who knows who saw it
                return self
            self._watcher.stop()

    def __exit__(self, *failure: object) -> None:
        try:
            if failure[0] is None:
                self._settle()
        finally:
            self._watcher.stop()

    def _settle(self) -> None:
        after = self._at_rest()
        found = self._watcher.result()
        assert found["lost"] == 0
        self.sums: dict[tuple[str, str], Sum] = {}
        for end, now in after.items():
            name, way = end
            packets, size, whole = (b - a for a, b in zip(self._before[end], now, strict=True))
            on_cable = way if name == "alice" else {"tx": "rx", "rx": "tx"}[way]
            if whole != found["octets"][on_cable]:
                there = found["octets"][on_cable]
                raise LossyError(f"{name} counts {whole} bytes {way}, the cable {there}")
            seen = found["seen"][on_cable]
            assert seen.keys() <= {"1", "2", "4", "keepalive"}
            of_its_own = KEEPALIVE * seen.get("keepalive", 0)
            of_its_own += sum(size * seen.get(kind, 0) for kind, size in HANDSHAKE.items())
            self.sums[end] = Sum(packets=packets, size=size, encrypted=whole - of_its_own)


def moved_by_tcp(nodes: tuple[Node, Node], address: str) -> Passage:
    """What was counted while BLOCKS went to ADDRESS."""
    place = f"ADDRESS = {address!r}\n"
    receiver = Running(nodes[1], place + TCP_RECEIVER).ready()
    try:
        with Passage(*nodes) as passage:
            Running(nodes[0], place + TCP_SENDER, BLOCKS=BLOCKS).result()
            assert receiver.result() == BLOCKS << 16
    finally:
        receiver.stop()
    return passage


def moved_by_udp(nodes: tuple[Node, Node], address: str) -> Passage:
    """What was counted while a datagram of each of SIZES went to ADDRESS and came back."""
    place = f"ADDRESS = {address!r}\n"
    echo = Running(nodes[1], place + UDP_ECHO, COUNT=len(SIZES)).ready()
    try:
        with Passage(*nodes) as passage:
            sizes = f"SIZES = range({SIZES.start}, {SIZES.stop}, {SIZES.step})\n"
            Running(nodes[0], place + sizes + UDP_SENDER).result()
            assert echo.result() == len(SIZES)
    finally:
        echo.stop()
    return passage


def undisturbed(measure: Callable[[], Passage]) -> Passage:
    """The first passage in which nothing was lost and nothing else passed."""
    for _ in range(ATTEMPTS - 1):
        with suppress(LossyError):
            return measure()
    return measure()


@pytest.mark.parametrize("address", [BOB, BOB_6])
def test_what_tcp_moves_differs_from_wireguards_count_by_its_headers_and_padding_alone(
    nodes: tuple[Node, Node], address: str
) -> None:
    passage = undisturbed(partial(moved_by_tcp, nodes, address))
    assert passage.sums["alice", "tx"].size > BLOCKS << 16
    for end, found in passage.sums.items():
        print(f"{end}: {found}, {found.added / found.packets:.2f} bytes a packet")
        assert found.packets > 0
        assert AROUND * found.packets <= found.added <= (AROUND + PADDING) * found.packets


@pytest.mark.parametrize("address", [BOB, BOB_6])
def test_datagrams_of_every_padding_reconcile_to_the_byte(
    nodes: tuple[Node, Node], address: str
) -> None:
    passage = undisturbed(partial(moved_by_udp, nodes, address))
    packets = [IP_HEADER[address] + 8 + size for size in SIZES]
    padded = [min((size + PADDING) & ~PADDING, MTU) for size in packets]
    assert {b - a for a, b in zip(packets, padded, strict=True)} == set(range(16))
    whole = sum(padded) + AROUND * len(packets)
    expected = Sum(packets=len(packets), size=sum(packets), encrypted=whole)
    assert passage.sums == dict.fromkeys(passage.sums, expected)
