"""Start programs inside a node: children of ours that end with us, and daemons that stay."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ztlab.errors import HostUnfit, NotFound, ZtError
from ztlab.lab.namespaces import EVERYTHING, call_inside
from ztlab.lab.state import LabRecord, NodeRecord

_LEASH = ("setpriv", "--pdeathsig", "KILL", "--")
_KEPT_PREFIXES = ("ZT_", "BCC_", "LC_")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NoCommand(NotFound):
    """A program that the node does not have; the exit code is a shell's."""

    exit_code = 127


def programs_dir() -> Path:
    """Where zt-agent and zt-coordinator are: beside the interpreter that runs us."""
    return Path(sys.executable).parent


def program(name: str) -> str:
    """The path of one of our own commands; HostUnfit if it is not installed."""
    path = programs_dir() / name
    if not path.exists():
        raise HostUnfit(f"{path} is missing", hint="install the project: make setup")
    return str(path)


def node_environment(
    record: LabRecord, node: NodeRecord, base: Mapping[str, str]
) -> dict[str, str]:
    """BASE, our commands first in its PATH, lab and node in ZTLAB_LAB and ZTLAB_NODE."""
    path = base.get("PATH") or _SYSTEM_PATH
    return {
        **base,
        "PATH": f"{programs_dir()}:{path}",
        "ZTLAB_LAB": record.name,
        "ZTLAB_NODE": node.name,
    }


def daemon_environment(record: LabRecord, node: NodeRecord) -> dict[str, str]:
    """What a daemon gets from ours: no more than a service manager would give it."""
    kept = {k: v for k, v in os.environ.items() if k.startswith(_KEPT_PREFIXES)}
    kept |= {"PATH": _SYSTEM_PATH, "HOME": "/root", "LANG": "C.UTF-8"}
    return node_environment(record, node, kept)


def popen(
    record: LabRecord,
    node: NodeRecord,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    **streams: Any,
) -> subprocess.Popen[Any]:
    """ARGV started inside NODE as a direct child of this process.

    The kernel kills it when this process ends, however that happens. STREAMS go to Popen. Signals,
    exit code and pid are the program's own: there is nothing in between.
    """
    environment = node_environment(record, node, os.environ) | dict(env or {})

    def start() -> subprocess.Popen[Any]:
        if shutil.which(argv[0], path=environment["PATH"]) is None:
            raise NoCommand(f"{node.name}: no command {argv[0]!r}")
        return subprocess.Popen([*_LEASH, *argv], env=environment, **streams)

    process = call_inside(record, node, start, kinds=EVERYTHING, cwd=_here(), linger=_stay)
    _wait_for_leash(process.pid)
    return process


def _here() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed under our feet
        return None


def _stay(process: subprocess.Popen[Any]) -> None:
    """Keep this thread until PROCESS ends: for the kernel, the parent whose death ends a child is
    the *thread* that started it. Then collect it: a zombie would hold up the lab's end."""
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return  # the caller's own wait() was first
    process.poll()


def _wait_for_leash(pid: int) -> None:
    """Return once setpriv has become the program: from then on PID dies with us, kill -9 or not."""
    path = Path(f"/proc/{pid}/cmdline")
    prefix = b"\0".join(word.encode() for word in _LEASH) + b"\0"
    with contextlib.suppress(OSError):  # it has ended, and was collected
        while path.read_bytes().startswith(prefix):
            time.sleep(0.0005)


def run(
    record: LabRecord,
    node: NodeRecord,
    argv: Sequence[str],
    *,
    timeout_s: float | None,
    stdin: str | None,
    env: Mapping[str, str] | None,
) -> subprocess.CompletedProcess[str]:
    """ARGV inside NODE to its end, its output as text. subprocess.TimeoutExpired after TIMEOUT_S,
    with everything it had started killed."""
    process = popen(
        record,
        node,
        argv,
        env=env,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(stdin, timeout=timeout_s)
    except BaseException:
        _kill_group(process.pid)
        process.communicate()
        raise
    return subprocess.CompletedProcess(list(argv), process.returncode, out, err)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def run_in_foreground(
    record: LabRecord,
    node: NodeRecord,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None,
    keep_fds: tuple[int, ...] = (),
) -> int:
    """ARGV inside NODE with our terminal and streams; its exit code, 128 + N if signal N ended it.

    Ctrl-C and Ctrl-\\ reach it from the terminal, and are its business, not ours; SIGTERM and
    SIGHUP to us are passed on.
    """
    process: subprocess.Popen[Any] | None = None
    early: list[int] = []  # came before there was anyone to pass them on to

    def pass_on(number: int, _frame: object) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    # Handlers, not SIG_IGN: an ignored signal would stay ignored in the program we start.
    before = {n: signal.signal(n, lambda *_: None) for n in (signal.SIGINT, signal.SIGQUIT)}
    before |= {n: signal.signal(n, pass_on) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        process = popen(record, node, argv, env=env, pass_fds=keep_fds)
        for number in early:
            process.send_signal(number)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def spawn(
    record: LabRecord,
    node: NodeRecord,
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
) -> int:
    """ARGV as a daemon inside NODE, its output appended to LOG; its pid inside the lab.

    It belongs to the lab's PID 1 from the start, so it outlives us and ends with the lab.
    """
    environment = daemon_environment(record, node) | dict(env or {})

    def start() -> int:
        # setsid forks and ends at once, so the shell is an orphan of the lab; it says its pid and
        # becomes the program.
        script = 'echo $$; exec "$@" >&2'
        command = ["setsid", "--fork", "sh", "-c", script, "sh", *argv]
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        ) as starter:
            assert starter.stdout is not None
            return int(starter.stdout.readline())

    with open(log, "ab") as output:
        try:
            return call_inside(record, node, start, kinds=EVERYTHING)
        except ValueError:
            raise ZtError(f"{node.name}: {argv[0]} could not be started") from None


def is_running(record: LabRecord, inner_pid: int) -> bool:
    """Is the process INNER_PID of the lab there, and not a zombie?"""
    assert record.init is not None
    try:
        text = Path(f"/proc/{record.init.pid}/root/proc/{inner_pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"
