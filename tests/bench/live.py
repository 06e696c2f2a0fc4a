"""The same traffic through real interfaces: our program beside nftables doing a part of its work.

A generator sends packets out of one end of a veth pair; at the other end they meet a program at TC,
or an nftables rule set at prerouting, and what passes is counted and dropped right behind it. What
a packet costs is the difference to the same traffic with neither, in CPU time. All is on one CPU.
"""

from __future__ import annotations

import ctypes
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from agent.datapath.datapath import Datapath
from tests.bench import report, verdict
from tests.bench.generator import ACK, Generator, Mode, generator, tcp_packet
from tests.bench.workload import Workload, address, workload
from ztlab.model.verdict import Hook

PACKETS = 100_000
ROUNDS = 10
LINEAR_RULES = 1_000
_NEAR, _FAR = "near", "far"
_ADDRESSES = {_NEAR: "02:00:00:00:00:01", _FAR: "02:00:00:00:00:02"}
_CLONE_NEWNET = 0x40000000
_DEADLINE_S = 30.0
_END = """
table inet end {
  counter passed { }
  chain last {
    type filter hook prerouting priority -100;
    ip protocol tcp counter name passed drop;
  }
}
"""


def figures() -> list[report.Figure]:
    """Nanoseconds that each adds to a packet."""
    load = workload(verdict.RULES)
    # In this process, and before anything in it knows of interfaces: all that follows is inside.
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    with generator() as packets, verdict.gateway(load) as datapath:
        packets.use(load.flows)
        packets.run(datapath.programs[Hook.INGRESS], Mode.IN_ORDER, len(load.flows))
        _make_interfaces()
        traffic = _Traffic(packets)
        rivals: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "neither": nullcontext,
            "ours": partial(_attached, datapath),
            "map": partial(_rules, _verdict_map(load)),
            "linear": partial(_rules, _linear()),
        }
        found: dict[str, list[float]] = {name: [] for name in rivals}
        for _ in range(ROUNDS):
            for name in random.sample(list(rivals), len(rivals)):
                count = PACKETS // 20 if name == "linear" else PACKETS
                with rivals[name]():
                    traffic.sent(count)
                    found[name].append(traffic.sent(count))
    base = min(found["neither"])
    net = {name: [value - base for value in values] for name, values in found.items()}
    return [
        report.beside("live traffic: our program, 100,000 rules", net["ours"], "ns"),
        report.beside("live traffic: nftables verdict map, 100,000", net["map"], "ns"),
        report.beside("live traffic: nftables, 1,000 linear rules", net["linear"], "ns"),
        report.beside("live traffic: neither, subtracted", found["neither"], "ns"),
    ]


class _Traffic:
    """Packets from the near end to the far one."""

    def __init__(self, packets: Generator) -> None:
        self._packets = packets
        self._interface = socket.if_nametoindex(_NEAR)
        link = b"".join(bytes.fromhex(_ADDRESSES[end].replace(":", "")) for end in (_FAR, _NEAR))
        (cpu,) = os.sched_getaffinity(0)
        self._softirqs = _process(f"ksoftirqd/{cpu}") / "schedstat"
        self._frame = link + b"\x08\x00" + tcp_packet(packets.template, ACK)

    def sent(self, count: int) -> float:
        """Send COUNT and wait until the last has come through; nanoseconds for each."""
        wanted = _passed() + count
        begin = self._spent()
        self._packets.send(self._interface, self._frame, Mode.RANDOM, count)
        deadline = time.monotonic() + _DEADLINE_S
        while (passed := _passed()) != wanted:
            assert time.monotonic() < deadline, f"{wanted - passed} of {count} did not pass"
        return (self._spent() - begin) / count

    def _spent(self) -> int:
        """CPU time in nanoseconds of all who handle the packets: this thread, in whose name
        softirqs run, and the kernel's thread that takes them over when they get many."""
        return time.thread_time_ns() + int(self._softirqs.read_text().split()[0])


def _passed() -> int:
    listed = _run("nft", "--terse", "list", "counter", "inet", "end", "passed")
    return int(listed.partition("packets ")[2].split()[0])


def _process(name: str) -> Path:
    return next(path.parent for path in Path("/proc").glob("[0-9]*/comm") if _reads(path, name))


def _reads(path: Path, name: str) -> bool:
    try:
        return path.read_text().strip() == name
    except OSError:  # it has ended
        return False


def _make_interfaces() -> None:
    _run("ip", "link", "add", _NEAR, "type", "veth", "peer", "name", _FAR)
    for end, mac in _ADDRESSES.items():
        _run("ip", "link", "set", end, "address", mac, "up")
    _run("ethtool", "-K", _FAR, "gro", "on")
    _run("nft", "-f", "-", text=_END)


@contextmanager
def _attached(datapath: Datapath) -> Iterator[None]:
    datapath.attach(_FAR)
    try:
        yield
    finally:
        datapath.detach()


@contextmanager
def _rules(text: str) -> Iterator[None]:
    _run("nft", "-f", "-", text=text)
    try:
        yield
    finally:
        _run("nft", "delete", "table", "inet", "rival")


def _verdict_map(load: Workload) -> str:
    """Every rule of the policy as one element; what is in none is dropped."""
    policy = load.config.policy
    assert policy is not None
    addresses = {i.name: i.prefixes[0].partition("/")[0] for i in load.config.identities}
    elements = ", ".join(
        f"{addresses[rule.source]} . {addresses[rule.destination]} . tcp . {rule.ports[0]} : accept"
        for rule in policy.rules
    )
    return f"""
table inet rival {{
  map verdicts {{
    type ipv4_addr . ipv4_addr . inet_proto . inet_service : verdict;
    elements = {{ {elements} }}
  }}
  chain rules {{
    type filter hook prerouting priority -300; policy drop;
    ip saddr . ip daddr . meta l4proto . th dport vmap @verdicts
  }}
}}
"""


def _linear() -> str:
    """Rules of the same shape that match none of the packets: each is asked."""
    rules = "\n".join(
        f"    ip saddr {address(20_000 + number)} ip daddr {address(30_000 + number)} "
        f"tcp dport {number + 1} drop"
        for number in range(LINEAR_RULES)
    )
    return f"""
table inet rival {{
  chain rules {{
    type filter hook prerouting priority -300; policy accept;
{rules}
  }}
}}
"""


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
