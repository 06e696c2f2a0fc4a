"""The lab's side of the management API: one client with the owner's token."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ztlab.client.admin import AdminClient
from ztlab.errors import ZtError
from ztlab.lab import files, state
from ztlab.lab.lab import Lab
from ztlab.lab.plan import LabPlan, NodePlan
from ztlab.model.management import ANY_TAG


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


def admit(lab: Lab, admin: AdminClient, plan: LabPlan) -> None:
    """Give the coordinator the plan's document, and each node the setup key its agent waits for.

    A key may name an identity, and a resource a gateway that only a key speaks of yet: identities,
    keys, document, in this order. No node enrols before the policy is there.
    """
    if plan.document.get("resources"):
        admin.put_document({"identities": plan.document.get("identities", [])}, etag=ANY_TAG)
        keys = _make_keys(admin, enrolling(plan))
        admin.put_document(plan.document, etag=ANY_TAG)
    else:
        admin.put_document(plan.document, etag=ANY_TAG)
        keys = _make_keys(admin, enrolling(plan))
    for node, key in keys.items():
        files.write_setup_key(state.node_dir(lab.name, node) / "setup-key", key)


def _make_keys(admin: AdminClient, nodes: Iterable[NodePlan]) -> dict[str, str]:
    keys = {}
    for node in nodes:
        made = admin.create_setup_key(name=node.name, role=node.role, identity=node.identity)
        keys[node.name] = made.key
    return keys


def enrolling(plan: LabPlan) -> tuple[NodePlan, ...]:
    """The nodes of PLAN that run an agent."""
    return tuple(node for node in plan.nodes if node.kind == "node")
