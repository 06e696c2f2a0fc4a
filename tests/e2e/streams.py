"""iperf3 between two nodes, and what it says each second that it received."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.nodes import Node, wait_for
from ztlab.lab.pace import scaled

_INTERVAL = re.compile(r"^\[ *\d+\] +([\d.]+)-([\d.]+) +sec +([\d.]+) [KMG]?Bytes", re.MULTILINE)


@dataclass(frozen=True)
class Stream:
    """One connection."""

    log: Path
    sender: subprocess.Popen[bytes]

    def seconds(self) -> list[float]:
        """How much came in each whole second so far, in whatever unit."""
        found = _INTERVAL.findall(self.log.read_text())
        return [float(n) for began, ended, n in found if float(ended) - float(began) > 0.9]

    def goes_on(self) -> None:
        """Returns when three more seconds are over; fails where the connection ends."""
        before = len(self.seconds())
        wait_for(lambda: len(self.seconds()) >= before + 3, 10, "seconds pass")
        assert self.sender.poll() is None, "the one connection it has was cut"


@contextmanager
def stream(
    client: Node, server: Node, address: str, port: int, *, rate: str = "20M", seconds: int = 300
) -> Iterator[Stream]:
    """A stream of RATE bit/s from CLIENT to ADDRESS of SERVER while the block runs."""
    log = server.directory / f"iperf3-{port}.log"
    listen = ["iperf3", "-s", "-1", "-p", str(port), "-i", "1", "--forceflush"]
    lasting = str(int(scaled(seconds)))
    send = ["iperf3", "-c", address, "-p", str(port), "-t", lasting, "-b", rate, "-l", "4K"]
    with log.open("wb") as file:
        listener = subprocess.Popen(server.command(*listen, "--logfile", str(log)), stdout=file)
    with listener:
        try:
            wait_for(lambda: server.output("ss", "-Hltn", f"sport = :{port}"), 5, "it listens")
            with subprocess.Popen(client.command(*send), stdout=subprocess.DEVNULL) as sender:
                try:
                    yield Stream(log, sender)
                finally:
                    sender.kill()
        finally:
            listener.kill()


def received(node: Node, port: int) -> int:
    """Bytes that connections to PORT of NODE have received."""
    shown = node.output("ss", "-Htin", f"sport = :{port}")
    return sum(int(count) for count in re.findall(r"bytes_received:(\d+)", shown))
