"""Super-packets through the tunnel: counted as the packets they are, to the last one and its bytes.

The kernel's WireGuard takes a packet of up to 64 KiB from TCP, or from UDP with UDP_SEGMENT, and
cuts it after our program has seen it; at the other end it joins what arrives before our program
sees it. wireguard-go's tun of this age does neither: there the same numbers hold packet by packet.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.nodes import Node
from tests.e2e.tunnels import quiet_tunnel
from ztlab.lab.pace import scaled

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.wireguard]

MTU = 1420
ATTEMPTS = 5
RULES: list[dict[str, Any]] = [
    {"id": "tcp", "from": "alice", "to": "bob", "proto": "tcp", "ports": [8080], "action": "allow"},
    {"id": "udp", "from": "alice", "to": "bob", "proto": "udp", "ports": [8080], "action": "allow"},
    {"id": "ping", "from": "*", "to": "*", "proto": "icmp", "action": "allow"},
]

# All of them print a JSON line at their end.
TCP_RECEIVER = """
import json, socket
with socket.create_server(("10.77.0.3", 8080)) as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
    print("ready", flush=True)
    connection, _ = listener.accept()
    count = 0
    while data := connection.recv(1 << 16):
        count += len(data)
    connection.close()
print(json.dumps({"received": count}), flush=True)
"""
# struct tcp_info (linux/tcp.h): total_retrans at 100, segs_out at 136, bytes_sent at 200.
TCP_SENDER = """
import json, socket, struct
with socket.create_connection(("10.77.0.3", 8080), 10) as s:
    s.settimeout(3 * PATIENCE)
    # No more on its way than any queue holds: then nothing is lost, and both ends count the same.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
    block = b"x" * (1 << 16)
    for _ in range(BLOCKS):
        s.sendall(block)
    s.shutdown(socket.SHUT_WR)
    assert s.recv(1) == b""  # the other end has read all, and closed
    info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
retransmitted, = struct.unpack_from("=I", info, 100)
segments, = struct.unpack_from("=I", info, 136)
payload, = struct.unpack_from("=Q", info, 200)
found = {"retransmitted": retransmitted, "segments": segments, "payload": payload}
print(json.dumps(found), flush=True)
"""
UDP_RECEIVER = """
import json, socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    s.setsockopt(socket.IPPROTO_UDP, 104, 1)  # UDP_GRO: takes joined ones too
    s.bind(("10.77.0.3", 8080))
    print("ready", flush=True)
    s.settimeout(PATIENCE)
    count = 0
    while count < TOTAL:
        data, sender = s.recvfrom(1 << 16)
        count += len(data)
        if count % BATCH == 0:
            s.sendto(b"more", sender)
print(json.dumps({"received": count}), flush=True)
"""
UDP_SENDER = """
import json, socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(PATIENCE)
    s.setsockopt(socket.IPPROTO_UDP, 103, SIZE)  # UDP_SEGMENT
    s.connect(("10.77.0.3", 8080))
    for _ in range(BATCHES):
        s.send(b"x" * BATCH)
        assert s.recv(100) == b"more"  # so no queue runs over
print(json.dumps({}), flush=True)
"""
# Every packet that passes wg0, as tcpdump sees it: after GRO on the way in, before GSO on its way
# out. PACKET_STATISTICS says whether it missed any.
WATCHER = """
import json, select, socket, struct, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # ETH_P_ALL
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
s.bind(("wg0", 3))
s.setblocking(False)
print("ready", flush=True)
seen = {"in": [], "out": []}
def take():
    while True:
        try:
            length, (_, _, kind, *_) = s.recvfrom_into(one, 0, socket.MSG_TRUNC)
        except BlockingIOError:
            return
        seen["out" if kind == 4 else "in"].append(length)  # PACKET_OUTGOING
one = bytearray(1)
while True:
    ready, _, _ = select.select([s, sys.stdin], [], [])
    take()
    if sys.stdin in ready:
        break
