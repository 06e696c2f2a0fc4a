"""Two coordinators on one PostgreSQL, each with a state directory of its own."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.control import process
from tests.control.process import Coordinator

# What replicas have in common, as docs/INSTALL.md says; each makes its own certificate.
SHARED = ("authority.pem", "authority.key", "challenge.key")


@contextmanager
def replicas(database: str, **changes: Any) -> Iterator[tuple[Coordinator, Coordinator]]:
    """Two that run; DATABASE is a URL."""
    with ExitStack() as stack:
        first = stack.enter_context(process.running(database=database, **changes))
        directory = stack.enter_context(process.place())
        port = process.write_settings(directory, database=database, **changes)
        (directory / "state").mkdir(mode=0o700)
        for name in SHARED:
            shutil.copy2(first.directory / "state" / name, directory / "state" / name)
        process.cli("init", at=directory)
        second = Coordinator(
            directory, f"https://127.0.0.1:{port}", process.start(directory), first.owner
        )
        try:
            process.wait_until_it_answers(second)
            yield first, second
        finally:
            for client in second.clients:
                client.close()
            end(second)


def end(coordinator: Coordinator) -> None:
    """SIGTERM where it still runs."""
    if coordinator.process.poll() is None:
        coordinator.process.terminate()
        coordinator.process.wait(timeout=10)


def kill(coordinator: Coordinator) -> None:
    """SIGKILL, the master first, or it would start another worker."""
    worker = coordinator.worker_pid()
    coordinator.process.kill()
    os.kill(worker, signal.SIGKILL)
    coordinator.process.wait(timeout=10)


def log_of(coordinator: Coordinator) -> str:
    """What it said so far."""
    return Path(coordinator.directory / "log").read_text()
