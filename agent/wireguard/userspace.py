"""wireguard-go as a child process, spoken to through its UAPI socket.

Protocol: https://www.wireguard.com/xplatform/ (requests and answers are lines of key=value, an
empty line ends each, an answer closes with errno=N). Keys are lower-case hexadecimal there.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from agent.wireguard.backend import (
    Endpoint,
    PeerSpec,
    WgPeer,
    WgState,
    canonical_prefix,
    nobodys_key,
    port_taken,
)
from agent.wireguard.links import Links
from agent.wireguard.preshared import KEY_BYTES, from_raw
from ztlab.errors import DeadlineExceeded, HostUnfit, ZtError

PROGRAM = "wireguard-go"
SOCKET_DIR = Path("/var/run/wireguard")
START_S = 5.0  # from start to an answering socket; measured: 0.03 s
STOP_S = 1.0  # from SIGTERM to the end of the process
ANSWER_S = 5.0  # for one request


class UserspaceWireGuard:
    """A tun device with wireguard-go behind it."""

    kind: Literal["userspace"] = "userspace"

    def __init__(self, interface: str, links: Links) -> None:
        self._interface = interface
        self._links = links
        self._socket = SOCKET_DIR / f"{interface}.sock"
        self._child: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start wireguard-go, or adopt the one that still answers on its socket."""
        if self._adopt():
            return
        if self._listener() is not None:
            raise HostUnfit(
                f"a {PROGRAM} answers on {self._socket}, and its {self._interface} is not here",
                hint="it belongs to another network namespace: set another [wireguard] interface, "
                f"or give this one a {SOCKET_DIR} of its own",
            )
        program = shutil.which(PROGRAM)
        if program is None:
            raise HostUnfit(
                f"{PROGRAM} is not installed", hint=f"apt-get install {PROGRAM}, or use a kernel's"
            )
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()  # of a process that was killed
        self._start(program)

    def _adopt(self) -> bool:
        return self._listener() is not None and self._links.kind(self._interface) is not None

    def _start(self, program: str) -> None:
        if self._links.kind(self._interface) is not None:
            raise HostUnfit(
                f"there is already an interface {self._interface}, and no {PROGRAM} behind it",
                hint="remove it, or set another [wireguard] interface",
            )
        # In a session of its own: a Ctrl-C on the terminal is the agent's to handle, in order.
        self._child = subprocess.Popen(
            [program, self._interface],
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "LOG_LEVEL": "error",
                "WG_PROCESS_FOREGROUND": "1",  # unlike --foreground, without the banner
            },
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_S
        while True:
            if self._listener() is not None:
                return
            if (code := self._child.poll()) is not None:
                raise HostUnfit(
                    f"{PROGRAM} ended with exit code {code}",
                    hint="is there a /dev/net/tun, and may this process use it?",
                )
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{PROGRAM} opened no {self._socket} within {START_S:g} s")
            time.sleep(0.005)

    def configure(self, *, private_key: str, listen_port: int, fwmark: int) -> None:
        self._set(f"private_key={_hex(private_key)}", f"fwmark={fwmark}")
        if self.state().listen_port == listen_port:
            return  # told its own port, it would close its socket with all that waits in it
        try:
            self._set(f"listen_port={listen_port}")
        except ZtError as error:
            raise port_taken(self._interface, listen_port, str(error)) from error

    def set_peers(self, peers: Iterable[PeerSpec]) -> None:
        self._set(*(line for peer in peers for line in _peer_lines(peer)))

    def remove_peers(self, public_keys: Iterable[str]) -> None:
        self._set(*(line for key in public_keys for line in _removal(key)))

    def remove_prefixes(self, public_key: str, prefixes: Iterable[str]) -> None:
        nobody = nobodys_key()
        self._set(
            f"public_key={_hex(nobody)}",
            *(f"allowed_ip={prefix}" for prefix in sorted(prefixes)),
            *_removal(nobody),
        )

    def state(self) -> WgState:
        return parsed(self._ask(["get=1"]))

    def is_alive(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            return False
        return self._links.kind(self._interface) is not None

    def close(self) -> None:
        """End wireguard-go, which takes its interface along, and see that both are gone."""
        pid = self._listener()  # ours or a predecessor's, and never a number that was used again
        if pid:  # 0: it lives in a PID namespace that we cannot see into
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while (self.is_alive() or (pid and self._listener() == pid)) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.005)
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(max(0.01, deadline - time.monotonic()))
            if self._child.poll() is None:
                self._child.kill()
                self._child.wait()
            self._child = None
        self._links.delete(self._interface)
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()

    def _listener(self) -> int | None:
        """The process that listens on the socket, as the kernel knows it (unix(7), SO_PEERCRED)."""
        try:
            with self._connected() as connection:
                raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return None
        pid, _uid, _gid = struct.unpack("3i", raw)
        return int(pid)

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(ANSWER_S)
            connection.connect(str(self._socket))
        except OSError:
            connection.close()
            raise
        return connection

    def _set(self, *lines: str) -> None:
        self._ask(["set=1", *lines])

    def _ask(self, lines: list[str]) -> list[tuple[str, str]]:
        request = ("\n".join(lines) + "\n\n").encode()
        try:
            with self._connected() as connection:
                connection.sendall(request)
                with connection.makefile("r", encoding="ascii") as answers:
                    answer = list(_pairs(answers))
        except OSError as error:
            raise ZtError(
                f"{PROGRAM} does not answer on {self._socket}: {error.strerror or error}"
            ) from None
        code = int(dict(answer).get("errno", errno.ECONNRESET))  # none: it died meanwhile
        if code:
            # Only the kind of request: its values may hold a private or a preshared key.
            raise ZtError(f"{PROGRAM} refused {lines[0]}: {os.strerror(abs(code))}")
        return answer


