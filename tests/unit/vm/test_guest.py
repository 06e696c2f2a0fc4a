"""A guest that talks, one that falls silent, one that dies: here the guest is a shell script."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ztlab.vm import guest
from ztlab.vm.channels import Channels
from ztlab.vm.guest import Follower, Limits, Outcome

Follow = Callable[..., Outcome]


@pytest.fixture
def follow(tmp_path: Path) -> Follow:
    """Run a script as the guest: $OUT, $ERR and $CTL are its channels, 1 is the console."""

    def run(script: str, *, sink: int | None = None, **limits: float) -> Outcome:
        channels = Channels()
        numbers = {
            "OUT": str(channels.stdout.guest),
            "ERR": str(channels.stderr.guest),
            "CTL": str(channels.control.guest),
        }
        text = script
        for name, number in numbers.items():
            text = text.replace(f"${name}", number)
        process = guest.start(
            ["bash", "-c", text], tmp_path, channels, {"PATH": os.environ["PATH"]}
        )
        follower = Follower(
            channels=channels,
            limits=Limits(**{"boot_s": 20.0, **limits}),
            stdout=sink,
            stderr=None,
        )
        try:
            return follower.follow(process)
        finally:
            for pipe in channels.all():
                pipe.close()

    return run


def test_the_exit_code_and_the_output_pass_through(follow: Follow) -> None:
    reader, writer = os.pipe()
    outcome = follow("echo up 6.12 >&$CTL; echo hello >&$OUT; echo exit 7 >&$CTL", sink=writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as output:
        assert output.read() == b"hello\n"
    assert (outcome.exit_code, outcome.why, outcome.release) == (7, "", "6.12")
    assert outcome.boot_s is not None


def test_a_guest_that_does_not_boot_is_ended_by_the_watchdog(follow: Follow) -> None:
    outcome = follow("echo stuck; sleep 60", boot_s=0.5)
    assert outcome.exit_code == guest.NOT_BOOTED
    assert outcome.console == ("stuck",)
    assert outcome.total_s < 10


def test_a_guest_that_gives_no_sign_of_life_is_ended(follow: Follow) -> None:
    outcome = follow("echo up 1 >&$CTL; sleep 60", silence_s=0.5)
    assert outcome.exit_code == guest.DIED and "no sign of life" in outcome.why


def test_signs_of_life_keep_a_guest_alive_until_its_time_is_over(follow: Follow) -> None:
    script = "echo up 1 >&$CTL; while sleep 0.1; do echo alive >&$CTL; done"
    outcome = follow(script, silence_s=2.0, total_s=4.0)
    assert outcome.exit_code == guest.TIMED_OUT


@pytest.mark.parametrize(
    ("console", "code"),
    [
        ("Kernel panic - not syncing: sysrq triggered crash", guest.DIED),
        ("Kernel panic - not syncing: Out of memory: system-wide", guest.OUT_OF_MEMORY),
        ("nothing special", guest.DIED),
    ],
)
def test_a_guest_that_dies_is_told_apart_from_its_command(
    follow: Follow, console: str, code: int
) -> None:
    outcome = follow(f"echo up 1 >&$CTL; echo '{console}'; exit 0")
    assert outcome.exit_code == code and outcome.why
    assert outcome.console[-1] == console


def test_a_guest_that_starts_anew_has_died(follow: Follow) -> None:
    outcome = follow("echo up 1 >&$CTL; echo up 1 >&$CTL; sleep 60")
    assert outcome.exit_code == guest.DIED and "anew" in outcome.why


def test_nothing_that_a_guest_started_outlives_it(follow: Follow, tmp_path: Path) -> None:
    mark = f"61.{os.getpid()}"
    follow(f"sleep {mark} & echo up 1 >&$CTL; sleep {mark}", boot_s=20.0, silence_s=0.3)
    deadline = time.monotonic() + 5
    while subprocess.run(["pgrep", "-f", f"sleep {mark}"], capture_output=True).returncode == 0:
        assert time.monotonic() < deadline, "a process of the guest is still there"
        time.sleep(0.05)


def test_the_tail_of_a_console_has_the_panic_however_long_its_trace() -> None:
    lines = ("Kernel panic - not syncing: why", *(f"frame {i}" for i in range(50)))
    outcome = Outcome(exit_code=125, why="", release="", boot_s=1, total_s=1, console=lines)
    tail = outcome.tail(10)
    assert len(tail) == 10 and tail[0] == lines[0] and tail[-1] == "frame 49"
