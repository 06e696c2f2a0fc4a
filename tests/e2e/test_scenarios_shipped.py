"""A scenario of scenarios/ in a pytest of its own: what its report says, and what it leaves.

That each of them holds, `pytest scenarios/` shows, which is part of every test run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ztlab.lab.pace import scaled

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.wireguard, pytest.mark.bpf]

ROOT = Path(__file__).parents[2]


def test_a_shipped_scenario_holds_and_leaves_no_lab(state_dir: Path, tmp_path: Path) -> None:
    path = ROOT / "scenarios" / "policy-change.yaml"
    xml = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", str(path), "-q", f"--junitxml={xml}", "-rA"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=scaled(180))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout, done.stdout  # a skip would be a lab that was never built
    assert "checks hold" in done.stdout
    (case,) = ElementTree.parse(xml).getroot().iter("testcase")
    checks = [p.get("value") for p in case.iter("property") if p.get("name") == "checks"]
    assert int(str(checks[0])) >= 20
    assert not list(state_dir.glob("labs/*"))
