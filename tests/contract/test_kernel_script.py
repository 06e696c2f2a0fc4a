"""tools/test-kernel.sh where it cannot run: one answer, not one for each of its tests."""

from __future__ import annotations

import os
import subprocess

from tests.contract.tree import ROOT

SCRIPT = ROOT / "tools" / "test-kernel.sh"


def run(*tiers: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ZTLAB_UML_KERNEL": "/nowhere/linux"}
    return subprocess.run((SCRIPT, *tiers), env=environment, capture_output=True, text=True)


def test_without_its_kernel_a_tier_begins_no_test_and_ends_with_the_code_of_an_unfit_machine() -> (
    None
):
    done = run("uml")
    assert done.returncode == 3, done.stderr
    assert "ZTLAB_UML_KERNEL=/nowhere/linux" in done.stderr and "hint:" in done.stderr
    assert "no kernel WireGuard on 6.12" in done.stderr
    assert "3node" not in done.stdout + done.stderr


def test_a_tier_that_nobody_knows_is_a_usage_error() -> None:
    done = run("uml", "stok")
    assert done.returncode == 2
    assert "no tier stok" in done.stderr
    assert "tier uml" not in done.stdout


def test_every_scenario_and_every_end_to_end_test_is_in_a_job() -> None:
    """The script with its last part, which runs the tiers, left out; then what its jobs name."""
    declarations = SCRIPT.read_text().partition("\ntrap ")[0]
    script = f'set -- "{SCRIPT}"; {declarations}\nprintf "%s\\n" "${{all_jobs[@]}}"'
    script = script.replace("${BASH_SOURCE[0]}", str(SCRIPT))
    done = subprocess.run(("bash", "-c", script), capture_output=True, text=True, check=True)
    patterns = [
        word for line in done.stdout.splitlines() for word in line.partition("=")[2].split()
    ]
    named = {path for pattern in patterns for path in ROOT.glob(pattern)}
    wanted = {
        *ROOT.glob("scenarios/*.yaml"),
        *ROOT.glob("tests/e2e/test_*.py"),
        ROOT / "tests/kernel",
    }
    elsewhere = {ROOT / "tests/e2e/test_vm_run.py", ROOT / "tests/e2e/test_scenarios_shipped.py"}
    assert wanted - elsewhere == named