_, lost = struct.unpack("=II", s.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
print(json.dumps(seen | {"lost": lost}), flush=True)
"""


# On one CPU each packet is handed on as soon as it is decrypted, and none is joined to the next,
# unless the device waits a little for more of them (a sysfs of this network namespace says how).
HOLD = "mount -t sysfs sysfs /sys && echo 5000000 > /sys/class/net/wg0/gro_flush_timeout"


class Running:
    """A Python program in a node, which says when it is ready and, at its end, what it found.

    PATIENCE, in it, is how many seconds a datagram may be under way.
    """

    def __init__(self, node: Node, program: str, **values: int) -> None:
        given = {"PATIENCE": scaled(20), **values}
        text = "".join(f"{name} = {value}\n" for name, value in given.items()) + program
        self._process = subprocess.Popen(
            node.command(sys.executable, "-c", text),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> Running:
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"
        return self

    def result(self) -> Any:
        said, _ = self._process.communicate("end\n", timeout=scaled(120))
        assert self._process.returncode == 0
        return json.loads(said)

    def stop(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    """alice and bob without keepalives: whatever passes is what the test sends."""
    with quiet_tunnel(tmp_path_factory.mktemp("nodes"), RULES) as (alice, bob):
        if bob.status()["wireguard"] == "kernel":
            bob.output("unshare", "--mount", "sh", "-c", HOLD)
        yield alice, bob


def counted(node: Node, direction: str, identity: str) -> tuple[int, int]:
    """Packets and bytes that NODE's programs let through, whatever the verdict."""
    found = node.metrics()
    assert found["zt_uncounted_packets_total"] == 0

    def total(metric: str) -> int:
        begin = f'{metric}{{direction="{direction}",identity="{identity}",'
        return sum(int(value) for name, value in found.items() if name.startswith(begin))

    return total("zt_packets_total"), total("zt_bytes_total")


def encrypted(node: Node, direction: str) -> int:
    """wg0's own count, of packets as they are in the tunnel; DIRECTION: tx or rx."""
    (link,) = json.loads(node.output("ip", "-s", "-j", "link", "show", "wg0"))
    return int(link["stats64"][direction]["packets"])


class Passage:
    """What was counted at both ends, and seen on both wg0, while the block ran."""

    def __init__(self, alice: Node, bob: Node) -> None:
        self._nodes = alice, bob

    def _now(self) -> dict[str, tuple[int, int]]:
        alice, bob = self._nodes
        return {
            "alice out": counted(alice, "out", "bob"),
            "bob in": counted(bob, "in", "alice"),
            "bob out": counted(bob, "out", "alice"),
            "alice in": counted(alice, "in", "bob"),
            "alice wg0": (encrypted(alice, "tx"), 0),
            "bob wg0": (encrypted(bob, "rx"), 0),
        }

    def __enter__(self) -> Passage:
        self._before = self._now()
        self._watchers = [Running(node, WATCHER).ready() for node in self._nodes]
        return self

    def __exit__(self, *failure: object) -> None:
        try:
            if failure[0] is None:
                self._settle()
        finally:
            for watcher in self._watchers:
                watcher.stop()

    def _settle(self) -> None:
        after = self._now()
        self.counted = {
            name: (packets - self._before[name][0], size - self._before[name][1])
            for name, (packets, size) in after.items()
        }
        sender, receiver = (watcher.result() for watcher in self._watchers)
        assert sender["lost"] == receiver["lost"] == 0
        self.left, self.arrived = sender["out"], receiver["in"]

    def check_super_packets(self, kind: str) -> None:
        """The kernel's WireGuard had some at both ends; wireguard-go has none."""
        for lengths, where in ((self.left, "alice out"), (self.arrived, "bob in")):
            packets, _ = self.counted[where]
            print(f"{where}: {packets} packets in {len(lengths)}, the longest {max(lengths)} bytes")
            if kind == "kernel":
                assert max(lengths) > 4 * MTU and len(lengths) < packets
            else:
                assert max(lengths) <= MTU and len(lengths) == packets


def transfer(alice: Node, bob: Node, *, blocks: int) -> tuple[Passage, dict[str, int]]:
    """BLOCKS of 64 KiB by TCP; what was counted meanwhile, and what the sender's TCP says."""
    receiver = Running(bob, TCP_RECEIVER).ready()
    try:
        with Passage(alice, bob) as passage:
            sent: dict[str, int] = Running(alice, TCP_SENDER, BLOCKS=blocks).result()
            assert receiver.result() == {"received": blocks << 16}
    finally:
        receiver.stop()
    return passage, sent


def test_a_bulk_transfer_counts_as_the_segments_that_tcp_sent(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    for _ in range(ATTEMPTS):
        passage, sent = transfer(alice, bob, blocks=256)
        if not sent["retransmitted"]:
            break
    # A busy wireguard-go's queues run over: then there is nothing that both ends count alike.
    assert not sent["retransmitted"], f"{ATTEMPTS} times something was lost on the way"
    # IPv4 and TCP with timestamps: 52 bytes each, and 8 more of options in the SYN.
    total = sent["payload"] + 52 * sent["segments"] + 8
    assert passage.counted["alice out"] == (sent["segments"], total)
    assert passage.counted["bob in"] == (sent["segments"], total)
    assert passage.counted["alice in"] == passage.counted["bob out"]
    assert passage.counted["alice wg0"][0] == passage.counted["bob wg0"][0] == sent["segments"]
    passage.check_super_packets(alice.status()["wireguard"])


def test_udp_that_leaves_in_one_piece_counts_as_its_datagrams(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    size, each, batches = 1200, 40, 50
    batch = size * each
    receiver = Running(bob, UDP_RECEIVER, TOTAL=batch * batches, BATCH=batch).ready()
    try:
        with Passage(alice, bob) as passage:
            Running(alice, UDP_SENDER, SIZE=size, BATCH=batch, BATCHES=batches).result()
            assert receiver.result() == {"received": batch * batches}
    finally:
        receiver.stop()
    datagrams = each * batches
    expected = (datagrams, datagrams * (20 + 8 + size))
    assert passage.counted["alice out"] == expected
    assert passage.counted["bob in"] == expected
    assert passage.counted["alice wg0"][0] == passage.counted["bob wg0"][0] == datagrams
    passage.check_super_packets(alice.status()["wireguard"])
    # And the answers of bob, one a batch:
    assert passage.counted["bob out"] == (batches, batches * (20 + 8 + len("more")))
