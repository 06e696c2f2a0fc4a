"""The client a probe runs inside its node: `python probe.py --to bob --tcp 8080`, one line of JSON.

    destination, protocol, port   what was tried, as resolved on the node itself
    flows                         [address, port] of each local end; port 0 for ICMP
    sent, answers                 messages, and how many came back
    outcome                       answered | partly | silent | refused | unreachable | unresolved
    rtt_ms                        the median of the answered ones; null if there is none
    answer                        the first line that came back
    error                         what the system said, where it said something

`silent` means that nothing at all came back in time: what a dropped packet looks like. An ICMP
error or a reset is not silence. Standard library only; it starts in a few hundredths of a second.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import socket
import statistics
import struct
import threading
import time
from typing import Any

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_ECHO_REQUEST = {4: 8, 6: 128}
_ECHO_REPLY = {4: 0, 6: 129}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def main(argv: list[str] | None = None) -> None:
    """Probe once and print what happened; the exit code is 0 whatever it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", required=True)
    parser.add_argument("--family", type=int, choices=(4, 6), default=4)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--tcp", type=int)
    kind.add_argument("--udp", type=int)
    kind.add_argument("--icmp", action="store_true")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=5.0)
    parser.add_argument("--source")
    print(json.dumps(probe(parser.parse_args(argv))), flush=True)


def probe(options: argparse.Namespace) -> dict[str, Any]:
    """What came of probing as OPTIONS say."""
    protocol = TCP if options.tcp else UDP if options.udp else ICMP
    if protocol == ICMP and options.family == 6:
        protocol = ICMPV6
    result: dict[str, Any] = {
        "destination": None,
        "protocol": protocol,
        "port": options.tcp or options.udp or 0,
    }
    try:
        address = _resolve(options.to, options.family)
    except OSError as error:
        return {**result, **_summary([], options.count, "unresolved", str(error))}
    result["destination"] = address
    if options.tcp:
        return {**result, **_tcp(address, options)}
    if options.udp:
        return {**result, **_udp(address, options)}
    return {**result, **_icmp(address, options)}


def _resolve(name: str, family: int) -> str:
    found = socket.getaddrinfo(name, None, _FAMILIES[family], socket.SOCK_STREAM)
    return str(found[0][4][0])


def _outcome_of(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "silent"
    if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
        return "refused"
    return "unreachable"


def _summary(
    rtts: list[float], sent: int, failure: str = "silent", error: str = "", answer: str = ""
) -> dict[str, Any]:
    outcome = "answered" if len(rtts) == sent else "partly" if rtts else failure
    return {
        "flows": [],
        "sent": sent,
        "answers": len(rtts),
        "outcome": outcome,
        "rtt_ms": round(statistics.median(rtts), 3) if rtts else None,
        "answer": answer,
        "error": error,
    }


def _first_line(data: bytes) -> str:
    return data.split(b"\n", 1)[0].decode("utf-8", "replace").strip()[:200]


def _tcp(address: str, options: argparse.Namespace) -> dict[str, Any]:
    attempts: list[dict[str, Any]] = [{} for _ in range(options.count)]
    threads = [
        threading.Thread(target=_tcp_once, args=(address, options, attempt)) for attempt in attempts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = next((a for a in attempts if "rtt_ms" not in a), {})
    rtts = [a["rtt_ms"] for a in attempts if "rtt_ms" in a]
    answer = next((a["answer"] for a in attempts if "answer" in a), "")
    summary = _summary(
        rtts, options.count, failed.get("outcome", "silent"), failed.get("error", ""), answer
    )
    return {**summary, "flows": [a["flow"] for a in attempts if "flow" in a]}


def _tcp_once(address: str, options: argparse.Namespace, attempt: dict[str, Any]) -> None:
    with socket.socket(_FAMILIES[options.family], socket.SOCK_STREAM) as sock:
        try:
            sock.settimeout(options.timeout)
            sock.bind((options.source or "", 0))
            began = time.monotonic()
            try:
                sock.connect((address, options.tcp))
            finally:
                attempt["flow"] = list(sock.getsockname()[:2])
            sock.sendall(b"ztlab probe\n")
            data = sock.recv(4096)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
        except OSError as error:
            attempt.update(outcome=_outcome_of(error), error=str(error))
            return
        attempt.update(rtt_ms=(time.monotonic() - began) * 1000, answer=_first_line(data))


def _udp(address: str, options: argparse.Namespace) -> dict[str, Any]:
    with socket.socket(_FAMILIES[options.family], socket.SOCK_DGRAM) as sock:
        flow: list[Any] = []
        rtts: list[float] = []
        answer = ""
        try:
            sock.bind((options.source or "", 0))
            sock.connect((address, options.udp))
            flow = list(sock.getsockname()[:2])
            began = time.monotonic()
            for i in range(options.count):
                sock.send(b"ztlab probe %d\n" % i)
            while len(rtts) < options.count:
                sock.settimeout(max(began + options.timeout - time.monotonic(), 0.001))
                data = sock.recv(4096)
                answer = answer or _first_line(data)
                rtts.append((time.monotonic() - began) * 1000)
        except OSError as error:
            summary = _summary(rtts, options.count, _outcome_of(error), str(error), answer)
        else:
            summary = _summary(rtts, options.count, answer=answer)
    return {**summary, "flows": [flow] if flow else []}


def _icmp(address: str, options: argparse.Namespace) -> dict[str, Any]:
    family = options.family
    protocol = socket.IPPROTO_ICMP if family == 4 else socket.IPPROTO_ICMPV6
    ident = os.getpid() & 0xFFFF
    rtts: list[float] = []
    flow: list[Any] = []
    with socket.socket(_FAMILIES[family], socket.SOCK_RAW, protocol) as sock:
        try:
            if options.source:
                sock.bind((options.source, 0))
            sock.connect((address, 0))
            flow = [sock.getsockname()[0], 0]
            began = time.monotonic()
            for i in range(options.count):
                sock.send(_echo_request(family, ident, i))
            while len(rtts) < options.count:
                left = began + options.timeout - time.monotonic()
                if left <= 0 or not select.select([sock], [], [], left)[0]:
                    raise TimeoutError("timed out")
                if _is_our_reply(sock.recv(4096), family, ident):
                    rtts.append((time.monotonic() - began) * 1000)
        except OSError as error:
            summary = _summary(rtts, options.count, _outcome_of(error), str(error))
        else:
            summary = _summary(rtts, options.count, answer="echo reply")
    return {**summary, "flows": [flow] if flow else []}


def _echo_request(family: int, ident: int, sequence: int) -> bytes:
    payload = b"ztlab probe"
    header = struct.pack("!BBHHH", _ECHO_REQUEST[family], 0, 0, ident, sequence)
    if family == 6:
        return header + payload  # the kernel fills in the checksum of ICMPv6
    checksum = _checksum(header + payload)
    return struct.pack("!BBHHH", _ECHO_REQUEST[4], 0, checksum, ident, sequence) + payload


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _is_our_reply(data: bytes, family: int, ident: int) -> bool:
    if family == 4:  # a raw IPv4 socket gives the IP header too
        data = data[(data[0] & 0xF) * 4 :]
    if len(data) < 8:
        return False
    kind, _, _, their_ident, _ = struct.unpack("!BBHHH", data[:8])
    return bool(kind == _ECHO_REPLY[family] and their_ident == ident)


if __name__ == "__main__":
    main()
