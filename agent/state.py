"""The node's own files: written whole or not at all, private, and on disk before they count.

state_dir/private.key    WireGuard private key, base64
state_dir/next.key       and former.key: only while the key is changed (agent/keyfiles.py)
state_dir/local.json     the two local switches, where `zt-agent set` overrode the file
state_dir/session.json   who this node is to its coordinator, and its current token
state_dir/authority.pem  the pinned TLS authority
state_dir/config.json    the last good configuration with its revision
run_dir/sysctls.json     the values to restore when a gateway stops forwarding
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from ztlab.errors import HostUnfit, SchemaError, ZtError

PRIVATE_FILE = 0o600
PRIVATE_DIR = 0o700


def private_directory(path: Path) -> Path:
    """PATH as a directory that only its owner can enter; made if missing.

    An empty one is made private; one with files in it is left as it is: it may be somebody
    else's, such as /run.
    """
    try:
        path.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
        if not any(path.iterdir()):
            path.chmod(PRIVATE_DIR)
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise HostUnfit(f"cannot use {path} as a directory: {error.strerror}") from error
    if mode & 0o077:
        raise HostUnfit(
            f"{path} is open to others (mode {mode:04o})",
            hint=f"name a directory of the agent's own, or chmod 0700 {path}",
        )
    return path


def write(path: Path, content: bytes) -> None:
    """Replace PATH by CONTENT (mode 0600): after a crash it is the old file or the new, never half.

    The data is on disk before the name points at it, and the name before this returns.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ZtError(
            f"cannot write {path}: {error.strerror}", hint="is the disk full or read-only?"
        ) from error


def remove(path: Path) -> None:
    """Remove PATH, and have that on disk before this returns; no error where it is not there."""
    try:
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except OSError as error:
        raise ZtError(f"cannot remove {path}: {error.strerror}") from error


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read(path: Path) -> bytes | None:
    """The content of PATH; None where there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ZtError(f"cannot read {path}: {error.strerror}") from error


def private_text(path: Path) -> str:
    """The text of PATH, an operator's file with secrets, in ASCII; SchemaError where others than
    root and this user can have read or written it."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())  # of what was opened, whatever the name says by now
            content = file.read()
    except OSError as error:
        raise SchemaError([f"{path}: cannot read it: {error.strerror}"]) from error
    if status.st_uid not in (0, os.geteuid()):
        raise SchemaError(
            [f"{path}: belongs to user {status.st_uid}"], hint=f"chown root:root {path}"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise SchemaError(
            [f"{path}: is open to others (mode {mode:04o})"],
            hint=f"chmod 0600 {path}; the secrets in it may be known to others by now",
        )
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise SchemaError([f"{path}: not a text in ASCII"]) from None


def write_json(path: Path, value: Any) -> None:
    """`write` VALUE as JSON."""
    write(path, json.dumps(value).encode())


def read_json(path: Path) -> Any:
    """The JSON in PATH; None where there is no such file, or it is not JSON.

    Only for files that can be made anew: a damaged one is as good as none.
    """
    content = read(path)
    if content is None:
        return None
    try:
        return json.loads(content)
    except ValueError:
        return None
