"""scenarios/gateway.yaml against four virtual machines, from outside: its steps, its expectations.

    vagrant up coordinator gateway client server
    .venv/bin/python -m vagrant.enrol
    .venv/bin/pytest vagrant/test_gateway.py

Not part of `make test`: it needs the machines (make test-vagrant does all of it).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from vagrant.remote import RemoteLab
from ztlab.lab.lab import Lab
from ztlab.scenario import run


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteLab]:
    lab = RemoteLab(tmp_path_factory.mktemp("ssh"))
    lab.set_clocks()
    yield lab
    lab.close()


def test_the_machines_are_installed_as_in_production(lab: RemoteLab) -> None:
    assert is_active(lab, "coordinator", "zt-coordinator")
    for node in lab.agents:
        assert is_active(lab, node.machine, "zt-agent")
        kind = lab.on(node.machine, ["ip", "-d", "link", "show", "wg0"], check=True).stdout
        assert " wireguard " in kind  # the kernel's, not a tun device
        info = next(
            line
            for line in lab.http_get(node.name, "http://127.0.0.1:9464/metrics").splitlines()
            if line.startswith("zt_agent_info{")
        )
        assert 'wireguard="kernel"' in info
        assert 'loader="libbpf"' in info  # nothing to compile with


def is_active(lab: RemoteLab, machine: str, unit: str) -> bool:
    return lab.on(machine, ["systemctl", "is-active", unit]).stdout.strip() == "active"


def test_the_machine_behind_the_gateway_runs_no_agent(lab: RemoteLab) -> None:
    assert lab.on("server", ["test", "-e", "/opt/ztlab"]).returncode == 1
    assert lab.on("server", ["ip", "link", "show", "wg0"]).returncode == 1


def test_every_step_of_the_scenario_holds_between_the_machines(lab: RemoteLab) -> None:
    # What `run` uses of a Lab is what a RemoteLab has.
    report = run.run(lab.scenario, lab=cast(Lab, lab), on_step=lambda step: print(step.name))
    print(report.as_text())
    assert report.passed, report.as_text()
