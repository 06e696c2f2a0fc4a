"""`ztlab vm run` with a real guest: what passes through, what does not, and what is left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.guest

ZTLAB = (sys.executable, "-c", "from ztlab.cli import main; main(prog_name='ztlab')")
RUN = (*ZTLAB, "vm", "run", "--engine", "uml", "--memory", "512")
DEADLINE_S = 120


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Ours, with a folder for temporary files that nobody else writes."""
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "NOT_FOR_GUESTS": "1"}


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*RUN, *words), env=environment, capture_output=True, text=True, timeout=DEADLINE_S
    )


def leftovers(environment: dict[str, str]) -> list[str]:
    """What a guest has left: files in the temporary folder, and processes that name it."""
    folder = environment["TMPDIR"]
    found = subprocess.run(["pgrep", "-af", folder], capture_output=True, text=True).stdout
    return [*os.listdir(folder), *found.splitlines()]


def wait_until_nothing_is_left(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 20
    while left := leftovers(environment):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_the_exit_code_and_both_outputs_pass_through(environment: dict[str, str]) -> None:
    done = run(environment, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert done.stderr.splitlines()[-1] == "err"
    assert done.stderr.startswith("ztlab vm: uml, ")
    assert not leftovers(environment)


def test_a_guest_has_the_kernels_wireguard(environment: dict[str, str]) -> None:
    done = run(environment, "--", "ip", "link", "add", "wg0", "type", "wireguard")
    assert done.returncode == 0, done.stderr


def test_eight_megabytes_arrive_as_they_were(environment: dict[str, str]) -> None:
    script = "head -c 8000000 /dev/urandom | tee /dev/shm/x; sha256sum </dev/shm/x >&2"
    done = subprocess.run(
        (*RUN, "--", "sh", "-c", script), env=environment, capture_output=True, timeout=DEADLINE_S
    )
    assert hashlib.sha256(done.stdout).hexdigest() in done.stderr.decode()
    assert len(done.stdout) == 8_000_000


def test_outputs_that_go_to_one_place_keep_their_order(environment: dict[str, str]) -> None:
    done = subprocess.run(
        (*RUN, "--", "sh", "-c", "for i in 1 2 3 4; do echo $i; echo $i >&2; done"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.stdout.split()[-8:] == "1 1 2 2 3 3 4 4".split()


def test_place_and_files_are_ours_and_what_is_written_is_gone_but_for_out(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "given").write_text("ours")
    out = tmp_path / "new" / "out"
    script = "pwd; cat given; echo x > given; env; echo result > /run/out/result"
    done = subprocess.run(
        (*RUN, "--out", str(out), "--env", "GIVEN=a b", "--", "sh", "-c", script),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}\nours")
    assert "GIVEN=a b\n" in done.stdout and "NOT_FOR_GUESTS" not in done.stdout
    assert (tmp_path / "given").read_text() == "ours"
    assert (out / "result").read_text() == "result\n"


def test_a_panic_has_its_own_exit_code_and_shows_the_console(environment: dict[str, str]) -> None:
    began = time.monotonic()
    done = run(environment, "--", "sh", "-c", "echo c > /proc/sysrq-trigger")
    assert done.returncode == 125
    assert "Kernel panic - not syncing: sysrq triggered crash" in done.stderr
    assert time.monotonic() - began < 60
    assert not leftovers(environment)


def test_a_guest_without_memory_has_its_own_exit_code(environment: dict[str, str]) -> None:
    fill = "for x in /dev/shm/x /tmp/x; do dd if=/dev/zero of=$x bs=1M count=2000; done"
    done = run(environment, "--", "sh", "-c", fill)  # each has a limit of its own below all memory
    assert done.returncode == 122, done.stderr


def test_a_command_that_takes_too_long_has_its_own_exit_code(environment: dict[str, str]) -> None:
    done = run(environment, "--timeout", "5", "--", "sleep", "1000")
    assert done.returncode == 124
    assert not leftovers(environment)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
def test_output_comes_live_and_a_signal_ends_the_guest(
    environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        (*RUN, "--", "sh", "-c", "echo began; sleep 1000"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # no terminal, as in CI
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "began\n"
        process.send_signal(number)
        assert process.wait(timeout=20) == code
    wait_until_nothing_is_left(environment)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_suite_of_guests_ends_them_all(
    environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    script = Path(__file__).parents[2] / "tools/test-kernel.sh"
    process = subprocess.Popen(
        (script, "rest"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + DEADLINE_S
    while len([name for name in os.listdir(environment["TMPDIR"]) if "vm" in name]) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(timeout=30) == code
    wait_until_nothing_is_left(environment)


@pytest.mark.parametrize("out", ["/proc/nothing", "{file}/below"])
def test_an_out_that_cannot_be_made_is_refused(
    environment: dict[str, str], tmp_path: Path, out: str
) -> None:
    (tmp_path / "file").touch()
    done = run(environment, "--out", out.format(file=tmp_path / "file"), "--", "true")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot make ") and "hint:" in done.stderr


def test_a_temporary_folder_that_the_kernel_cannot_be_told_of_is_refused(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a b").mkdir()
    done = run({**environment, "TMPDIR": str(tmp_path / "a b")}, "--", "true")
    assert done.returncode == 3
    assert "TMPDIR" in done.stderr and "Traceback" not in done.stderr


def test_a_working_directory_that_is_gone_is_named(environment: dict[str, str]) -> None:
    script = 'mkdir "$TMPDIR/gone"; cd "$TMPDIR/gone"; rmdir "$TMPDIR/gone"; exec "$@"'
    done = subprocess.run(
        ("sh", "-c", script, "sh", *RUN, "--", "true"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the working directory is gone")


@pytest.mark.parametrize("where", ["command line", "PYTEST_ADDOPTS"])
def test_pytest_runs_in_a_guest_and_its_junit_comes_out(
    environment: dict[str, str], tmp_path: Path, where: str
) -> None:
    asked = ["--ztlab-kernel=6.12", "--ztlab-engine=uml"]
    if where == "PYTEST_ADDOPTS":  # the guest has it too
        environment["PYTEST_ADDOPTS"], asked = " ".join(asked), []
    (tmp_path / "test_it.py").write_text(
        "import os, pathlib\n"
        "def test_kernel(): assert os.uname().nodename == 'ztlab-vm'\n"
        "def test_fails(): assert not pathlib.Path('/proc').exists()\n"
    )
    words = ("-m", "pytest", "-q", *asked, "--junit-xml=report.xml", "test_it.py")
    done = subprocess.run(
        (sys.executable, *words),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 1, done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert 'tests="2"' in (tmp_path / "report.xml").read_text()
    assert not leftovers(environment)
