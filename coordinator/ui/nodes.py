"""Nodes: how far each is, and what is known of it; gateways and what lies behind them."""

from __future__ import annotations

from flask import Response

from coordinator.ui.inside import at, get, items
from coordinator.ui.kinds import NODES
from coordinator.ui.page import blueprint, render


@blueprint.get("/nodes")
def nodes() -> Response:
    return render("nodes.html", title="Nodes", kind=NODES, items=items("/nodes"))


@blueprint.get("/nodes/<name>")
def node(name: str) -> Response:
    found = get(at("/nodes", name)).body
    return render("node.html", title=found["name"], node=found)


@blueprint.get("/gateways")
def gateways() -> Response:
    behind: dict[str, list[dict[str, object]]] = {}
    for resource in items("/resources"):
        behind.setdefault(resource["gateway"], []).append(resource)
    found = [n for n in items("/nodes") if n["role"] == "gateway" and n["revoked_at"] is None]
    coming = sorted(behind.keys() - {node["name"] for node in found})
    return render("gateways.html", title="Gateways", items=found, behind=behind, coming=coming)
