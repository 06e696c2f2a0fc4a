"""Processes of a lab as the host sees them: who is in its PID namespace, and is it still itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ztlab.lab.state import InitProcess

_PF_EXITING = 0x4  # include/linux/sched.h; in the field "flags" of /proc/PID/stat


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of a lab.

    pid        as the host sees it; inner_pid  as the lab does
    net        inode of its network namespace, which tells the node
    is_zombie  it has ended and nobody collected it yet
    """

    pid: int
    inner_pid: int
    net: int
    is_zombie: bool
    argv: tuple[str, ...]


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third (state) on; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def identify(pid: int) -> InitProcess | None:
    """PID with what makes it unmistakable; None if it is gone."""
    fields = _stat_fields(pid)
    if fields is None:
        return None
    return InitProcess(pid=pid, started_ticks=int(fields[19]), boot_id=boot_id())


def is_alive(process: InitProcess) -> bool:
    """Is it still running, and still the same one? A zombie is not, nor is what only waits to be
    one: a PID 1 that was killed, until every process of its namespace is reaped."""
    fields = _own_fields(process)
    return fields is not None and fields[0] not in "ZX" and not _is_exiting(fields)


def is_gone(process: InitProcess) -> bool:
    """Has it left with all its namespace?

    A zombie whose namespace is empty waits only for its parent, which is none of ours; nor is the
    parent of a process that somebody put into the lab from outside and that nobody reaps (the
    PID 1 of many a container never does). What is dead holds nothing any more.
    """
    fields = _own_fields(process)
    if fields is None or fields[0] in "ZX":
        return True
    inode = namespace_inode(process.pid, "pid")
    # In this order its files, then its namespaces are released: nothing of the lab is held open.
    if not _is_exiting(fields) or namespace_inode(process.pid, "net") is not None or inode is None:
        return False
    return all(p.is_zombie or p.pid == process.pid for p in in_pid_namespace(inode))


def _own_fields(process: InitProcess) -> list[str] | None:
    """Its /proc/PID/stat as `_stat_fields` has it; None if it is gone, whoever has the pid now."""
    fields = _stat_fields(process.pid) if process.boot_id == boot_id() else None
    return fields if fields is not None and int(fields[19]) == process.started_ticks else None


def _is_exiting(fields: list[str]) -> bool:
    return bool(int(fields[6]) & _PF_EXITING)


def kill(process: InitProcess) -> None:
    """SIGKILL, to exactly that process: the descriptor pins it while its start time is checked."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if is_alive(process):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)


def namespace_inode(pid: int, kind: str) -> int | None:
    """The inode of a process's namespace ("net", "pid"); None if it is gone or not ours to see."""
    try:
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    except OSError:
        return None


def held_inode(init: InitProcess, fd: int) -> int | None:
    """The inode of the namespace that INIT holds open as FD; None if it is gone."""
    try:
        return os.stat(f"/proc/{init.pid}/fd/{fd}").st_ino
    except OSError:
        return None


def in_pid_namespace(inode: int) -> Iterator[Process]:
    """Every process whose PID namespace is INODE, in the host's order of pids."""
    for pid in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        if namespace_inode(pid, "pid") != inode:
            continue
        process = _describe(pid)
        if process is not None:
            yield process


def _describe(pid: int) -> Process | None:
    net = namespace_inode(pid, "net")
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return None
    values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return Process(
        pid=pid,
        inner_pid=int(values["NSpid"].split()[-1]),
        net=net or 0,
        is_zombie=values["State"].split()[0] in "ZX",
        argv=tuple(part.decode(errors="replace") for part in argv if part),
    )
