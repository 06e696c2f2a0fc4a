"""A command and its environment, as the guest reads them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ztlab.vm.job import Job, environment


def test_a_job_runs_its_words_in_its_directory_with_its_environment_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with 'quotes'"
    folder.mkdir()
    job = Job(
        argv=("sh", "-c", 'pwd; echo "$1"; env', "sh", "two words; $HOME 'and' more"),
        cwd=folder,
        environment={"PATH": os.environ["PATH"], "NAME": "a b\nc"},
    )
    script = job.script().replace(b"mkdir -p /var/lib/ztlab-guest\n", b"")
    done = subprocess.run(
        ["sh", "-c", script], env={"SECRET": "1"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{folder}\ntwo words; $HOME 'and' more\n")
    assert "NAME=a b\nc\n" in done.stdout
    assert "SECRET" not in done.stdout


def test_a_directory_that_is_not_there_is_exit_code_126(tmp_path: Path) -> None:
    job = Job(argv=("true",), cwd=tmp_path / "gone", environment={})
    script = job.script().replace(b"mkdir -p /var/lib/ztlab-guest\n", b"")
    assert subprocess.run(["sh", "-c", script], capture_output=True).returncode == 126


def test_only_a_few_variables_cross_over_and_the_guest_has_labs_of_its_own() -> None:
    ours = {
        "PATH": "/bin",
        "TERM": "xterm",
        "ZT_REQUIRE": "root",
        "ZTLAB_STATE_DIR": "/elsewhere",
        "AWS_SECRET": "no",
    }
    found = environment(ours, engine="uml", time_scale=3.0, more={"EXTRA": "1"})
    assert found["PATH"] == "/bin" and found["ZT_REQUIRE"] == "root" and found["EXTRA"] == "1"
    assert found["ZTLAB_STATE_DIR"] != "/elsewhere"
    assert (found["ZTLAB_VM"], found["ZTLAB_TIME_SCALE"]) == ("uml", "3")
    assert "AWS_SECRET" not in found


def test_a_time_scale_that_the_caller_has_chosen_stays() -> None:
    ours = {"ZTLAB_TIME_SCALE": "20"}
    assert environment(ours, engine="tcg", time_scale=10.0, more={})["ZTLAB_TIME_SCALE"] == "20"
