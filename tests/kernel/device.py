"""A real interface that looks to TC as WireGuard's does: a tun device in a namespace of its own.

What is written to it comes out of the tunnel; what is read from it has entered the tunnel. A packet
begins with its IP header, as on wg0.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TUN = "wg0"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_DEADLINE_S = 5.0
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def fresh_network_namespace() -> Iterator[None]:
    """This thread, and what it starts, in a network namespace of its own until the block ends."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    _checked(_libc.unshare(_CLONE_NEWNET))
    try:
        yield
    finally:
        _checked(_libc.setns(home, _CLONE_NEWNET))
        os.close(home)


def sh(command: str) -> str:
    """Run COMMAND; its output."""
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


def sysctl(name: str, value: str) -> None:
    Path("/proc/sys", *name.split(".")).write_text(value)


def until(state: Callable[[], bool], what: str) -> None:
    """Wait for STATE, with a deadline."""
    deadline = time.monotonic() + _DEADLINE_S
    while not state():
        assert time.monotonic() < deadline, f"waited {_DEADLINE_S} s for {what}"
        time.sleep(0.005)


class Tun:
    """A tun device, up, with addresses; gone with its file descriptor."""

    def __init__(self, name: str, *addresses: str) -> None:
        self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(self._fd, _TUNSETIFF, request)
        for address in addresses:
            sh(f"ip addr add {address} dev {name} nodad")
        sh(f"ip link set {name} up")

    def send(self, packet: bytes) -> None:
        """PACKET comes out of the tunnel."""
        os.write(self._fd, packet)

    def receive(self) -> bytes:
        """The next packet that entered the tunnel; waits for it, with a deadline."""
        ready, _, _ = select.select([self._fd], [], [], _DEADLINE_S)
        assert ready, f"nothing entered the tunnel for {_DEADLINE_S} s"
        return os.read(self._fd, 65536)

    def waiting(self) -> bytes | None:
        """A packet that entered the tunnel and was not received yet."""
        try:
            return os.read(self._fd, 65536)
        except BlockingIOError:
            return None

    def close(self) -> None:
        os.close(self._fd)


class Lan:
    """Another interface, `lan0`, with a far end from which packets are sent into it."""

    def __init__(self, address: str) -> None:
        sh("ip link add lan0 address 02:00:00:00:00:02 type veth peer name lan1")
        sh(f"ip addr add {address} dev lan0")
        for name in ("lan0", "lan1"):
            sh(f"ip link set {name} up")
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind(("lan1", 0))

    def send(self, packet: bytes) -> None:
        """PACKET arrives at lan0."""
        self._socket.send(bytes.fromhex("0200000000020200000000010800") + packet)

    def close(self) -> None:
        self._socket.close()
