"""Nodes: how far each is, and what is known of it; gateways and what lies behind them."""

from __future__ import annotations

from flask import Response

from coordinator.ui.inside import at, get
from coordinator.ui.kinds import GATEWAYS, NODES
from coordinator.ui.listing import listed
from coordinator.ui.page import blueprint, render


@blueprint.get("/nodes")
def nodes() -> Response:
    return render("nodes.html", title="Nodes", kind=NODES, page=listed(NODES))


@blueprint.get("/nodes/<name>")
def node(name: str) -> Response:
    found = get(at("/nodes", name)).body
    return render("node.html", title=found["name"], node=found)


@blueprint.get("/gateways")
def gateways() -> Response:
    return render("gateways.html", title="Gateways", kind=GATEWAYS, page=listed(GATEWAYS))
