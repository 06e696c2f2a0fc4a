"""`ztlab list` and `ztlab inspect`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import click

from ztlab.cli.options import json_option
from ztlab.clikit import echo_json
from ztlab.errors import ZtError
from ztlab.lab.addressing import bare
from ztlab.lab.lab import Lab
from ztlab.lab.processes import Process
from ztlab.lab.state import NodeRecord


@click.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the labs that stand, or that left something behind."""
    rows = [_summary(name) for name in Lab.names()]
    if as_json:
        echo_json(rows)
    elif not rows:
        click.echo("no lab is standing; make one: ztlab up FILE")
    else:
        _table(
            ("LAB", "STATE", "NODES", "AGE", "FILE"),
            [
                (
                    row["name"],
                    row["state"],
                    " ".join(row["nodes"]),
                    _age(row["created_at"]),
                    row["source"] or "",
                )
                for row in rows
            ],
        )


@click.command("inspect")
@click.argument("name", required=False)
@json_option
def inspect_command(name: str | None, as_json: bool) -> None:
    """Show the nodes of lab NAME: role, identity, addresses, ports, processes."""
    data = lab_as_data(Lab.open(name))
    if as_json:
        echo_json(data)
        return
    click.echo(f"lab {data['name']} is {data['state']}, {_age(data['created_at'])} old")
    for node in data["stopped"]:
        click.echo(f"  {node}: its program has ended, see: ztlab logs {data['name']}.{node}")
    if data["source"]:
        click.echo(f"  from {data['source']}")
    click.echo(f"  files in {data['directory']}")
    if data["coordinator_url"]:
        click.echo(f"  coordinator {data['coordinator_url']} (from inside)")
    click.echo()
    _table(
        ("NODE", "KIND", "IDENTITY", "TUNNEL", "LAN", "UNDERLAY", "LISTENS", "PROCESSES"),
        [
            (
                node["name"],
                node["role"] or node["kind"],
                node["identity"] or "-",
                _addresses(node["tunnel"]),
                _addresses(node["lan_addresses"]),
                _addresses(node["underlay"]),
                " ".join(node["listen"]) or "-",
                "?" if node["processes"] is None else str(len(node["processes"])),
            )
            for node in data["nodes"]
        ],
    )


def lab_as_data(lab: Lab) -> dict[str, Any]:
    """A lab as `--json` shows it. A node's processes are for root to see: else they are null."""
    record = lab.record
    stopped = _stopped(lab)
    nets: dict[str, Sequence[Process] | None] = {
        node.name: lab.processes(node.name) if os.geteuid() == 0 else None
        for node in record.nodes
        if node.namespaces
    }
    return {
        "name": record.name,
        "state": _state(lab, stopped),
        "stopped": list(stopped),
        "created_at": record.created_at,
        "source": record.source,
        "directory": str(lab.directory),
        "coordinator_url": record.coordinator_url,
        "init_pid": record.init.pid if record.init else None,
        "phases_s": dict(record.phases_s),
        "nodes": [
            _node_as_data(record.name, node, nets.get(node.name, ())) for node in record.nodes
        ],
    }


def _node_as_data(lab: str, node: NodeRecord, running: Sequence[Process] | None) -> dict[str, Any]:
    seen = None if running is None else [{"pid": p.pid, "argv": list(p.argv)} for p in running]
    return {
        "name": node.name,
        "namespace": f"{lab}.{node.name}",
        "kind": node.kind,
        "role": node.role,
        "identity": node.identity,
        "lan": node.lan,
        "tunnel": list(node.tunnel),
        "lan_addresses": list(node.lan_addresses),
        "underlay": list(node.underlay),
        "endpoint": node.endpoint,
        "listen": list(node.listen),
        "processes": seen,
    }


def _summary(name: str) -> dict[str, Any]:
    try:
        lab = Lab.open(name)
    except ZtError:  # its record cannot be read: still there, still to be seen
        return {"name": name, "state": "dead", "nodes": [], "created_at": None, "source": None}
    return {
        "name": name,
        "state": _state(lab, _stopped(lab)),
        "nodes": [node.name for node in lab.nodes],
        "created_at": lab.record.created_at,
        "source": lab.record.source,
    }


def _stopped(lab: Lab) -> tuple[str, ...]:
    """Nodes without their program; of a lab that stands, and where we may look (root)."""
    return lab.stopped() if lab.status == "up" and os.geteuid() == 0 else ()


def _state(lab: Lab, stopped: tuple[str, ...]) -> str:
    """`degraded`: it stands, but a program that belongs to it does not run."""
    return "degraded" if stopped else lab.status


def _addresses(addresses: list[str]) -> str:
    return " ".join(bare(address) for address in addresses) or "-"


def _age(created_at: float | None) -> str:
    if created_at is None:
        return "-"
    seconds = max(0, int(time.time() - created_at))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as their widest entry, two blanks apart."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())
