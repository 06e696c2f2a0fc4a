"""What production installs: each extra suffices, and the units are sound and as documented."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import agent.settings
from tests.contract.test_arrows import imports
from tests.contract.tree import ROOT, files, shown
from tools import split_lock

INSTALL = (ROOT / "docs" / "INSTALL.md").read_text()
UNITS = {path.name: path for path in files(".service") if path.parent.name == "deploy"}
PROGRAMS = ("agent", "coordinator")
OWN = ("ztlab", *PROGRAMS)


def modules_of(program: str) -> list[Path]:
    """The modules of PROGRAM and of what they import of ours, in turn."""
    found: set[Path] = set()
    waiting = list(files(".py", under=program))
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [p for _, name in imports(path) if (p := own_module(name))]
    return sorted(found)


def own_module(name: str) -> Path | None:
    """The file of the longest beginning of the dotted NAME that is a module of ours."""
    parts = name.split(".")
    while parts and parts[0] in OWN:
        for candidate in ("/".join(parts) + ".py", "/".join(parts) + "/__init__.py"):
            if (ROOT / candidate).is_file():
                return ROOT / candidate
        parts.pop()
    return None


def brought_by(extra: str) -> set[str]:
    """Every distribution that ztlab[EXTRA] brings here: what it declares, and their needs."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in split_lock.requirements(extra)]
    while waiting:
        wanted = waiting.pop()
        found.add(split_lock.plain(wanted.name))
        for text in importlib.metadata.requires(wanted.name) or ():
            need = Requirement(text)
            asked = [{"extra": name} for name in ("", *wanted.extras)]
            is_needed = need.marker is None or any(map(need.marker.evaluate, asked))
            if is_needed and split_lock.plain(need.name) not in found:
                waiting.append(need)
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_imports_only_what_its_own_extra_brings(program: str) -> None:
    providers = importlib.metadata.packages_distributions()
    brought = brought_by(program)
    broken = [
        f"{shown(path)}:{line}: imports {name}"
        for path in modules_of(program)
        for line, name in imports(path)
        if (top := name.split(".")[0]) not in {*sys.stdlib_module_names, *OWN}
        and top != "bcc"  # Debian's, linked in where it is wanted
        and not {split_lock.plain(p) for p in providers.get(top, [])} & brought
    ]
    assert not broken, f"ztlab[{program}] does not bring:\n" + "\n".join(broken)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_programs_lock_is_the_part_of_the_projects_that_it_needs(program: str) -> None:
    lock = split_lock.LOCKS[program].read_text()
    assert lock == split_lock.content(program), "run tools/split_lock.py (make lock does)"
    assert set(split_lock.entries(lock)) == brought_by(program)


@pytest.fixture
def installed(tmp_path: Path) -> list[Path]:
    """The units, as if the programs were installed here; systemd looks whether they are."""
    folder = tmp_path / "units"
    folder.mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("zt-agent", "zt-coordinator"):
        shutil.copy("/bin/true", tmp_path / "bin" / name)
    for name, path in UNITS.items():
        (folder / name).write_text(path.read_text().replace("/opt/ztlab/current", str(tmp_path)))
    return sorted(folder.iterdir())


def systemd_analyze(*arguments: str | Path) -> str:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: the units are not verified here")
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_systemd_finds_no_fault_in_the_units(installed: list[Path]) -> None:
    assert systemd_analyze("verify", "--man=no", "--recursive-errors=no", *installed) == ""


@pytest.mark.parametrize("name", UNITS)
def test_a_units_exposure_is_the_documented_one(name: str, installed: list[Path]) -> None:
    version = systemd_analyze("--version").split()[1]
    if version != "252":
        pytest.skip(f"the figures are those of systemd 252, this one is {version}")
    (unit,) = [path for path in installed if path.name == name]
    said = systemd_analyze("security", "--offline=true", unit)
    (figure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert re.search(rf"(?m)^\| `{name.removesuffix('.service')}` .*\| {figure} \|$", INSTALL), said


def settings_of(name: str) -> dict[str, list[str]]:
    """The [Service] section of the unit NAME: key to values."""
    found: dict[str, list[str]] = {}
    section = UNITS[name].read_text().split("[Service]")[1].split("\n[")[0]
    for key, value in re.findall(r"(?m)^(\w+)=(.*)$", section):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", ["zt-coordinator.service", "zt-coordinator-init.service"])
def test_the_coordinator_is_nobody_and_has_no_capability(name: str) -> None:
    service = settings_of(name)
    assert service["DynamicUser"] == ["true"]
    assert service["User"] == ["zt-coordinator"]
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == [""]


def test_the_agent_has_three_capabilities_and_writes_only_where_it_must() -> None:
    service = settings_of("zt-agent.service")
    assert service["CapabilityBoundingSet"] == ["CAP_NET_ADMIN CAP_BPF CAP_PERFMON"]
    assert service["ProtectSystem"] == ["strict"]
    assert service["ReadWritePaths"] == ["-/run/wireguard", "/proc/sys/net"]
    assert service["BindPaths"] == ["-/sys/fs/bpf:/run/zt-agent/bpf"]


@pytest.mark.parametrize("name", ["zt-coordinator.service", "zt-agent.service"])
def test_a_service_says_when_it_is_ready(name: str) -> None:
    assert settings_of(name)["Type"] == ["notify"]


def test_what_an_agent_put_in_force_outlives_it_under_systemd() -> None:
    """wireguard-go is not killed with it, and what its successor must know stays in run_dir."""
    service = settings_of("zt-agent.service")
    assert service["KillMode"] == ["process"]
    assert service["RuntimeDirectoryPreserve"] == ["yes"]


def test_the_agents_directories_are_those_of_its_settings() -> None:
    service = settings_of("zt-agent.service")
    defaults = {f.name: f.default for f in agent.settings.Settings.__dataclass_fields__.values()}
    assert defaults["state_dir"] == f"/var/lib/{service['StateDirectory'][0]}"
    assert defaults["run_dir"] == f"/run/{service['RuntimeDirectory'][0]}"


def test_a_unit_has_each_section_once() -> None:
    for path in UNITS.values():
        sections = re.findall(r"(?m)^\[(\w+)\]$", path.read_text())
        assert len(sections) == len(set(sections)), shown(path)
