"""Namespaces of a lab: start the PID 1 that owns them, give them names, step into them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ztlab.errors import HostUnfit, NotFound, ZtError
from ztlab.lab import processes, syscalls
from ztlab.lab.names import namespace_name
from ztlab.lab.pace import scaled
from ztlab.lab.state import InitProcess, LabRecord, NamespaceFds, NodeRecord
from ztlab.lab.syscalls import CLONE_FS, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, MNT_DETACH

NETWORK = CLONE_NEWNET
NETWORK_AND_FILES = CLONE_NEWNET | CLONE_NEWNS
EVERYTHING = CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID

T = TypeVar("T")
NETNS_DIRECTORY = Path("/run/netns")
_START_TIMEOUT_S = 30.0
_ORPHAN_RETRIES = Path("/proc/sys/net/ipv4/tcp_orphan_retries")  # of the caller's namespace


class InitHandle:
    """A lab's PID 1 while `up` still holds its leash: it ends with us until `keep`."""

    def __init__(self, leash: socket.socket, reader: Any, process: InitProcess) -> None:
        self.process = process
        self._leash = leash
        self._reader = reader

    def make(self) -> dict[str, NamespaceFds]:
        """Let it make the namespaces; the descriptors that hold them, by node."""
        self._leash.sendall(b"go\n")
        answer = _answer(self._reader, "making the lab's namespaces")
        return {name: NamespaceFds(**fds) for name, fds in answer["ready"].items()}

    def keep(self) -> None:
        """From now on it lives until it is killed."""
        self._leash.sendall(b"keep\n")
        self._reader.readline()  # its closing the socket is the receipt

    def close(self) -> None:
        self._reader.close()
        self._leash.close()


def start_init(nodes: Sequence[Mapping[str, Any]], *, log: Path) -> InitHandle:
    """Start a lab's PID 1 for NODES (ztlab.lab.init has their shape); it waits for `make`."""
    ours, theirs = socket.socketpair()
    ours.settimeout(scaled(_START_TIMEOUT_S))
    with open(log, "ab") as output, theirs:
        starter = subprocess.Popen(
            [sys.executable, "-m", "ztlab.lab.init"],
            stdin=theirs.fileno(),
            stdout=output,
            stderr=output,
        )
    reader = ours.makefile("r")
    try:
        ours.sendall(json.dumps({"nodes": list(nodes)}).encode() + b"\n")
        pid = _answer(reader, "starting the lab's PID 1", log=log)["pid"]
        process = processes.identify(pid)
        if process is None:
            raise ZtError("the lab's PID 1 ended at once", hint=f"see {log}")
    except BaseException:
        reader.close()
        ours.close()
        raise
    finally:
        starter.wait()  # it only forks; without its answer it ends when our end is closed
    return InitHandle(ours, reader, process)


def _answer(reader: Any, doing: str, *, log: Path | None = None) -> dict[str, Any]:
    try:
        line = reader.readline()
    except TimeoutError:
        raise ZtError(f"{doing}: no answer within {scaled(_START_TIMEOUT_S):.0f} s") from None
    if not line:
        reason = log.read_text().strip().splitlines()[-1:] if log else []
        raise HostUnfit(
            f"{doing} failed: {reason[0] if reason else 'it ended unexpectedly'}",
            hint="`ztlab doctor` says what this machine lacks",
        )
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise HostUnfit(
            f"{doing} failed: {answer['error']}",
            hint="`ztlab doctor` says what this machine lacks",
        )
    return answer


@contextmanager
def _opened(record: LabRecord, node: NodeRecord, kinds: int) -> Iterator[list[tuple[int, int]]]:
    """(descriptor, kind) for each wanted namespace of NODE, in the order to enter them."""
    if record.init is None or node.namespaces is None or not processes.is_alive(record.init):
        raise NotFound(
            f"lab {record.name!r} is not running",
            hint=f"`ztlab down {record.name}` removes what is left of it",
        )
    base = f"/proc/{record.init.pid}"
    wanted = [
        (CLONE_NEWPID, f"{base}/ns/pid"),
        (CLONE_NEWNET, f"{base}/fd/{node.namespaces.net}"),
        (CLONE_NEWNS, f"{base}/fd/{node.namespaces.mnt}"),
    ]
    with contextlib.ExitStack() as stack:
        opened = []
        for kind, path in wanted:
            if kind & kinds:
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise NotFound(f"lab {record.name!r} ended just now ({error})") from None
                stack.callback(os.close, fd)
                opened.append((fd, kind))
        yield opened


