"""The programs that act inside nodes, against listeners on loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from ztlab.scenario import echo, probe, rawsend
from ztlab.scenario.watch import script

Serve = Callable[[socket.socket], None]


@contextmanager
def listener(kind: socket.SocketKind, serve: Serve) -> Iterator[int]:
    """A socket on loopback, served by SERVE in a thread until the block ends; its port."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        thread = threading.Thread(target=serve, args=(sock,))
        thread.start()
        yield sock.getsockname()[1]
        sock.shutdown(socket.SHUT_RDWR) if kind == socket.SOCK_STREAM else _wake(sock)
        thread.join()


def _wake(sock: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.sendto(b"end", sock.getsockname())


def greet(sock: socket.socket) -> None:
    """Answer every connection with a line and an echo of what came."""
    while True:
        try:
            connection, _ = sock.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b"hello\n")
            while data := _received(connection):
                connection.sendall(data)


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""


def answer(*, skip: int = 0) -> Serve:
    """Answer datagrams with themselves, the first SKIP of them not."""

    def serve(sock: socket.socket) -> None:
        number = 0
        while True:
            data, address = sock.recvfrom(4096)
            if data == b"end":
                return
            number += 1
            if number > skip:
                sock.sendto(b"hello\n" + data, address)

    return serve


def probed(*arguments: str) -> dict[str, Any]:
    """What probe.py prints, run as a node would run it."""
    argv = [*script(probe.__file__), "--to", "127.0.0.1", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_tcp_probe_says_what_answered_and_from_where_it_asked() -> None:
    with listener(socket.SOCK_STREAM, greet) as port:
        found = probed("--tcp", str(port), "--count", "2")
    assert (found["outcome"], found["answers"], found["answer"]) == ("answered", 2, "hello")
    assert found["destination"] == "127.0.0.1" and found["port"] == port
    assert len({flow[1] for flow in found["flows"]}) == 2
    assert found["rtt_ms"] > 0


def test_a_refused_probe_is_not_silent() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        found = probed("--tcp", str(sock.getsockname()[1]))
    assert (found["outcome"], found["answers"]) == ("refused", 0)


def test_a_listener_that_says_nothing_is_silence() -> None:
    def hold(sock: socket.socket) -> None:
        kept = []
        while True:
            try:
                kept.append(sock.accept()[0])
            except OSError:
                for connection in kept:
                    connection.close()
                return

    with listener(socket.SOCK_STREAM, hold) as port:
        found = probed("--tcp", str(port), "--timeout", "0.2")
    assert found["outcome"] == "silent"
    assert len(found["flows"]) == 1


@pytest.mark.parametrize(
    ("skip", "outcome", "answers"), [(0, "answered", 3), (1, "partly", 2), (3, "silent", 0)]
)
def test_a_udp_probe_counts_what_came_back(skip: int, outcome: str, answers: int) -> None:
    with listener(socket.SOCK_DGRAM, answer(skip=skip)) as port:
        found = probed("--udp", str(port), "--count", "3", "--timeout", "0.3")
    assert (found["outcome"], found["answers"], found["sent"]) == (outcome, answers, 3)
    assert len(found["flows"]) == 1


def test_a_name_that_means_nothing_is_neither_silence_nor_refusal() -> None:
    argv = [*script(probe.__file__), "--to", "nobody.invalid", "--tcp", "80"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(done.stdout)["outcome"] == "unresolved"


@pytest.mark.root
def test_an_icmp_probe_over_loopback_is_answered() -> None:
    found = probed("--icmp", "--count", "2", "--timeout", "2")
    assert (found["outcome"], found["protocol"]) == ("answered", 1)


def streamed(protocol: str, port: int, lines: int) -> list[str]:
    """The first LINES that echo.py prints."""
    argv = [*script(echo.__file__), "--to", "127.0.0.1", f"--{protocol}", str(port)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        found = [process.stdout.readline() for _ in range(lines)]
        process.stdin.close()
        process.stdout.read()
    return found


@pytest.mark.parametrize(
    ("protocol", "kind", "serve"),
    [("tcp", socket.SOCK_STREAM, greet), ("udp", socket.SOCK_DGRAM, answer())],
)
def test_a_stream_reports_each_echo_with_both_times(
    protocol: str, kind: socket.SocketKind, serve: Serve
) -> None:
    with listener(kind, serve) as port:
        head, *echoes = streamed(protocol, port, 6)
    assert json.loads(head)["remote"] == ["127.0.0.1", port]
    numbers = [line.split() for line in echoes]
    assert [int(n) for n, _, _ in numbers] == [1, 2, 3, 4, 5]
    assert all(float(sent) <= float(received) for _, sent, received in numbers)
    spacing = float(numbers[4][1]) - float(numbers[0][1])
    assert spacing >= 4 * echo.INTERVAL_S


def test_a_stream_to_nobody_ends_with_the_reason() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        argv = [*script(echo.__file__), "--to", "127.0.0.1", "--tcp", str(sock.getsockname()[1])]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "cannot talk to 127.0.0.1" in done.stderr


@pytest.mark.parametrize(
    ("source", "destination", "layer"),
    [("10.77.0.2", "10.77.0.3", IP), ("fd77::2", "fd77::3", IPv6)],
)
@pytest.mark.parametrize("protocol", [rawsend.TCP, rawsend.UDP])
def test_a_forged_packet_is_one_that_any_stack_would_take(
    source: str, destination: str, layer: type[Packet], protocol: int
) -> None:
    raw = rawsend.packet(source, destination, protocol, 20001, 8080)
    packet = layer(raw)
    upper = packet[TCP if protocol == rawsend.TCP else UDP]
    assert (packet.src, packet.dst, upper.sport, upper.dport) == (source, destination, 20001, 8080)
    seen = upper.chksum
    del upper.chksum
    if layer is IP:
        header = packet.chksum
        del packet.chksum
        assert layer(bytes(packet)).chksum == header
    rebuilt = layer(bytes(packet))
    assert rebuilt[TCP if protocol == rawsend.TCP else UDP].chksum == seen
    assert len(raw) == len(rebuilt)
