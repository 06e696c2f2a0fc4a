"""The files of a lab: exactly what production has (docs/CONFIGURATION.md), and hosts for names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ztlab.lab import state
from ztlab.lab.addressing import bare
from ztlab.lab.plan import COORDINATOR, LabPlan, NodePlan
from ztlab.lab.state import LabRecord, NodeRecord

COORDINATOR_PORT = 8443
WIREGUARD_PORT = 51820
# Any number without rights will do; this one is nobody's account, so nobody's files are in reach.
COORDINATOR_UID = 64198
# Where the coordinator's directory appears in its own namespace: its user can reach it there
# wherever the lab's state is.
COORDINATOR_HOME = "/run/ztlab/coordinator"

_RESOLV = "# A lab has no DNS; its names are in /etc/hosts.\noptions timeout:1 attempts:1\n"


def toml(values: Mapping[str, Any]) -> str:
    """VALUES as TOML: scalars and lists first, then each mapping as a table. None is left out."""
    given = {k: v for k, v in values.items() if v is not None}
    # A JSON string, number, boolean or list of strings is a TOML one.
    lines = [f"{k} = {json.dumps(v)}" for k, v in given.items() if not isinstance(v, Mapping)]
    for name, table in given.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{name}]", toml(table).rstrip("\n")]
    return "\n".join(lines) + "\n"


def agent_settings(
    plan: LabPlan, node: NodePlan, record: NodeRecord, url: str, directory: Path
) -> dict[str, Any]:
    """What stands in a node's agent.toml."""
    return {
        "name": node.name,
        "state_dir": str(directory / "state"),
        "run_dir": "/run/zt-agent",
        "authz_mode": node.authz_mode.word,
        "logging_enabled": node.logging_enabled,
        "log_granularity": node.log_granularity,
        "wireguard": {
            "backend": plan.wireguard,
            "listen_port": WIREGUARD_PORT,
            "endpoint": record.endpoint,
        },
        "datapath": {"loader": plan.loader},
        "gateway": {"forwarding": True} if node.role == "gateway" else None,
        "coordinator": {"url": url, "setup_key_file": str(directory / "setup-key")},
        "metrics": {"listen": "127.0.0.1:9464"},
    }


def coordinator_settings(plan: LabPlan, addresses: Iterable[str]) -> dict[str, Any]:
    """What stands in coordinator.toml; paths are those of its own namespace."""
    names = [bare(address) for address in addresses]
    return {
        "state_dir": f"{COORDINATOR_HOME}/state",
        "listen": f"{names[0]}:{COORDINATOR_PORT}",
        "names": [*names, COORDINATOR],
        "network": plan.name,
        "pools": list(plan.pools),
        "user": str(COORDINATOR_UID),
    }


def write_all(plan: LabPlan, record: LabRecord) -> None:
    """Every file that is there before anything starts."""
    base = state.lab_dir(plan.name)
    (base / "resolv.conf").write_text(_RESOLV)
    write_hosts(record)
    for node in plan.nodes:
        directory = state.node_dir(plan.name, node.name)
        directory.mkdir(parents=True)
        if node.kind == "node":
            assert record.coordinator_url is not None
            settings = agent_settings(
                plan, node, record.node(node.name), record.coordinator_url, directory
            )
            (directory / "agent.toml").write_text(toml(settings))
    if record.coordinator_url is not None:
        directory = state.coordinator_dir(plan.name)
        directory.mkdir(mode=0o700)
        settings = coordinator_settings(plan, record.node(COORDINATOR).underlay)
        (directory / "coordinator.toml").write_text(toml(settings))
        os.chown(directory, COORDINATOR_UID, COORDINATOR_UID)


def write_setup_key(path: Path, key: str) -> None:
    """The key at PATH in one step, readable by root only: the agent is already looking for it."""
    draft = path.with_suffix(".new")
    fd = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with open(fd, "w") as file:
        file.write(key + "\n")
    draft.replace(path)


def hosts_text(record: LabRecord) -> str:
    """/etc/hosts of every node: nodes by tunnel address, hosts by LAN address."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    for node in record.nodes:
        lines += [f"{bare(address)} {node.name}" for address in _named_addresses(node)]
    return "\n".join(lines) + "\n"


def _named_addresses(node: NodeRecord) -> tuple[str, ...]:
    if node.kind == "node":
        return node.tunnel
    return node.lan_addresses or node.underlay


def write_hosts(record: LabRecord) -> None:
    """Into the same inode always: it is bind-mounted in every node."""
    with open(state.lab_dir(record.name) / "hosts", "w") as file:
        file.write(hosts_text(record))
