"""An emulated kernel that panics at boot gets a second try, one that panics again does not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ztlab.vm import guest, run
from ztlab.vm.channels import Channels
from ztlab.vm.engine import Choice, Engine
from ztlab.vm.guest import Outcome
from ztlab.vm.kernels import Kernel
from ztlab.vm.run import Guest

PANIC = "echo 'Kernel panic - not syncing: Fatal exception in interrupt'"
WORKS = "echo up 6.12 >&$CTL; echo exit 7 >&$CTL"


@pytest.mark.parametrize(
    ("engine", "boots", "code", "count"),
    [
        ("tcg", [PANIC, WORKS], 7, 2),
        ("tcg", [PANIC, PANIC, WORKS], guest.DIED, 2),
        ("tcg", [f"echo up 6.12 >&$CTL; sleep 0.1; {PANIC}", WORKS], guest.DIED, 1),
        ("kvm", [PANIC, WORKS], guest.DIED, 1),
    ],
    ids=["panics once", "panics twice", "panics under the command", "is not emulated"],
)
def test_an_emulated_kernel_that_panics_at_boot_is_booted_once_more(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, boots: list[str], code: int, count: int
) -> None:
    scripts = iter(boots)
    booted: list[str] = []

    @contextmanager
    def started(
        wanted: Guest, choice: Choice, folder: Path
    ) -> Iterator[tuple[subprocess.Popen[bytes], Channels]]:
        del wanted, choice
        channels = Channels()
        booted.append(next(scripts))
        script = booted[-1].replace("$CTL", str(channels.control.guest))
        process = guest.start(
            ["bash", "-c", script], folder, channels, {"PATH": os.environ["PATH"]}
        )
        yield process, channels
        for pipe in channels.all():
            pipe.close()

    monkeypatch.setattr(run, "_started", started)
    kernel = Kernel(kind="stock", release="6.12", image=Path("/boot/vmlinuz"))
    choice = Choice(engine=engine, kernel=kernel, reason="as asked")
    told: list[Outcome] = []
    outcome = run.run(Guest(argv=("true",)), choice, stdout=None, stderr=None, on_retry=told.append)
    assert (outcome.exit_code, len(booted)) == (code, count)
    assert [retried.panicked_at_boot for retried in told] == [True] * (count - 1)
