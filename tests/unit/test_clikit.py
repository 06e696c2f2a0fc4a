"""The shell around every command: how each kind of failure ends."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ztlab.clikit import ZtGroup, echo_json
from ztlab.errors import HostUnfit, NotFound, SchemaError


@click.group(cls=ZtGroup)
def program() -> None:
    """A program with a command for every end."""


@program.command("end")
@click.argument("how")
def end(how: str) -> None:
    ends: dict[str, BaseException] = {
        "failed": NotFound("no lab is called x", hint="ztlab list"),
        "plain": NotFound("no lab is called x"),
        "unfit": HostUnfit("not root", hint="sudo"),
        "faulty": SchemaError(["a: missing", "b: missing"]),
        "stopped": KeyboardInterrupt(),
        "bug": ZeroDivisionError("a bug"),
        "full": OSError(errno.ENOSPC, "No space left on device", "/var/x"),
        "other": OSError(errno.EIO, "Input/output error", "/var/x"),
    }
    if how in ends:
        raise ends[how]
    echo_json({"ended": how, "at": Path("/x")})


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("failed", 1, "error: no lab is called x\n hint: ztlab list\n"),
        ("plain", 1, "error: no lab is called x\n"),
        ("unfit", 3, "error: not root\n hint: sudo\n"),
        ("faulty", 1, "error: a: missing\nb: missing\n"),
        ("stopped", 130, "interrupted\n"),
        (
            "full",
            1,
            "error: cannot write /var/x: No space left on device\n"
            " hint: make room (df -h), then do it again\n",
        ),
    ],
)
def test_an_end_has_its_lines_on_stderr_and_its_exit_code(how: str, code: int, said: str) -> None:
    result = CliRunner().invoke(program, ["end", how])
    assert (result.exit_code, result.stderr, result.stdout) == (code, said, "")


def test_what_holds_ends_with_zero_and_json_alone_on_stdout() -> None:
    result = CliRunner().invoke(program, ["end", "well"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"ended": "well", "at": "/x"}


def test_wrong_usage_ends_with_two() -> None:
    assert CliRunner().invoke(program, ["end"]).exit_code == 2
    assert CliRunner().invoke(program, ["nothing"]).exit_code == 2


def test_a_bug_keeps_its_traceback() -> None:
    result = CliRunner().invoke(program, ["end", "bug"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_reader_that_went_away_is_no_failure_to_talk_about() -> None:
    script = (
        "import click\n"
        "from ztlab.clikit import ZtGroup\n"
        "@click.group(cls=ZtGroup)\n"
        "def main(): pass\n"
        "@main.command()\n"
        "def talk():\n"
        "    while True: click.echo('x' * 1000)\n"
        "main()\n"
    )
    talker = subprocess.Popen(
        [sys.executable, "-c", script, "talk"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert talker.stdout is not None and talker.stderr is not None
    talker.stdout.read(10)
    talker.stdout.close()
    said = talker.stderr.read()
    talker.stderr.close()
    assert talker.wait(timeout=20) == 141
    assert said == b""


def test_a_full_disk_below_the_output_itself_is_said_and_is_a_failure() -> None:
    code = "from tests.unit.test_clikit import program; program(['end', 'well'])"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: cannot write the output, or a file: No space left")
    assert b"Traceback" not in done.stderr


def test_another_error_of_the_system_keeps_its_traceback() -> None:
    assert isinstance(CliRunner().invoke(program, ["end", "other"]).exception, OSError)
