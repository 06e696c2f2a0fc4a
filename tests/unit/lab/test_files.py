"""The files of a lab."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

from agent.settings import Settings as AgentSettings
from coordinator.settings import Settings as CoordinatorSettings
from tests.unit.lab.plans import BEHIND_A_GATEWAY, MESH
from ztlab.lab import files
from ztlab.lab.draft import draft
from ztlab.lab.plan import LabPlan
from ztlab.model import codec
from ztlab.model.verdict import AuthzMode


def agent_toml(plan: LabPlan, name: str) -> AgentSettings:
    record = draft(plan, source=None)
    node = next(n for n in plan.nodes if n.name == name)
    assert record.coordinator_url is not None
    settings = files.agent_settings(
        plan, node, record.node(name), record.coordinator_url, Path("/labs/x/nodes") / name
    )
    return codec.decode(AgentSettings, tomllib.loads(files.toml(settings)))


def test_an_agent_accepts_the_file_the_lab_writes_for_it() -> None:
    settings = agent_toml(MESH, "alice")
    assert settings.name == "alice"
    assert settings.authz_mode is AuthzMode.ENFORCE
    assert settings.state_dir == "/labs/x/nodes/alice/state"
    assert settings.wireguard.endpoint == "198.18.0.2:51820"
    assert settings.coordinator is not None
    assert settings.coordinator.url == "https://198.18.0.1:8443"


def test_a_nodes_local_switches_are_its_own_files_business() -> None:
    node = replace(MESH.nodes[0], authz_mode=AuthzMode.OBSERVE, logging_enabled=False)
    settings = agent_toml(replace(MESH, nodes=(node,), wireguard="userspace"), "alice")
    assert settings.authz_mode is AuthzMode.OBSERVE
    assert settings.logging_enabled is False
    assert settings.wireguard.backend == "userspace"


def test_a_client_has_no_endpoint_and_a_gateway_forwards() -> None:
    assert agent_toml(BEHIND_A_GATEWAY, "laptop").wireguard.endpoint is None
    assert agent_toml(BEHIND_A_GATEWAY, "gate").gateway.forwarding is True


def test_the_coordinator_accepts_the_file_the_lab_writes_for_it() -> None:
    text = files.toml(files.coordinator_settings(MESH, ("198.18.0.1/16", "fd18::1/64")))
    settings = codec.decode(CoordinatorSettings, tomllib.loads(text))
    assert settings.listen == "198.18.0.1:8443"
    assert settings.names == ("198.18.0.1", "fd18::1", "coordinator")
    assert settings.pools == MESH.pools


def test_toml_carries_quotes_backslashes_and_nothing_for_none() -> None:
    values = {"a": 'x "y" \\', "none": None, "t": {"list": ["a", "b"], "on": True, "n": 1.5}}
    assert tomllib.loads(files.toml(values)) == {
        "a": 'x "y" \\',
        "t": {"list": ["a", "b"], "on": True, "n": 1.5},
    }


def test_a_node_is_named_by_its_tunnel_address_and_a_host_by_its_lan_address() -> None:
    record = draft(BEHIND_A_GATEWAY, source=None)
    nodes = tuple(
        replace(n, tunnel=("10.77.0.9/32", "fd77::9/128")) if n.name == "gate" else n
        for n in record.nodes
    )
    lines = files.hosts_text(replace(record, nodes=nodes)).splitlines()
    assert "10.77.0.9 gate" in lines
    assert "fd77::9 gate" in lines
    assert "192.168.9.2 printer" in lines
    assert "198.18.0.1 coordinator" in lines
    assert not [line for line in lines if line.endswith(" laptop")]
    assert not [line for line in lines if line.startswith("192.168.9.1 ")]
