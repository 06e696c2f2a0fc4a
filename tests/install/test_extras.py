"""One wheel, three extras: each program runs in an environment that has its own extra and no more.

Takes a minute and package servers; `make test-install` runs it, `make test` does not.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.contract.tree import ROOT
from tests.control import process

PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "install")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of this tree: the wheel and the locks."""
    folder = tmp_path_factory.mktemp("release")
    run(ROOT / "tools" / "dist.sh", folder)
    return folder


def run(*words: str | Path) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def environment(folder: Path, lock: Path, release: Path) -> Path:
    """The programs of an environment in FOLDER, made as docs/INSTALL.md says."""
    run("/usr/bin/python3", "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, *PIP, "--require-hashes", "--only-binary", ":all:", "-r", lock)
    (wheel,) = release.glob("*.whl")
    run(python, *PIP, "--no-deps", wheel)
    run(python, "-m", "pip", "check")
    return folder / "bin"


@pytest.mark.parametrize("program", ["agent", "coordinator"])
def test_a_programs_own_lock_suffices_for_every_module_of_it(
    program: str, release: Path, tmp_path: Path
) -> None:
    programs = environment(tmp_path / "venv", release / f"{program}.lock", release)
    run(programs / f"zt-{program}", "--help")
    every = (
        "import importlib, pkgutil, sys\n"
        f"import {program}\n"
        f"for module in pkgutil.walk_packages({program}.__path__, '{program}.'):\n"
        "    if module.name not in sys.argv:\n"
        "        importlib.import_module(module.name)\n"
    )
    # bcc is Debian's and linked in where it is wanted; alembic alone runs its environment.
    apart = ("agent.datapath.bcc_loader", "coordinator.store.migrations.env")
    run(programs / "python", "-c", every, *apart)


def test_a_coordinator_alone_is_made_and_serves(release: Path) -> None:
    with process.place() as folder:
        programs = environment(folder / "venv", release / "coordinator.lock", release)
        service = (str(programs / "zt-coordinator"), "run")
        port = process.write_settings(folder)
        token = folder / "owner"
        settings = ("--config", folder / "coordinator.toml")
        run(programs / "zt-coordinator", "init", *settings, "--owner-token-file", token)
        started = process.start(folder, program=service)
        url = f"https://127.0.0.1:{port}"
        here = process.Coordinator(folder, url, started, token.read_text().strip())
        try:
            process.wait_until_it_answers(here)
        finally:
            started.terminate()
            assert started.wait(timeout=10) == 0


def test_the_labs_extra_brings_both_programs_and_the_lab(release: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "venv", ROOT / "requirements.lock", release)
    for name in ("ztlab", "zt-agent", "zt-coordinator"):
        run(programs / name, "--help")
