"""A guest from its start to its end: output as it comes, watchdogs, and how it ended."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ztlab.vm.channels import Channels, Pipe

# Exit codes that no command of ours uses; 126 and 127 are the shell's.
OUT_OF_MEMORY, NOT_BOOTED, TIMED_OUT, DIED = 122, 123, 124, 125

_TICK_S = 0.25
_OFF_S = 20.0  # from the job's end to the power being off
_CHUNK = 1 << 16
_CONSOLE_LINES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a guest may take, in seconds.

    boot_s     until guest-init is about to start the job
    silence_s  between two signs of life; they come every 5 s
    total_s    from start to end; None: as long as it likes
    """

    boot_s: float
    silence_s: float = 180.0
    total_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a guest ended.

    exit_code  the command's, if it came to its end; else one of the four above
    why        "" if the command came to its end, else what happened instead
    release    the kernel's own name for itself; "" if it did not come so far
    boot_s     until the job began; None if it did not
    console    the last lines that kernel and starter wrote
    """

    exit_code: int
    why: str
    release: str
    boot_s: float | None
    total_s: float
    console: tuple[str, ...]

    @property
    def panicked_at_boot(self) -> bool:
        """Whether the kernel panicked before the command began."""
        return self.boot_s is None and any("Kernel panic" in line for line in self.console)

    def tail(self, lines: int) -> tuple[str, ...]:
        """The last LINES of the console; of a panic, the line that says why comes first."""
        panics = [i for i, line in enumerate(self.console) if "Kernel panic" in line]
        if panics and panics[-1] < len(self.console) - lines:
            return (self.console[panics[-1]], "…", *self.console[2 - lines :])
        return self.console[-lines:]


def start(
    argv: Sequence[str], folder: Path, channels: Channels, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start ARGV on a leash: whatever becomes of us, it ends, and all that it started.

    As root in a pid namespace of its own, which the kernel clears when its first process ends.
    No terminal, no core files, FOLDER as working directory.
    """
    leash = ["setpriv", "--pdeathsig", "KILL", "prlimit", "--core=0", "--"]
    if os.geteuid() == 0:
        leash += ["unshare", "--pid", "--fork", "--kill-child=KILL", "--"]
        # Not ARGV itself: the first process of a namespace cannot abort, and a panicking UML does.
        leash += ["sh", "-c", '"$@"; exit $?', "sh"]
    pipes = (channels.stdout, channels.stderr, channels.control)
    process = subprocess.Popen(
        [*leash, *argv],
        stdin=subprocess.DEVNULL,
        stdout=channels.console.guest,
        stderr=channels.console.guest,
        pass_fds=[pipe.guest for pipe in pipes],
        cwd=folder,
        env=dict(environment),
        start_new_session=True,  # a panicking UML kills its whole process group
    )
    for pipe in channels.all():
        pipe.close_guest()
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """End what `start` began, at once; nothing happens if it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass(slots=True)
class Follower:
    """Reads what a guest says until it ends, or one of its limits does.

    stdout, stderr  where the job's output goes: file descriptors of ours; None: nowhere
    on_up           called with the kernel's release when the job is about to begin
    """

    channels: Channels
    limits: Limits
    stdout: int | None = 1
    stderr: int | None = 2
    on_up: Callable[[str], None] | None = None
    _began: float = field(default_factory=time.monotonic)
    _control: bytes = b""
    _console: deque[bytes] = field(default_factory=lambda: deque([b""], maxlen=_CONSOLE_LINES))
    _release: str = ""
    _up_at: float | None = None
    _alive_at: float = 0.0
    _code: int | None = None
    _code_at: float = 0.0
    _fault: tuple[int, str] | None = None

    def follow(self, process: subprocess.Popen[bytes]) -> Outcome:
        """Follow PROCESS to its end, and see to it that it ends."""
        with selectors.DefaultSelector() as selector:
            self._register(selector)
            while selector.get_map() and self._fault is None and process.poll() is None:
                self._read(selector, _TICK_S)
                self._check(time.monotonic())
            if self._fault is not None or self._code is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0 if self._fault else 1.0)
            end(process)
            while selector.get_map() and self._read(selector, 0.2):
                pass  # what is still in the pipes
        return self._outcome()

    def _register(self, selector: selectors.BaseSelector) -> None:
        takers: tuple[tuple[Pipe, Callable[[bytes], None]], ...] = (
            (self.channels.stdout, lambda data: _write(self.stdout, data)),
            (self.channels.stderr, lambda data: _write(self.stderr, data)),
            (self.channels.control, self._take_control),
            (self.channels.console, self._take_console),
        )
        for pipe, taker in takers:
            selector.register(pipe.host, selectors.EVENT_READ, taker)

    def _read(self, selector: selectors.BaseSelector, timeout_s: float) -> bool:
        """Pass on what there is; False if nothing came in TIMEOUT_S."""
        ready = selector.select(timeout_s)
        for key, _ in ready:
            if data := os.read(key.fd, _CHUNK):
                key.data(data)
            else:
                selector.unregister(key.fd)
        return bool(ready)

    def _take_control(self, data: bytes) -> None:
        *lines, self._control = (self._control + data).split(b"\n")
        now = self._alive_at = time.monotonic()
        for line in lines:
            word, _, rest = line.decode(errors="replace").strip().partition(" ")
            if word == "up" and self._up_at is None:
                self._up_at, self._release = now, rest
                if self.on_up is not None:
                    self.on_up(rest)
            elif word == "up":
                self._fault = (DIED, "the guest started anew")
            elif word == "exit":
                self._code, self._code_at = int(rest), now

    def _take_console(self, data: bytes) -> None:
        first, *lines = data.split(b"\n")
        self._console[-1] += first
        self._console.extend(lines)

    def _check(self, now: float) -> None:
        limits = self.limits
        if self._code is not None:
            if now > self._code_at + _OFF_S:
                self._fault = (self._code, "")  # the command is done; the rest does not matter
        elif limits.total_s is not None and now > self._began + limits.total_s:
            self._fault = (TIMED_OUT, f"not done after {limits.total_s:g} s")
        elif self._up_at is None and now > self._began + limits.boot_s:
            self._fault = (NOT_BOOTED, f"the guest did not boot within {limits.boot_s:g} s")
        elif self._up_at is not None and now > self._alive_at + limits.silence_s:
            self._fault = (DIED, f"the guest gave no sign of life for {limits.silence_s:g} s")

    def _outcome(self) -> Outcome:
        console = tuple(
            text for line in self._console if (text := line.decode(errors="replace").rstrip())
        )
        if self._code is not None:
            code, why = self._code, ""
        elif self._fault is not None:
            code, why = self._fault
        elif any("Kernel panic" in line and "ut of memory" in line for line in console):
            code, why = OUT_OF_MEMORY, "the guest ran out of memory"
        elif any("Kernel panic" in line for line in console):
            code, why = DIED, "the guest's kernel panicked"
        else:
            code, why = DIED, "the guest ended before its command did"
        return Outcome(
            exit_code=code,
            why=why,
            release=self._release,
            boot_s=None if self._up_at is None else self._up_at - self._began,
            total_s=time.monotonic() - self._began,
            console=console,
        )


def _write(sink: int | None, data: bytes) -> None:
    """All of DATA to SINK, waiting where its reader is slow."""
    view = memoryview(data)
    while sink is not None and view:
        view = view[os.write(sink, view) :]
