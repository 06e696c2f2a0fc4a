"""All pages, put into an application."""

from __future__ import annotations

from flask import Flask, redirect
from werkzeug.wrappers import Response

from coordinator.ui import history, login, logs, nodes, objects, page, policy, reachability

__all__ = ["install"]
_VIEWS = (
    history,
    login,
    logs,
    nodes,
    objects,
    policy,
    reachability,
)  # imported, their views are in the blueprint


def install(app: Flask) -> None:
    """Serve the pages below /ui/, and lead there from /."""
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.register_blueprint(page.blueprint)
    app.add_url_rule("/", "root", _to_pages, methods=["GET"])


def _to_pages() -> Response:
    return redirect("/ui/", 303)
