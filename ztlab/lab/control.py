"""The lab's side of the management API: one client with the owner's token."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ztlab.client.admin import AdminClient
from ztlab.errors import ZtError
from ztlab.lab import files, state
from ztlab.lab.lab import Lab
from ztlab.lab.plan import LabPlan, NodePlan


def owner_token_path(lab: str) -> Path:
    return state.coordinator_dir(lab) / "owner-token"


def admin_client(lab: Lab) -> AdminClient:
    """A client of LAB's coordinator; ZtError before its `init` has run."""
    assert lab.record.coordinator_url is not None
    directory = state.coordinator_dir(lab.name)
    try:
        authority = (directory / "state" / "authority.pem").read_text()
        token = owner_token_path(lab.name).read_text().strip()
    except OSError as error:
        raise ZtError(f"the coordinator of {lab.name!r} is not set up: {error}") from None
    return AdminClient(lab.record.coordinator_url, authority, token, lab.coordinator_socket)


def hand_out_keys(lab: Lab, admin: AdminClient, nodes: Iterable[NodePlan]) -> None:
    """One setup key for each node, written where its agent waits for it."""
    for node in nodes:
        made = admin.create_setup_key(name=node.name, role=node.role, identity=node.identity)
        assert made.key is not None
        files.write_setup_key(state.node_dir(lab.name, node.name) / "setup-key", made.key)


def enrolling(plan: LabPlan) -> tuple[NodePlan, ...]:
    """The nodes of PLAN that run an agent."""
    return tuple(node for node in plan.nodes if node.kind == "node")
