"""A coordinator as an operator runs it, over a network of thousands that is there already."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coordinator.settings import load
from coordinator.store.engine import opened
from tests.bench.control.seed import POOLS, SeededNode, seed
from tests.control.process import (
    Coordinator,
    cli,
    place,
    start,
    wait_until_it_answers,
    write_settings,
)
from ztlab.model.config import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One that runs, and who is enrolled there."""

    coordinator: Coordinator
    nodes: list[SeededNode]

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.coordinator.url)
        return str(parts.hostname), int(parts.port or 443)

    def resident_bytes(self) -> int:
        """What the process that serves has in memory (VmRSS, proc_pid_status(5))."""
        status = Path(f"/proc/{self.coordinator.worker_pid()}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def cpu_seconds(self) -> float:
        """What that process used, user and system (proc_pid_stat(5), in hundredths)."""
        stat = Path(f"/proc/{self.coordinator.worker_pid()}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


@contextmanager
def serving(roles: Mapping[Role, int], rule_count: int) -> Iterator[Served]:
    """One with so many nodes of each role, and so many rules, until the block ends."""
    with place() as directory:
        port = write_settings(directory, pools=list(POOLS))
        cli("init", "--owner-token-file", str(directory / "owner"), at=directory)
        with opened(load(directory / "coordinator.toml").database_url) as store:
            nodes = seed(store, dict(roles), rule_count)
        owner = (directory / "owner").read_text().strip()
        process = start(directory)
        here = Coordinator(directory, f"https://127.0.0.1:{port}", process, owner)
        try:
            wait_until_it_answers(here)
            yield Served(coordinator=here, nodes=nodes)
        finally:
            here.process.terminate()  # it may be another one by now
            here.process.wait(timeout=30)


class Owner:
    """The administrator, on one connection that is kept."""

    def __init__(self, served: Served) -> None:
        here = served.coordinator
        context = ssl.create_default_context(cadata=here.authority)
        host, port = served.address
        self._connection = http.client.HTTPSConnection(host, port, timeout=60, context=context)
        self._headers = {"Authorization": f"Bearer {here.owner}", "If-Match": "*"}

    def ask(self, method: str, path: str, body: Any = None, *, creates: bool = False) -> Any:
        """The JSON answer, which must be of success."""
        headers = dict(self._headers)
        content = None
        if creates:
            del headers["If-Match"]
        if body is not None:
            kind = "merge-patch+json" if method == "PATCH" else "json"
            headers["Content-Type"] = f"application/{kind}"
            content = json.dumps(body)
        self._connection.request(method, f"/api/v1{path}", content, headers)
        answer = self._connection.getresponse()
        raw = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {raw[:500]!r}")
        return json.loads(raw) if raw else None

    def close(self) -> None:
        self._connection.close()
