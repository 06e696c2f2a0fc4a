"""What a lab has put into this machine, and what of it is still there.

Everything is looked for by the lab's own names and inodes, so that other labs may come and go
meanwhile. The kernel gives a dead namespace's inode to the next one at once: a process counts only
if it is older than the moment the inode was noted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ztlab.lab import processes, state
from ztlab.lab.lab import Lab

_LINKS = re.compile(r"p\d+|lan\d*|underlay|wg\d+")


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What to look for after a lab's end.

    namespaces  inodes of its network, mount and PID namespaces
    noted_ticks  when, in clock ticks since boot
    programs    ids of the BPF programs attached in it
    links, tables, pins  of the host, before the lab was made
    """

    lab: str
    namespaces: frozenset[int]
    noted_ticks: int
    programs: frozenset[int]
    links: frozenset[str]
    tables: frozenset[str]
    pins: frozenset[str]


def of_host() -> Traces:
    """The host as it is before a lab is made."""
    return Traces(
        lab="",
        namespaces=frozenset(),
        noted_ticks=0,
        programs=frozenset(),
        links=_links(),
        tables=_tables(),
        pins=_pins(),
    )


def of_lab(lab: Lab, host: Traces) -> Traces:
    """What LAB has, for `left` to look for once it is down. HOST was taken before it was made."""
    init = lab.record.init
    assert init is not None
    held = [n.namespaces for n in lab.record.nodes if n.namespaces is not None]
    inodes = {processes.namespace_inode(init.pid, kind) for kind in ("pid", "mnt")}
    for fds in held:
        inodes |= {processes.held_inode(init, fds.net), processes.held_inode(init, fds.mnt)}
    assert None not in inodes
    return Traces(
        lab=lab.name,
        namespaces=frozenset(inode for inode in inodes if inode is not None),
        noted_ticks=int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")),
        programs=frozenset(_programs(lab)),
        links=host.links,
        tables=host.tables,
        pins=host.pins,
    )


def left(traces: Traces, *, within_s: float = 30.0) -> list[str]:
    """What is still there, one line each; empty if nothing.

    The kernel takes dead network namespaces apart in a worker of its own, and the programs attached
    in them with it: hence the deadline.
    """
    deadline = time.monotonic() + within_s
    while (found := sorted(set(_left(traces)))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _left(traces: Traces) -> Iterator[str]:
    if state.lab_dir(traces.lab).exists():
        yield f"file {state.lab_dir(traces.lab)}"
    yield from (f"lock {path}" for path in state.labs_dir().glob(f".{traces.lab}.*"))
    yield from (f"name {path}" for path in Path("/run/netns").glob(f"{traces.lab}.*"))
    with open("/proc/self/mountinfo") as table:
        for line in table:
            if f"/{traces.lab}." in line or f"/labs/{traces.lab}/" in line:
                yield f"mount {line.strip()}"
    yield from _processes(traces)
    yield from (f"link {name}" for name in _links() - traces.links if _LINKS.fullmatch(name))
    yield from (f"table {name}" for name in _tables() - traces.tables if "zt" in name)
    yield from (f"pin {path}" for path in _pins() - traces.pins if "zt" in path)
    yield from (f"program {number}" for number in traces.programs if _has_program(number))


def _processes(traces: Traces) -> Iterator[str]:
    """Whoever is in one of the namespaces, holds one open, or has the lab's files as arguments."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        found = processes.identify(int(entry))
        if found is None or found.started_ticks > traces.noted_ticks or _is_sibling(int(entry)):
            continue
        for kind in ("net", "mnt", "pid"):
            if processes.namespace_inode(int(entry), kind) in traces.namespaces:
                yield f"process {entry} in a {kind} namespace of the lab: {_command(entry)}"
        if f"/labs/{traces.lab}/" in _command(entry):
            yield f"process {entry}: {_command(entry)}"
        for target in _held_open(entry):
            if any(target.endswith(f":[{inode}]") for inode in traces.namespaces):
                yield f"process {entry} holds {target}: {_command(entry)}"


def _held_open(pid: str) -> Iterator[str]:
    """What PID's descriptors stand for, as far as it lives so long."""
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{descriptor}")


def _is_sibling(pid: int) -> bool:
    """Another worker of this test run? It has namespaces of its own, and the kernel gives the
    number of one that is gone to the next."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return False
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return False
    return parent == os.getppid()


def _command(entry: str) -> str:
    try:
        return Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _links() -> frozenset[str]:
    return frozenset(os.listdir("/sys/class/net"))


def _tables() -> frozenset[str]:
    done = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    return frozenset(done.stdout.splitlines())


def _pins() -> frozenset[str]:
    return frozenset(str(path) for path in Path("/sys/fs/bpf").rglob("*"))


def _programs(lab: Lab) -> Iterator[int]:
    """Ids of the programs attached to the interfaces of every node."""
    for node in lab.nodes:
        shown = lab.run(node.name, ["bpftool", "-j", "net", "show"], check=True).stdout
        for section in json.loads(shown):
            for attached in section.get("tc", []):
                yield int(attached["prog_id"] if "prog_id" in attached else attached["id"])


def _has_program(number: int) -> bool:
    done = subprocess.run(["bpftool", "prog", "show", "id", str(number)], capture_output=True)
    return done.returncode == 0
