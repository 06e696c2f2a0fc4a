"""A test without what it needs of the machine is skipped aloud, or fails where it was promised."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.tree import ROOT

TESTS = """
import pytest

@pytest.mark.lab
def test_of_a_lab():
    assert True

@pytest.mark.root
def test_of_root():
    assert True

def test_of_nothing():
    assert True
"""
INI = """
[pytest]
markers =
    root: r
    bpf: b
    wireguard: w
    kernel_wireguard: k
    lab: l
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the real conftest.py and three tests."""
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(INI)
    return tmp_path


def pytest_run(project: Path, **environment: str) -> tuple[int, str]:
    """pytest's exit code and output in PROJECT, where no system command is to be found at all."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "ZT_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:ztlab", "-p", "no:cacheprovider", "-q"],
        cwd=project,
        env={**inherited, "PATH": "/nonexistent", **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_is_missing_is_skipped_and_named_in_the_summary(project: Path) -> None:
    code, said = pytest_run(project)
    assert code == 0
    assert "1 passed, 2 skipped" in said
    assert "not tested on this machine" in said
    assert "1 for want of lab: ip is not installed" in said
    assert "1 for want of root: " in said


def test_what_is_missing_and_required_fails(project: Path) -> None:
    code, said = pytest_run(project, ZT_REQUIRE="bpf, lab")
    assert code == 1
    assert "needs lab: ip is not installed, and ZT_REQUIRE demands it" in said
    assert "1 passed, 1 skipped, 1 error" in said


def test_a_requirement_nobody_knows_is_wrong_usage(project: Path) -> None:
    code, said = pytest_run(project, ZT_REQUIRE="root,kernel-wireguard,bfp")
    assert code == 4
    assert "ZT_REQUIRE: nobody knows bfp; known: root, bpf" in said
    assert "Traceback" not in said
