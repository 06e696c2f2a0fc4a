"""The client of a stream: 50 numbered messages a second, and a line for each echo of them.

`python echo.py --to bob --udp 5353` prints one line of JSON with both ends of its flow, then one
"<number> <sent> <received>" per echo, both in seconds of CLOCK_MONOTONIC, which every namespace of
a machine shares. It ends when its standard input does. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import select
import socket
import sys
import time

INTERVAL_S = 0.02
_MESSAGE = re.compile(rb"ztlab (\d{9})\n")
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def main(argv: list[str] | None = None) -> None:
    """Talk until standard input ends; exit 1 with the reason if there is nobody to talk to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", required=True)
    parser.add_argument("--family", type=int, choices=(4, 6), default=4)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--tcp", type=int)
    kind.add_argument("--udp", type=int)
    options = parser.parse_args(argv)
    is_tcp = options.tcp is not None
    port = options.tcp if is_tcp else options.udp
    try:
        sock = _connect(options.to, port, options.family, is_tcp=is_tcp)
    except OSError as error:
        sys.exit(f"cannot talk to {options.to} port {port}: {error}")
    print(
        json.dumps(
            {
                "local": sock.getsockname()[:2],
                "remote": sock.getpeername()[:2],
                "protocol": 6 if is_tcp else 17,
            }
        ),
        flush=True,
    )
    talk(sock)


def _connect(name: str, port: int, family: int, *, is_tcp: bool) -> socket.socket:
    kind = socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM
    address = socket.getaddrinfo(name, port, _FAMILIES[family], kind)[0][4]
    sock = socket.socket(_FAMILIES[family], kind)
    sock.settimeout(5.0)
    sock.connect(address)
    sock.setblocking(False)
    if is_tcp:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def talk(sock: socket.socket) -> None:
    """Send, and report echoes, until standard input ends or the other side closes."""
    sent: dict[int, float] = {}
    number = 0
    pending = b""
    received = b""
    due = time.monotonic()
    while True:
        now = time.monotonic()
        if now >= due:
            number += 1
            sent[number] = now
            pending = _send(sock, pending + b"ztlab %09d\n" % number)
            due = max(due + INTERVAL_S, now)
        readable, _, _ = select.select([sock, sys.stdin], [], [], max(due - time.monotonic(), 0))
        if sys.stdin in readable:
            return
        if sock in readable:
            data = _receive(sock)
            if data is None:
                print("closed", flush=True)
                return
            received = _report(received + data, sent)


def _send(sock: socket.socket, data: bytes) -> bytes:
    """Send DATA and return what the socket did not take; a datagram it refuses is lost."""
    try:
        return data[sock.send(data) :]
    except BlockingIOError:
        return data if sock.type == socket.SOCK_STREAM else b""
    except OSError:
        return b""  # a reset shows when reading; a refused datagram is lost like any other


def _receive(sock: socket.socket) -> bytes | None:
    """What has come; nothing for an error that may pass; None where the other side is gone."""
    try:
        data = sock.recv(65536)
    except (BlockingIOError, ConnectionRefusedError):
        return b""
    except OSError:
        return None if sock.type == socket.SOCK_STREAM else b""
    return None if not data and sock.type == socket.SOCK_STREAM else data


def _report(data: bytes, sent: dict[int, float]) -> bytes:
    """Print a line per echo in DATA and return the unfinished rest."""
    now = time.monotonic()
    end = 0
    for match in _MESSAGE.finditer(data):
        at = sent.pop(int(match[1]), None)
        if at is not None:
            print(f"{int(match[1])} {at:.6f} {now:.6f}", flush=True)
        end = match.end()
    return data[end:][-64:]


if __name__ == "__main__":
    main()
