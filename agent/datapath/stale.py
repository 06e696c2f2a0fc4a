"""Pins of network namespaces that are gone: nothing in the kernel removes them.

Whether a namespace is still there cannot be asked by its inode. Most are seen in /proc: a thread
is in it, or holds it open, or it is mounted somewhere. But a socket or a device in it is enough to
keep one alive, and so is a process that this /proc does not show. So what is not seen is only
thought to be gone, and before its pins are removed its programs are asked: let go of, those that
run on an interface are still there, and are pinned again. Enforcement never depends on a pin: what
holds a program that runs is the interface. Killed in between, this process leaves a successor there
no programs to adopt, so that it begins with empty maps: an operator starts it, never an agent.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.datapath import pins
from agent.datapath.libbpf import library
from agent.datapath.maps import program_id
from ztlab.errors import ZtError

_PROC = Path("/proc")
# The kernel lets go of what was unpinned after a grace period (kernel/bpf/inode.c).
_LET_GO_S = 2.0
_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Stale:
    """The pins of one interface in a namespace that is not seen anywhere."""

    directory: Path
    namespace: int
    interface: str


def stale(run_dir: Path) -> tuple[Stale, ...]:
    """Those in the BPF file system of an agent with this RUN_DIR; nothing is mounted for it."""
    found = [s for root in (pins.BPFFS, run_dir / "bpf") for s in _pinned_in(root)]
    if not found:
        return ()
    seen = frozenset(namespaces_seen())
    return tuple(s for s in found if s.namespace not in seen)


def discard(found: Stale) -> bool:
    """Remove FOUND's pins; False where its programs run nevertheless, and stay pinned."""
    for directory in _sets(found.directory):
        if not _let_go_of_programs(directory / "programs"):
            return False
        pins.discard(directory)
    for folder in (found.directory, found.directory.parent):
        with contextlib.suppress(OSError):  # there is something else in it
            folder.rmdir()
    return True


def namespaces_seen() -> Iterator[int]:
    """Inodes of the network namespaces that a thread is in or holds open, or that are mounted."""
    mounts = set[int]()
    for process in (entry for entry in _PROC.iterdir() if entry.name.isdigit()):
        with contextlib.suppress(OSError):  # it may end at any time
            yield from _seen_in(process, mounts)


def _seen_in(process: Path, mounts: set[int]) -> Iterator[int]:
    """mounts: the mount namespaces that were looked into; each once."""
    for thread in (process / "task").iterdir():
        with contextlib.suppress(OSError):
            yield (thread / "ns/net").stat().st_ino
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            yield from _inode_in(os.readlink(descriptor))
    mount_namespace = (process / "ns/mnt").stat().st_ino
    if mount_namespace not in mounts:
        for line in (process / "mountinfo").read_text(errors="replace").splitlines():
            yield from _inode_in(line.split()[3])
        mounts.add(mount_namespace)


def _inode_in(text: str) -> Iterator[int]:
    """That of net:[INODE], as links and mounts have it."""
    if text.startswith("net:[") and text.endswith("]"):
        yield int(text[5:-1])


def _pinned_in(root: Path) -> Iterator[Stale]:
    """One for each interface that has a set, whether it is stale or not."""
    if not pins.is_bpffs(root):
        return
    for interface in (root / pins.OURS).glob("*/*"):
        namespace = interface.parent.name
        if namespace.isdigit() and interface.is_dir() and any(_sets(interface)):
            yield Stale(interface, int(namespace), interface.name.replace("%2e", "."))


def _sets(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if pins.schema_of(path) is not None]


def _let_go_of_programs(folder: Path) -> bool:
    """Unpin the programs in FOLDER; False where one goes on without, and all are as they were."""
    with ExitStack() as held:
        try:
            numbers = {name: program_id(fd) for name, fd in pins.opened_in(folder, held)}
        except FileNotFoundError:  # no set that was ever whole
            return True
    for name in numbers:
        (folder / name).unlink()
    deadline = time.monotonic() + _LET_GO_S
    while _running(numbers):
        if time.monotonic() > deadline:
            _pin_again(folder, numbers)
            return False
        time.sleep(_POLL_S)
    return True


def _running(numbers: Mapping[str, int]) -> bool:
    with ExitStack() as held:
        return any(_opened(number, held) is not None for number in numbers.values())


def _pin_again(folder: Path, numbers: Mapping[str, int]) -> None:
    with ExitStack() as held:
        for name, number in numbers.items():
            fd = _opened(number, held)
            if fd is not None:
                pins.pin(fd, folder / name)


def _opened(number: int, held: ExitStack) -> int | None:
    """The program of this NUMBER; None: it is gone."""
    fd = int(library().bpf_prog_get_fd_by_id(number))
    if fd >= 0:
        held.callback(os.close, fd)
        return fd
    if fd == -errno.ENOENT:
        return None
    raise ZtError(f"cannot look for program {number}: {os.strerror(-fd)}", hint="run as root")
