"""A coordinator as an operator runs it: a process, real TLS on loopback, a port of its own."""

from __future__ import annotations

import base64
import json
import os
import pwd
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from ztlab.client.admin import AdminClient
from ztlab.client.node import NodeClient
from ztlab.errors import Unreachable
from ztlab.lab.reach import obstacles, program_directories
from ztlab.model import proof
from ztlab.model.config import Role
from ztlab.model.proof import Transcript

PROGRAM = Path(sys.executable).with_name("zt-coordinator")
START_S = 20.0
STOP_S = 2.0  # docs/CONFIGURATION.md; it takes 0.3 s, also where everybody else is busy
RUN = (str(PROGRAM), "run")
# Likewise, with no more patience for a stalled connection than a test has.
_IMPATIENT = """
from gevent import monkey
monkey.patch_all()
import sys
from pathlib import Path
from coordinator import server, settings
server.STALLED_S, server.KEEPALIVE_S = 1.1, 1
server.serve(settings.load(Path(sys.argv[-1])))
"""
IMPATIENT = (sys.executable, "-c", _IMPATIENT)


class Keys:
    """A WireGuard key pair and the proof that only its holder can give."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = base64.b64encode(self._private.public_key().public_bytes_raw()).decode()

    def prove(self, transcript: Transcript) -> bytes:
        theirs = X25519PublicKey.from_public_bytes(transcript.ephemeral_key)
        return proof.prove(transcript, self._private.exchange(theirs))


@dataclass(slots=True)
class Coordinator:
    """A running one."""

    directory: Path
    url: str
    process: subprocess.Popen[bytes]
    owner: str
    clients: list[NodeClient] = field(default_factory=list)

    @property
    def authority(self) -> str:
        return (self.directory / "state/authority.pem").read_text()

    def admin(self, token: str | None = None) -> AdminClient:
        return AdminClient(self.url, self.authority, token or self.owner)

    def node(self, token: str | None = None, **options: Any) -> NodeClient:
        client = NodeClient(self.url, self.authority, token, **options)
        self.clients.append(client)
        return client

    def token(self, name: str, role: str) -> str:
        """An administrator's token, made on the command line beside the running service."""
        made = cli("token", "create", "--name", name, "--role", role, "--json", at=self.directory)
        return str(json.loads(made.stdout)["token"])

    def enrol(
        self,
        name: str,
        *,
        role: Role = "mesh",
        identity: str | None = None,
        endpoint: str | None = "198.51.100.7:51820",
        keys: Keys | None = None,
    ) -> tuple[NodeClient, Keys]:
        """A node that has joined by a setup key of its own."""
        keys = keys or Keys()
        admin = self.admin()
        key = admin.create_setup_key(role=role, name=name, identity=identity).key
        admin.close()
        assert key is not None
        client = self.node()
        client.enrol(
            setup_key=key, public_key=keys.public, name=name, endpoint=endpoint, prove=keys.prove
        )
        return client, keys

    def worker_pid(self) -> int:
        """The gunicorn worker's."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def stop(self) -> float:
        """SIGTERM, and how many seconds it took to end with 0."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=10) == 0
        return time.monotonic() - begun


def cli(*arguments: str, at: Path) -> subprocess.CompletedProcess[str]:
    """Run `zt-coordinator ARGUMENTS --config` with the settings at AT; it must succeed."""
    done = subprocess.run(
        [PROGRAM, *arguments, "--config", at / "coordinator.toml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def write_settings(directory: Path, **changes: Any) -> int:
    """coordinator.toml in DIRECTORY; the port it listens on."""
    port = free_port()
    settings: dict[str, Any] = {
        "state_dir": str(directory / "state"),
        "listen": f"127.0.0.1:{port}",
        "names": ["127.0.0.1", "localhost"],
        "network": "test",
        "pools": ["10.77.0.0/16", "fd77::/64"],
        **({"user": "nobody"} if os.geteuid() == 0 else {}),
        **changes,
    }
    lines = [f"{key} = {_toml(value)}\n" for key, value in settings.items()]
    path = directory / "coordinator.toml"
    path.write_text("".join(lines))
    path.chmod(0o644)
    return port


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def start(
    directory: Path, *, user: str | None = None, program: Sequence[str] = RUN
) -> subprocess.Popen[bytes]:
    """`zt-coordinator run`, started by USER (None: by us), with its log in DIRECTORY/log."""
    with (directory / "log").open("ab") as log:
        command = [*program, "--config", str(directory / "coordinator.toml")]
        opened = _way_to_the_project(directory) if os.geteuid() == 0 else []
        if opened:
            become = ["setpriv", f"--reuid={user}", f"--regid={_group(user)}", "--clear-groups"]
            command = [*opened, *(become if user else ()), *command]
            return subprocess.Popen(command, stdout=log, stderr=log)
        groups: list[int] | None = None if user is None else []
        return subprocess.Popen(
            command, stdout=log, stderr=log, user=user, group=_group(user), extra_groups=groups
        )


def _way_to_the_project(stage: Path) -> list[str]:
    """What to put before a command so that an ordinary user can read the project, which may be
    checked out below a closed directory: that is covered, in a mount namespace of the command's
    own, and the project bound to where it was. Empty where nothing is in the way."""
    cover, uncover = obstacles(program_directories())
    if not cover:
        return []
    lines = ["set -e"]
    for i, path in enumerate(uncover):
        held = shlex.quote(str(stage / f"way{i}"))
        lines += [f"mkdir -p {held}", f"mount --bind {shlex.quote(path)} {held}"]
    lines += [f"mount -t tmpfs -o mode=755 cover {shlex.quote(path)}" for path in cover]
    for i, path in enumerate(uncover):
        held = shlex.quote(str(stage / f"way{i}"))
        lines += [f"mkdir -p {shlex.quote(path)}", f"mount --move {held} {shlex.quote(path)}"]
    return ["unshare", "--mount", "sh", "-c", "\n".join([*lines, 'exec "$@"']), "sh"]


def _group(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid


def wait_until_it_answers(coordinator: Coordinator) -> None:
    deadline = time.monotonic() + START_S
    while True:
        admin = coordinator.admin()
        try:
            admin.network()
            return
        except Unreachable:
            assert coordinator.process.poll() is None, (coordinator.directory / "log").read_text()
            assert time.monotonic() < deadline, "it never answered"
            time.sleep(0.02)
        finally:
            admin.close()


@contextmanager
def place() -> Iterator[Path]:
    """A directory that an unprivileged user can get through; pytest's own it could not."""
    with tempfile.TemporaryDirectory(prefix="zt-coordinator-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        yield directory


@contextmanager
def running(*, program: Sequence[str] = RUN, **changes: Any) -> Iterator[Coordinator]:
    """A coordinator from `init` to SIGTERM; CHANGES are to its settings."""
    with place() as directory:
        yield from _running(directory, program, **changes)


def _running(directory: Path, program: Sequence[str], **changes: Any) -> Iterator[Coordinator]:
    port = write_settings(directory, **changes)
    cli("init", "--owner-token-file", str(directory / "owner"), at=directory)
    owner = (directory / "owner").read_text().strip()
    here = Coordinator(
        directory, f"https://127.0.0.1:{port}", start(directory, program=program), owner
    )
    try:
        wait_until_it_answers(here)
        yield here
    finally:
        for client in here.clients:
            client.close()
        process = here.process  # a test may have started another one
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
