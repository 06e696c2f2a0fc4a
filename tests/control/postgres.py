"""A PostgreSQL server for tests: an ordinary user's, on a socket in a temporary directory."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from coordinator.settings import POSTGRES

START_S = 60.0  # the machine is shared
USER = "nobody"  # the server refuses to be root


@dataclass(slots=True)
class Server:
    """A running one; its databases are made from templates and gone with it."""

    directory: Path
    programs: Path
    process: subprocess.Popen[bytes]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str) -> str:
        """As coordinator.toml has it."""
        return f"{POSTGRES}{USER}@/{database}?host={self.directory}"

    def create(self, template: str = "template0", *options: str) -> str:
        """A new database like TEMPLATE; its name."""
        name = f"test{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} {' '.join(options)}")
        return name

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run STATEMENT, of this module or of a test, outside of any transaction."""
        with self.connect(database) as connection:
            connection.execute(sql.SQL(statement))

    def connect(self, database: str) -> psycopg.Connection:
        """A connection of the test's own."""
        return psycopg.connect(
            host=str(self.directory), dbname=database, user=USER, autocommit=True
        )


def programs() -> Path:
    """Where the newest server's programs are; the marker `postgres` says that there are some."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max(found, key=lambda path: int(path.parts[-3])).parent


@contextmanager
def running() -> Iterator[Server]:
    """A server from initdb to its end. It is sure of nothing on the disk: it is for tests."""
    with tempfile.TemporaryDirectory(prefix="zt-postgres-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        data, found = directory / "data", programs()
        account = pwd.getpwnam(USER)
        if os.geteuid() == 0:
            os.chown(directory, account.pw_uid, account.pw_gid)
        _as_user(
            [
                found / "initdb",
                "-D",
                data,
                "-U",
                USER,
                "-A",
                "trust",
                "--no-sync",
                "--locale=C",
                "--encoding=UTF8",
            ]
        )
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(directory),
            "max_connections": "200",
            "fsync": "off",
        }
        command: list[str | Path] = [found / "postgres", "-D", data]
        command += [*(f"--{k}={v}" for k, v in settings.items())]
        with (directory / "log").open("ab") as log:
            process = subprocess.Popen(_user_command(command), stdout=log, stderr=log)
        server = Server(directory, found, process)
        try:
            _wait(server)
            yield server
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # "fast": whoever is connected is cut off
                process.wait(timeout=START_S)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One for all tests of a worker."""
    with running() as server:
        yield server


def _as_user(command: Sequence[str | Path]) -> None:
    done = subprocess.run(_user_command(command), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _user_command(command: Sequence[str | Path]) -> list[str]:
    words = [str(word) for word in command]
    if os.geteuid() != 0:
        return words
    account = pwd.getpwnam(USER)
    setpriv = shutil.which("setpriv") or "setpriv"
    return [setpriv, f"--reuid={USER}", f"--regid={account.pw_gid}", "--clear-groups", *words]


def _wait(server: Server) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            server.connect("postgres").close()
            return
        except psycopg.OperationalError:
            log = (server.directory / "log").read_text()
            assert server.process.poll() is None, log
            assert time.monotonic() < deadline, f"it never answered: {log}"
            time.sleep(0.05)
