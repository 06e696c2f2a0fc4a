"""vagrant/ fits the rest of the project; with vagrant at hand, its file is valid too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.tree import ROOT, files, shown
from ztlab.scenario import loading

VAGRANT = ROOT / "vagrant"
PLAN: dict[str, Any] = yaml.safe_load((VAGRANT / "machines.yaml").read_text())
SCENARIO = loading.load(ROOT / PLAN["scenario"])


def words(text: str) -> set[str]:
    """TEXT's words, comments left out."""
    return set(re.sub(r"#.*", "", text).split())


def test_every_node_of_the_scenario_has_a_machine_and_no_machine_plays_two_agents() -> None:
    assert set(PLAN["nodes"]) == set(SCENARIO.nodes)
    machines = [
        PLAN["nodes"][name]["machine"]
        for name, spec in SCENARIO.nodes.items()
        if spec.kind == "node"
    ]
    assert len(machines) == len(set(machines))
    assert {"coordinator", *(n["machine"] for n in PLAN["nodes"].values())} == {
        "coordinator",
        "gateway",
        "client",
        "server",
    }


def test_the_machines_have_the_addresses_that_a_lab_would_give() -> None:
    """Its resources name them: the gateway has a LAN's first address, hosts the next ones."""
    for lan, spec in SCENARIO.lans.items():
        hosts = [n for n, node in SCENARIO.nodes.items() if node.kind == "host" and node.lan == lan]
        addresses = ip_network(spec.prefixes[0]).hosts()
        for name in (spec.gateway, *hosts):
            assert PLAN["nodes"][name]["lan"] == str(next(addresses))


def test_the_underlay_is_one_that_virtualbox_lets_its_host_have() -> None:
    allowed = ip_network("192.168.56.0/21")
    for machine in (PLAN["coordinator"], *PLAN["nodes"].values()):
        if "underlay" in machine:
            assert ip_interface(machine["underlay"]).ip in allowed


def test_the_box_has_every_package_that_the_set_up_would_ask_a_server_for() -> None:
    setup = (ROOT / "tools/setup.sh").read_text()
    found = re.search(r"^packages=\(\n(.*?)^\)", setup, re.M | re.S)
    assert found
    wanted = words(found[1])
    assert {"make", "clang"} <= wanted  # it reads the right list
    assert wanted <= words((VAGRANT / "box/packages").read_text())


def test_provisioning_uses_commands_that_the_install_document_has() -> None:
    blocks = re.findall(r"\$?\(block (\w+)\)", (VAGRANT / "provision.sh").read_text())
    assert blocks
    document = (ROOT / "docs/INSTALL.md").read_text()
    for name in blocks:
        assert f"\n```sh {name}\n" in document


def test_shellcheck_has_nothing_to_say_of_the_scripts() -> None:
    assert shutil.which("shellcheck"), "apt-get install shellcheck"
    scripts = sorted(files(".sh", under="vagrant"))
    assert [shown(s) for s in scripts if not os.access(s, os.X_OK)] == []
    done = subprocess.run(
        ["shellcheck", "-x", *map(str, scripts), "tools/test-vagrant.sh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.vagrant
def test_vagrant_takes_the_file_and_knows_both_sets_of_machines(tmp_path: Path) -> None:
    for name in ("lab", "production"):
        (tmp_path / name).mkdir()
    environment = {
        **os.environ,
        "VAGRANT_HOME": str(tmp_path / "home"),
        "VAGRANT_DOTFILE_PATH": str(tmp_path / "machines"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "ZT_OFFLINE": str(tmp_path),
    }
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        cwd=VAGRANT,
        env=environment,
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for machine in ("lab", "coordinator", "gateway", "client", "server"):
        assert f"==> {machine}: " in said
