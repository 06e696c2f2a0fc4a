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
