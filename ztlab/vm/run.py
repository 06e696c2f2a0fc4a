"""A command on another kernel, from the choice of the kernel to the exit code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from ztlab.errors import HostUnfit, ZtError
from ztlab.vm import engine as engines
from ztlab.vm import guest, initramfs, job, qemu, uml
from ztlab.vm.channels import Channels
from ztlab.vm.engine import Choice
from ztlab.vm.guest import Follower, Limits, Outcome
from ztlab.vm.kernels import Kernel
from ztlab.vm.passing import passing_folder

DEFAULT_MEMORY_MIB = 3072


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise ZtError("the working directory is gone", hint="cd to one that is there") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """What is asked for.

    argv         the command
    cwd          where it runs, on the host and there
    out          a directory of the host that it may write, seen there as /run/out
    environment  variables besides those that are kept of ours
    timeout_s    from start to end; None: as long as it likes
    """

    argv: Sequence[str]
    cwd: Path = field(default_factory=_here)
    out: Path | None = None
    memory_mib: int = DEFAULT_MEMORY_MIB
    timeout_s: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def choose(name: str | None, engine: engines.Wish) -> Choice:
    """The engine and the kernel for `--kernel NAME --engine ENGINE`; may boot one for a trial."""
    return engines.choose(name, engine, _trial)


def run(
    wanted: Guest,
    choice: Choice,
    *,
    stdout: int | None = 1,
    stderr: int | None = 2,
    on_up: Callable[[str], None] | None = None,
    boot_s: float | None = None,
    on_retry: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Run it to its end, its output going to the descriptors STDOUT and STDERR as it comes.

    boot_s  how long it may take to boot; default: what the engine needs on a busy machine
    Nothing of it is left on the host, however this ends, but what the command wrote into OUT.
    An emulated kernel that panics before the command began is booted once more; ON_RETRY is told.
    """
    merged = stdout is not None and stderr is not None and _same_file(stdout, stderr)
    work = job.Job(
        argv=wanted.argv,
        cwd=wanted.cwd,
        environment=job.environment(
            os.environ,
            engine=choice.engine,
            time_scale=engines.TIME_SCALE[choice.engine],
            more=wanted.environment,
        ),
        out=wanted.out,
        is_merged=merged,
    )
    limits = Limits(
        boot_s=engines.BOOT_S[choice.engine] if boot_s is None else boot_s,
        total_s=wanted.timeout_s,
    )

    def attempt() -> Outcome:
        with _folder(work, choice.engine) as folder, _started(wanted, choice, folder) as started:
            process, channels = started
            return Follower(
                channels=channels, limits=limits, stdout=stdout, stderr=stderr, on_up=on_up
            ).follow(process)

    outcome = attempt()
    # QEMU's emulation of several processors now and then lets one of them run into the breakpoint
    # with which the booting kernel patches itself: chance, where a broken kernel panics again.
    if choice.engine == "tcg" and outcome.panicked_at_boot:
        if on_retry is not None:
            on_retry(outcome)
        outcome = attempt()
    return outcome


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False


@contextmanager
def _folder(work: job.Job, engine: str) -> Iterator[Path]:
    """A folder of this run's own, with what the guest reads from it; gone when the block ends."""
    with passing_folder("ztlab-vm-") as folder:
        if re.search(r"[\s\"']", str(folder)):
            raise HostUnfit(
                f"the guest's kernel cannot be told of {str(folder)!r}",
                hint="set TMPDIR to a folder without blanks and quotes in its name",
            )
        (folder / "job").write_bytes(work.script())
        (folder / "settings").write_bytes(work.settings(engine))
        init = folder / "guest-init"
        init.write_bytes(resources.files("ztlab.vm").joinpath("guest-init").read_bytes())
        init.chmod(0o755)
        yield folder


@contextmanager
def _started(
    wanted: Guest, choice: Choice, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Channels]]:
    """The guest, started; ended, with all that served it, when the block ends."""
    image = choice.kernel.image
    assert image is not None
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    with ExitStack() as stack:
        channels = Channels()
        for pipe in channels.all():
            stack.callback(pipe.close)
        if choice.engine == "uml":
            environment["TMPDIR"] = str(uml.memory_folder(wanted.memory_mib))
            argv = uml.command(image, folder, wanted.memory_mib, channels)
        else:
            argv = _qemu(wanted, choice, folder, channels, stack)
        process = guest.start(argv, folder, channels, environment)
        stack.callback(guest.end, process)
        yield process, channels


def _qemu(
    wanted: Guest, choice: Choice, folder: Path, channels: Channels, stack: ExitStack
) -> list[str]:
    assert choice.kernel.image is not None
    vmlinux = folder / "vmlinux"
    qemu.unpack(choice.kernel.image, vmlinux)
    sockets = {"host": stack.enter_context(qemu.shared(folder, "host", Path("/"), cache="always"))}
    if wanted.out is not None:
        sockets["out"] = stack.enter_context(qemu.shared(folder, "out", wanted.out, cache="none"))
    return qemu.command(
        engine=choice.engine,
        kernel=vmlinux,
        initrd=initramfs.make(choice.kernel, folder),
        folder=folder,
        memory_mib=wanted.memory_mib,
        channels=channels,
        sockets=sockets,
    )


def _trial(kernel: Kernel) -> str:
    """Boot KERNEL by KVM, with a short watchdog: "" if that works, else why not."""
    choice = Choice(engine="kvm", kernel=kernel, reason="a trial")
    wanted = Guest(argv=("true",), cwd=Path("/"), memory_mib=512)
    try:
        outcome = run(wanted, choice, stdout=None, stderr=None, boot_s=engines.TRIAL_BOOT_S)
    except ZtError as error:
        return str(error)
    if outcome.exit_code == 0:
        return ""
    last = f": {outcome.console[-1]}" if outcome.console else ""
    return f"a trial boot failed: {outcome.why or outcome.exit_code}{last}"


def brought_out(outcome: Outcome, source: Path, target: Path) -> None:
    """Copy what the command wrote as SOURCE to TARGET; ZtError if it succeeded and did not."""
    try:
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        elif outcome.exit_code == 0:
            raise ZtError(f"the guest's command wrote no {source.name}")
    except OSError as error:
        raise ZtError(f"cannot write {target}: {error.strerror}") from None
