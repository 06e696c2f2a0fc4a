"""Whole programs under each loader: the same file, the same verdicts, and what it costs."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.nodes import BIN, namespaces
from tests.e2e.test_agent_standalone import config, pair
from ztlab.lab.pace import scaled

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.wireguard, pytest.mark.bpf]

ROOT = Path(__file__).parents[2]
SCENARIO = (ROOT / "scenarios/3node.yaml").read_text()
RESIDENT_KB = {"libbpf": 60_000, "bcc": 250_000}


def test_the_three_nodes_hold_under_bcc_too(state_dir: Path, tmp_path: Path) -> None:
    scenario = tmp_path / "3node-bcc.yaml"
    scenario.write_text(f"{SCENARIO}\nloader: bcc\n")
    command = [str(BIN / "ztlab"), "test", str(scenario), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=scaled(180))
    assert done.returncode == 0, done.stdout + done.stderr
    (outcome,) = json.loads(done.stdout)
    assert "WireGuard, bcc" in outcome["facts"]


@pytest.mark.parametrize("loader", RESIDENT_KB)
def test_an_agent_says_who_loaded_its_programs_and_why_and_stays_small(
    loader: str, tmp_path: Path
) -> None:
    alice, bob = pair(tmp_path)
    alice.settings = {"datapath": {"loader": "auto" if loader == "libbpf" else loader}}
    with namespaces(alice, bob):
        alice.start_agent(config(alice, bob))
        found = alice.status()
        shown = alice.zt("status")
        resident = re.search(
            r"VmRSS:\s+(\d+) kB", alice.output("cat", f"/proc/{found['pid']}/status")
        )
        info = [line for line in alice.metrics() if line.startswith("zt_agent_info")]
    assert found["loader"] == loader and f'loader="{loader}"' in info[0]
    why = "auto: the shipped object" if loader == "libbpf" else "as configured"
    assert found["loader_reason"] == why
    assert f"datapath    {loader} ({why})" in shown
    assert re.search(rf"programs loaded by {loader} in [\d.]+ s: {why}", alice.log)
    assert found["attached"] == {"ingress": True, "egress": True}
    assert resident and int(resident[1]) < RESIDENT_KB[loader]