def call_inside(
    record: LabRecord,
    node: NodeRecord,
    work: Callable[[], T],
    *,
    kinds: int = NETWORK,
    cwd: str | None = None,
    linger: Callable[[T], object] | None = None,
) -> T:
    """What WORK returns (or raises), called in a thread of its own inside NODE's namespaces.

    Namespaces belong to threads, so the rest of the program stays where it is; sockets made and
    processes started there stay in the node. With CLONE_NEWPID in KINDS only processes that WORK
    starts are in the lab's PID namespace. CWD is tried inside; without it "/" holds.
    """
    results: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def inside() -> None:
        try:
            with _opened(record, node, kinds) as opened:
                _enter(opened, cwd)
                result = work()
        except BaseException as error:  # handed to the caller, whatever it is
            results.put((False, error))
        else:
            results.put((True, result))
            if linger is not None:
                linger(result)

    threading.Thread(target=inside, name=f"in {node.name}", daemon=True).start()
    succeeded, result = results.get()
    if not succeeded:
        raise result
    return result  # type: ignore[no-any-return]


def _enter(opened: Sequence[tuple[int, int]], cwd: str | None) -> None:
    """Move this thread; it must end afterwards and never go back to other work."""
    if any(kind == CLONE_NEWNS for _, kind in opened):
        syscalls.unshare(CLONE_FS)  # root and cwd are shared with the other threads until now
    for fd, kind in opened:
        syscalls.setns(fd, kind)
    if cwd is not None:
        with contextlib.suppress(OSError):
            os.chdir(cwd)


def bind_names(record: LabRecord) -> None:
    """Give each network namespace its name in /run/netns, as `ip netns` expects it."""
    assert record.init is not None
    for node in record.nodes:
        assert node.namespaces is not None
        path = NETNS_DIRECTORY / namespace_name(record.name, node.name)
        while True:
            NETNS_DIRECTORY.mkdir(mode=0o755, exist_ok=True)
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o444))
                break
            except FileNotFoundError:
                continue  # another lab's end removed the empty directory just now
        source = f"/proc/{record.init.pid}/fd/{node.namespaces.net}"
        syscalls.mount(source, str(path), flags=syscalls.MS_BIND)


def refuse_taken_names(names: Sequence[str]) -> None:
    """ZtError if somebody else's namespace already has one of NAMES."""
    for name in names:
        if (NETNS_DIRECTORY / name).exists():
            raise ZtError(
                f"{NETNS_DIRECTORY / name} is there, and no lab of ours made it",
                hint=f"`ip netns delete {name}` removes it, or choose another --name",
            )


def forsake_connections(names: Sequence[str]) -> None:
    """Let TCP in the namespaces called NAMES give up at once on peers that are gone.

    The last FIN of a killed process may find its peer's end taken apart already. The kernel then
    repeats it for some 100 s (tcp_orphan_retries, ip-sysctl.rst), and so long the namespace lives
    on without a name, with the programs attached in it.
    """

    def work() -> None:
        for name in names:
            # OSError: nothing is mounted there (half-built), or it is no network namespace.
            with contextlib.suppress(OSError), open(NETNS_DIRECTORY / name) as namespace:
                syscalls.setns(namespace.fileno(), CLONE_NEWNET)
                _ORPHAN_RETRIES.write_text("1")

    # In a thread of its own, which ends afterwards: it is the thread that moves.
    thread = threading.Thread(target=work, name="leaving")
    thread.start()
    thread.join()


def unbind_names(names: Sequence[str]) -> None:
    """Take NAMES out of /run/netns, as far as they are there; the directory too if it is empty."""
    for name in names:
        path = NETNS_DIRECTORY / name
        with contextlib.suppress(OSError):  # EINVAL: nothing is mounted there (half-built)
            syscalls.umount(str(path), MNT_DETACH)
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        NETNS_DIRECTORY.rmdir()
