"""The set-up: what is installed is what the lock says, and an unfit machine is told why."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib

import pytest

from tests.contract.tree import ROOT


def plain(name: str) -> str:
    """A distribution's name as package servers compare it: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Name to version, from requirements.lock."""
    lock = (ROOT / "requirements.lock").read_text()
    return {plain(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", lock)}


def test_the_environment_is_the_locks() -> None:
    installed = {
        plain(found.metadata["Name"]): found.version for found in importlib.metadata.distributions()
    }
    own = {"ztlab", "pip"}  # this project, and the tool that came with the interpreter
    assert {name: v for name, v in installed.items() if name not in own} == locked()


def test_the_lock_covers_every_dependency_that_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    names = {plain(re.split(r"[^\w.-]", text)[0]) for text in declared}
    assert names - {"ztlab"} <= locked().keys()


@pytest.mark.root
def test_who_is_not_root_is_told_so_in_a_sentence_and_what_to_do() -> None:
    # In a user namespace without a mapping everybody is nobody.
    done = subprocess.run(
        ["unshare", "--user", ROOT / "tools/setup.sh"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (3, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: only root can make network namespaces")
    assert "sudo make demo" in hint


def test_what_is_set_up_can_be_read_by_the_coordinators_user_whatever_the_callers_umask() -> None:
    script = f"umask 077; . {ROOT}/tools/common.sh; umask"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "0022\n"


@pytest.mark.root
def test_the_kernels_probe_names_what_is_missing_and_nothing_else() -> None:
    probe = ["/usr/bin/python3", str(ROOT / "tools/probe_kernel.py")]
    inside = ["unshare", "--net", "--mount", "--pid", "--fork"]
    whole = subprocess.run([*inside, *probe], capture_output=True, text=True)
    assert (whole.returncode, whole.stdout, whole.stderr) == (0, "", "")

    crippled = ["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-all", *probe]
    part = subprocess.run([*inside, *crippled], capture_output=True, text=True)
    assert part.returncode == 1
    assert "BPF ring buffers (Operation not permitted)" in part.stdout
    assert "TC programs" in part.stdout
    assert "veth" not in part.stdout
