"""A folder that goes away, even with the program that made it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ztlab.vm.passing import passing_folder


def test_a_passing_folder_is_gone_with_all_in_it_when_the_block_ends(tmp_path: Path) -> None:
    with passing_folder("it-", tmp_path) as folder:
        (folder / "a").mkdir()
        (folder / "a" / "file").touch()
        assert list(tmp_path.iterdir()) == [folder]
    assert not list(tmp_path.iterdir())


def test_a_passing_folder_is_gone_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError), passing_folder("it-", tmp_path) as folder:
        raise ValueError(folder)
    assert not list(tmp_path.iterdir())


def test_a_passing_folder_is_gone_when_its_maker_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time\n"
        "from ztlab.vm.passing import passing_folder\n"
        "with passing_folder('it-', pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'file').touch(); print('made', flush=True); time.sleep(1000)\n"
    )
    with subprocess.Popen(
        (sys.executable, "-c", program, str(tmp_path)), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "made\n"
        assert list(tmp_path.glob("it-*/file"))
        process.kill()
    deadline = time.monotonic() + 20
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
