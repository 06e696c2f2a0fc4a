"""generator.c, compiled and loaded: packets of many flows for a program under measurement."""

from __future__ import annotations

import ctypes
import os
import platform
import random
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from agent.datapath.libbpf import library
from tests.bench.report import FOLDER
from tests.kernel import testrun

_SOURCE = Path(__file__).with_name("generator.c")
_FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror")
SYN, ACK = 0x02, 0x10


class Mode(IntEnum):
    """In which order the flows come."""

    IN_ORDER = 0
    RANDOM = 1
    FRESH = 2


class Tuple(NamedTuple):
    """One flow's first direction. Addresses are IPv4."""

    source: str
    destination: str
    source_port: int
    destination_port: int

    def packed(self) -> bytes:
        ends = IPv4Address(self.source).packed + IPv4Address(self.destination).packed
        return ends + struct.pack("!HH", self.source_port, self.destination_port)


class _State(ctypes.Structure):
    _fields_ = [
        ("mode", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("next", ctypes.c_uint32),
        ("lap", ctypes.c_uint32),
        ("random", ctypes.c_uint64),
        ("interface", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]


def tcp_packet(flow: Tuple, flags: int) -> bytes:
    """From the IP header on, 40 bytes; its checksum is not calculated."""
    ends, ports = flow.packed()[:8], flow.packed()[8:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + ends
    return header + ports + struct.pack("!IIBBHHH", 1, 1, 0x50, flags, 1024, 0, 0)


class Generator:
    """The loaded generator, and the flows it makes packets of.

    template  the first of these flows
    """

    template: Tuple

    def __init__(self, programs: dict[str, int], maps: dict[str, int]) -> None:
        """Use `generator`."""
        self._programs, self._maps = programs, maps
        self._state = _State(random=1)
        self._lap = 1

    @property
    def nothing(self) -> int:
        """A program that does nothing."""
        return self._programs["nothing"]

    def use(self, flows: Sequence[Tuple]) -> None:
        """Make packets of FLOWS, at most 16384, from now on."""
        keys = struct.pack(f"={len(flows)}I", *range(len(flows)))
        values = b"".join(flow.packed() for flow in flows)
        count = ctypes.c_uint32(len(flows))
        fd = self._maps["tuples"]
        _check(library().bpf_map_update_batch(fd, keys, values, ctypes.byref(count), None))
        self._state.count = len(flows)
        self.template = flows[0]

    @property
    def flows(self) -> int:
        """How many flows there are."""
        return int(self._state.count)

    def run(self, target: int, mode: Mode, count: int, *, flags: int = ACK) -> int:
        """COUNT packets with these TCP flags through TARGET; nanoseconds for each, all told.

        In mode FRESH every run goes on where the one before ended, with flows never seen.
        """
        program = ctypes.c_uint32(target)
        self._put("target", ctypes.byref(program))
        self._begin(mode)
        packet = tcp_packet(self.template, flags)
        outcome = testrun.run(self._programs["generate"], packet, repeat=count)
        if mode is Mode.FRESH:
            self._lap += -(-count // self._state.count)
        return outcome.duration_ns

    def send(self, interface: int, frame: bytes, mode: Mode, count: int) -> None:
        """COUNT copies of FRAME, from the Ethernet header on, out of this interface."""
        self._state.interface = interface
        self._begin(mode)
        testrun.send(self._programs["generate_live"], frame, count)

    def _begin(self, mode: Mode) -> None:
        self._state.mode, self._state.next, self._state.lap = mode, 0, self._lap
        self._state.random = random.getrandbits(64)
        self._put("state", ctypes.byref(self._state))

    def _put(self, name: str, value: object) -> None:
        key = ctypes.c_uint32(0)
        _check(library().bpf_map_update_elem(self._maps[name], ctypes.byref(key), value, 0))


@contextmanager
def generator() -> Iterator[Generator]:
    """Compile and load it; the object is open while the block runs."""
    lib = library()
    built = _compiled()
    object_ = lib.bpf_object__open_file(os.fsencode(built), None)
    if not object_:
        raise OSError(f"libbpf cannot read {built}")
    try:
        _check(lib.bpf_object__load(object_))
        programs, maps = {}, {}
        for name in ("generate", "nothing", "generate_live"):
            found = lib.bpf_object__find_program_by_name(object_, name.encode())
            programs[name] = lib.bpf_program__fd(found)
        for name in ("tuples", "state", "target"):
            maps[name] = lib.bpf_map__fd(lib.bpf_object__find_map_by_name(object_, name.encode()))
        yield Generator(programs, maps)
    finally:
        lib.bpf_object__close(object_)


def _compiled() -> Path:
    FOLDER.mkdir(parents=True, exist_ok=True)
    built = FOLDER / "generator.o"
    headers = f"-I/usr/include/{platform.machine()}-linux-gnu"
    subprocess.run(["clang", *_FLAGS, headers, "-c", str(_SOURCE), "-o", str(built)], check=True)
    return built


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