def _peer_lines(peer: PeerSpec) -> Iterator[str]:
    key = peer.preshared_key
    yield f"public_key={_hex(peer.public_key)}"
    yield f"preshared_key={(key.reveal() if key else bytes(KEY_BYTES)).hex()}"
    if peer.endpoint is not None:
        yield f"endpoint={peer.endpoint}"
    for prefix in sorted(peer.allowed_ips):
        yield f"allowed_ip={prefix}"
    # Last: wireguard-go sends the first keepalive when it comes to this line.
    yield f"persistent_keepalive_interval={peer.keepalive_s}"


def _removal(public_key: str) -> tuple[str, str]:
    return f"public_key={_hex(public_key)}", "remove=true"


def _pairs(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        key, separator, value = line.rstrip("\n").partition("=")
        if not separator:
            return  # the empty line that ends an answer
        yield key, value


def parsed(pairs: Iterable[tuple[str, str]]) -> WgState:
    """The answer to get=1: the interface's keys first, then each peer's after its public_key."""
    device: dict[str, str] = {}
    peers: list[tuple[dict[str, str], set[str]]] = []
    for key, value in pairs:
        if key == "public_key":
            peers.append(({key: value}, set()))
        elif not peers:
            device[key] = value
        elif key == "allowed_ip":
            peers[-1][1].add(canonical_prefix(value))
        elif key != "errno":
            peers[-1][0][key] = value
    return WgState(
        public_key=_public_half(device.get("private_key", "")),
        listen_port=int(device.get("listen_port", "0")),
        peers={_base64(p["public_key"]): _peer(p, prefixes) for p, prefixes in peers},
    )


def _peer(values: dict[str, str], prefixes: set[str]) -> WgPeer:
    host, _, port = values.get("endpoint", "").rpartition(":")
    seconds = int(values.get("last_handshake_time_sec", "0"))
    nanoseconds = int(values.get("last_handshake_time_nsec", "0"))
    return WgPeer(
        endpoint=Endpoint(address=ip_address(host.strip("[]")), port=int(port)) if host else None,
        allowed_ips=frozenset(prefixes),
        keepalive_s=int(values.get("persistent_keepalive_interval", "0")),
        last_handshake_at=seconds + nanoseconds / 1e9,
        rx_bytes=int(values.get("rx_bytes", "0")),
        tx_bytes=int(values.get("tx_bytes", "0")),
        preshared_key=from_raw(bytes.fromhex(values.get("preshared_key", ""))),
    )


def _public_half(private_hex: str) -> str:
    """UAPI tells the private key only; what it is needed for is its public half."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    raw = bytes.fromhex(private_hex)
    if not any(raw):
        return ""
    public = X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
    return base64.b64encode(public).decode()


def _hex(key: str) -> str:
    return base64.b64decode(key).hex()


def _base64(key: str) -> str:
    return base64.b64encode(bytes.fromhex(key)).decode()
