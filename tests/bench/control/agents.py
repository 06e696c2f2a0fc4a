"""Thousands of simulated agents: the real protocol over real TLS sockets, without a data plane.

Each holds its stream open and acknowledges what it is sent, on a second connection, as agents do.
They live in processes of their own; time.monotonic is one clock for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from agent.session import HELD_S, Backoff
from coordinator import tls
from tests.bench.control.seed import SeededNode
from tests.bench.control.served import Served
from ztlab.client.transport import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from ztlab.model.codec import decode
from ztlab.model.config import NodeConfig
from ztlab.model.delta import Delta, apply

OPENING = 50  # connections that one process opens at a time
ACKNOWLEDGING = 200
CAREFUL = ("gateway0", "mesh0")  # who put together what they are sent; it costs the machine
SILENCE_S = 45.0  # three heartbeats
CONFIGURATIONS = ("config", "delta")


@dataclass(frozen=True, slots=True)
class Told:
    """One event that a node was sent.

    at      time.monotonic() when all of it was there
    number  of its revision
    size    bytes of the event
    """

    node: str
    kind: str
    at: float
    number: int
    size: int


@dataclass(frozen=True, slots=True)
class Life:
    """How those who come back when they lose their stream are doing.

    held      streams that are open now
    attempts  time.monotonic() of each connection that was begun, since it was asked the last time
    """

    held: int
    attempts: list[float]


@dataclass(slots=True)
class _Simulation:
    address: tuple[str, int]
    authority: str
    told: list[Told] = field(default_factory=list)
    opened: int = 0
    failed: list[str] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    acknowledged: int = 0
    configs: dict[str, NodeConfig] = field(default_factory=dict)
    held: int = 0
    attempts: list[float] = field(default_factory=list)

    async def run(self, pipe: Connection) -> None:
        """Do what PIPE asks for: ("open", nodes), ("live", nodes), ("told",), …"""
        context = ssl.create_default_context(cadata=self.authority)
        opening, saying = asyncio.Semaphore(OPENING), asyncio.Semaphore(ACKNOWLEDGING)
        loop = asyncio.get_running_loop()
        while True:
            kind, *given = await loop.run_in_executor(None, pipe.recv)
            if kind == "open":
                for node in given[0]:
                    task = loop.create_task(self._agent(node, context, opening, saying))
                    self.tasks.add(task)
            elif kind == "live":
                for node in given[0]:
                    task = loop.create_task(self._live(node, context, opening, saying))
                    self.tasks.add(task)
            elif kind == "life":
                pipe.send(Life(self.held, self.attempts))
                self.attempts = []
            elif kind == "told":
                pipe.send((self.opened, self.acknowledged, self.told, self.failed))
                self.told = []
            else:
                return

    async def _agent(
        self,
        node: SeededNode,
        context: ssl.SSLContext,
        opening: asyncio.Semaphore,
        saying: asyncio.Semaphore,
    ) -> None:
        try:
            async with opening:
                reader, writer = await self._request(context, "GET", "/node/stream?delta=1", node)
                status = int((await reader.readline()).split()[1])
                while (await reader.readline()).strip():
                    pass
                if status != 200:
                    raise ConnectionError(f"status {status}")
            self.opened += 1
            while size := int(await reader.readline(), 16):
                chunk = (await reader.readexactly(size + 2))[:-2]
                await self._event(node, chunk, context, saying)
            writer.close()
            self.failed.append(f"{node.name}: the stream ended")
        except (OSError, ValueError, IndexError, asyncio.IncompleteReadError) as error:
            self.failed.append(f"{node.name}: {type(error).__name__} {error}")

    async def _live(
        self,
        node: SeededNode,
        context: ssl.SSLContext,
        opening: asyncio.Semaphore,
        saying: asyncio.Semaphore,
    ) -> None:
        """As an agent does: whatever ends the stream, it comes back when its Backoff says."""
        backoff, gently = Backoff(random.random), True
        while True:
            opened_at, is_held = time.monotonic(), False
            try:
                async with opening if gently else contextlib.nullcontext():
                    reader = await self._begin(context, node)
                self.held, is_held, gently = self.held + 1, True, False
                opened_at = time.monotonic()
                while size := int(await asyncio.wait_for(reader.readline(), SILENCE_S), 16):
                    chunk = (await reader.readexactly(size + 2))[:-2]
                    await self._event(node, chunk, context, saying)
            except (OSError, ValueError, IndexError, asyncio.IncompleteReadError):
                pass
            self.held -= is_held
            if time.monotonic() - opened_at > HELD_S and is_held:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def _begin(self, context: ssl.SSLContext, node: SeededNode) -> asyncio.StreamReader:
        """What an agent asks at the beginning, on one connection, with its time limits."""
        self.attempts.append(time.monotonic())
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            host, port = self.address
            reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=1 << 24)
        try:
            trusted = tls.fingerprint(self.authority).hex()
            learn = json.dumps({"trusted": [trusted]}).encode()
            for method, path, body in (
                ("POST", "/node/authorities", learn),
                ("GET", "/node/stream?delta=1", b""),
            ):
                async with asyncio.timeout(READ_TIMEOUT_S):
                    writer.write(
                        f"{method} /api/v1{path} HTTP/1.1\r\nHost: {host}\r\n"
                        f"Authorization: Bearer {node.token}\r\n"
                        "Content-Type: application/json\r\n"
                        f"Content-Length: {len(body)}\r\n\r\n".encode()
                        + body
                    )
                    await writer.drain()
                    await reader.readexactly(await _head(reader))
        except BaseException:
            writer.close()
            raise
        return reader

    async def _event(
        self,
        node: SeededNode,
        chunk: bytes,
        context: ssl.SSLContext,
        saying: asyncio.Semaphore,
    ) -> None:
        head, _, data = chunk.partition(b"\ndata: ")
        kind = head.removeprefix(b"event: ").decode()
        if kind == "heartbeat":
            return
        at = time.monotonic()
        said = json.loads(data)
        number = said["revision"]["number"]
        self.told.append(Told(node.name, kind, at, number, len(chunk)))
        if node.name in CAREFUL:
            self._check(node, said)
        answer = {"revision": said["revision"], "digest": said["digest"], "applied": True}
        async with saying:
            await self._say(node, json.dumps(answer).encode(), context)

    def _check(self, node: SeededNode, said: dict[str, Any]) -> None:
        """What came must make the configuration of the digest, as a real agent would see to it."""
        if "config" in said:
            self.configs[node.name] = decode(NodeConfig, said["config"])
        elif "delta" in said:
            delta = decode(Delta, said["delta"])
            self.configs[node.name] = apply(self.configs[node.name], delta, said["digest"])
        if self.configs[node.name].digest() != said["digest"]:
            raise ValueError(f"{node.name} has another digest than it should")

    async def _say(self, node: SeededNode, body: bytes, context: ssl.SSLContext) -> None:
        reader, writer = await self._request(context, "POST", "/node/ack", node, body)
        status = int((await reader.readline()).split()[1])
        if status == 204:
            self.acknowledged += 1
        else:
            self.failed.append(f"{node.name}: acknowledgement: {status}")
        writer.close()

    async def _request(
        self,
        context: ssl.SSLContext,
        method: str,
        path: str,
        node: SeededNode,
        body: bytes | None = None,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.address
        reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=1 << 24)
        head = f"{method} /api/v1{path} HTTP/1.1\r\nHost: {host}\r\n"
        head += f"Authorization: Bearer {node.token}\r\n"
        if body is not None:
            head += "Content-Type: application/json\r\nConnection: close\r\n"
            head += f"Content-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + (body or b""))
        await writer.drain()
        return reader, writer


async def _head(reader: asyncio.StreamReader) -> int:
    """Read the head of an answer, which must be 200: how long its body is, where that is said."""
    status, length = int((await reader.readline()).split()[1]), 0
    while line := (await reader.readline()).strip().lower():
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    if status != 200:
        raise ConnectionError(f"status {status}")
    return length


def _process(pipe: Connection, address: tuple[str, int], authority: str) -> None:
    asyncio.run(_Simulation(address, authority).run(pipe))


class Agents:
    """Simulated agents in some processes."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes
        self.expected = 0
        self.acknowledged = 0
        self._unread: list[Told] = []

    def open(self, nodes: Sequence[SeededNode], *, within_s: float) -> float:
        """Open the streams of NODES; how many seconds it took until all had."""
        begun = time.monotonic()
        for i, pipe in enumerate(self._pipes):
            pipe.send(("open", nodes[i :: len(self._pipes)]))
        self.expected += len(nodes)
        while self._ask() < self.expected:
            if time.monotonic() > begun + within_s:
                raise TimeoutError("not every stream was opened")
            time.sleep(0.2)
        return time.monotonic() - begun

    def live(self, nodes: Sequence[SeededNode]) -> None:
        """Let NODES hold a stream, and come back whenever they lose it."""
        for i, pipe in enumerate(self._pipes):
            pipe.send(("live", nodes[i :: len(self._pipes)]))

    def life(self) -> Life:
        """How those are doing."""
        for pipe in self._pipes:
            pipe.send(("life",))
        found: list[Life] = [pipe.recv() for pipe in self._pipes]
        return Life(sum(one.held for one in found), [at for one in found for at in one.attempts])

    def told(self) -> list[Told]:
        """All configurations they were sent since the last call."""
        self._ask()
        told, self._unread = self._unread, []
        return [one for one in told if one.kind in CONFIGURATIONS]

    def _ask(self) -> int:
        opened = self.acknowledged = 0
        for pipe in self._pipes:
            pipe.send(("told",))
        for pipe in self._pipes:
            number, acknowledged, found, failed = pipe.recv()
            if failed:
                raise RuntimeError(f"{len(failed)} agents failed: {failed[:3]}")
            opened += number
            self.acknowledged += acknowledged
            self._unread += found
        return opened


@contextmanager
def simulated(served: Served, processes: int = 2) -> Iterator[Agents]:
    """No agents yet, in so many processes; all end with the block."""
    spawn: Any = get_context("spawn")
    pairs = [spawn.Pipe() for _ in range(processes)]
    authority = served.coordinator.authority
    started = [
        spawn.Process(target=_process, args=(theirs, served.address, authority), daemon=True)
        for _, theirs in pairs
    ]
    for process in started:
        process.start()
    try:
        yield Agents([ours for ours, _ in pairs])
    finally:
        for process in started:
            process.terminate()
            process.join()
