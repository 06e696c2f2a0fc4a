"""The wheel: the TC programs are in it, compiled from the sources that are in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from agent.datapath import sources
from tests.contract.tree import ROOT

LEFT_BEHIND = (".*", "build", "dist", "*.egg-info", "__pycache__", "*.o", "*.sha256")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is made of: a build leaves folders behind."""
    copy = tmp_path_factory.mktemp("wheel") / "project"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    return copy


def pip_wheel(project: Path, out: Path, path: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps"]
    return subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", str(out), str(project)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )


def test_a_wheel_carries_the_compiled_programs_and_of_which_sources_they_are(
    project: Path, tmp_path: Path
) -> None:
    done = pip_wheel(project, tmp_path, os.environ["PATH"])
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    installed = tmp_path / "installed/agent/datapath"
    digest = sources.digest(installed / "bpf")
    assert digest == sources.digest()
    assert sources.stated(installed / "zt_wg.o") == digest
    assert str(digest).encode() in (installed / "zt_wg.o").read_bytes()
    pages = ROOT / "coordinator/ui"
    for file in (*pages.glob("templates/*"), *pages.glob("static/*")):
        carried = tmp_path / "installed" / file.relative_to(ROOT)
        assert carried.read_bytes() == file.read_bytes()


def test_without_a_compiler_a_wheel_is_not_built_and_the_reason_is_a_sentence(
    project: Path, tmp_path: Path
) -> None:
    done = pip_wheel(project, tmp_path, "/nonexistent")
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "error: cannot compile the TC programs: clang: No such file or directory" in said
    assert "hint: apt-get install clang" in said
    assert not list(tmp_path.glob("*.whl"))
