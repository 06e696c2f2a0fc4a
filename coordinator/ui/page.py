"""The blueprint of all pages, how a page is rendered, and what is shown when one cannot be."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from importlib import resources
from typing import Any

from flask import Blueprint, Response, abort, g, redirect, render_template, request, url_for
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from coordinator.access import AdminRole
from coordinator.ui import guard, kinds
from coordinator.ui.inside import COOKIE, Answer, Refusal

log = logging.getLogger(__name__)
blueprint = Blueprint("ui", __name__, url_prefix="/ui", template_folder="templates")
blueprint.before_request(guard.admit)
blueprint.after_request(guard.seal)

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOREVER = "public, max-age=31536000, immutable"
# (what follows /ui/, title, the least role that sees it)
MENU: tuple[tuple[str, str, AdminRole], ...] = (
    ("", "Overview", "viewer"),
    ("nodes", "Nodes", "viewer"),
    ("gateways", "Gateways", "viewer"),
    ("identities", "Identities", "viewer"),
    ("groups", "Groups", "viewer"),
    ("resources", "Resources", "viewer"),
    ("policy", "Policy", "viewer"),
    ("reachability", "Reachability", "viewer"),
    ("logs", "Logs", "viewer"),
    ("audit", "Audit", "viewer"),
    ("revisions", "Revisions", "viewer"),
    ("setup-keys", "Setup keys", "viewer"),
    ("administrators", "Administrators", "owner"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Static:
    """A file that never changes below its address, which names its content."""

    digest: str
    content: bytes
    type: str


def _load() -> dict[str, _Static]:
    files = resources.files("coordinator.ui") / "static"
    found = {}
    for file in files.iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            found[file.name] = _Static(digest=digest, content=content, type=_TYPES[suffix])
    return found


_STATIC = _load()


@blueprint.get("/static/<digest>/<name>")
def static_file(digest: str, name: str) -> Response:
    file = _STATIC.get(name)
    if file is None or file.digest != digest:
        abort(404)
    answer = Response(file.content, mimetype=file.type)
    answer.headers["Cache-Control"] = _FOREVER
    return answer


@blueprint.app_template_global()
def static_url(name: str) -> str:
    """Where a static file is: the address changes with the content, and is cached for ever."""
    return url_for("ui.static_file", digest=_STATIC[name].digest, name=name)


def render(template: str, *, title: str, status: int = 200, **values: Any) -> Response:
    """A page; the templates escape whatever they are given."""
    browser = g.get("browser")
    section = request.path.removeprefix("/ui").strip("/").partition("/")[0]
    menu = [
        {"href": f"/ui/{slug}", "title": name, "is_here": slug == _section(section)}
        for slug, name, needed in MENU
        if browser is not None and kinds.may(browser.role, needed)
    ]
    text = render_template(template, title=title, browser=browser, menu=menu, may=_may, **values)
    return Response(text, status, mimetype="text/html")


def _section(slug: str) -> str:
    return "policy" if slug == "rules" else slug


def _may(needed: AdminRole) -> bool:
    browser = g.get("browser")
    return browser is not None and kinds.may(browser.role, needed)


def go(endpoint: str, **values: Any) -> AnyResponse:
    """After a change: on to a page that can be loaded again."""
    return redirect(url_for(f"ui.{endpoint}", **values), 303)


def _error(status: int, title: str, answer: Answer | None = None, detail: str = "") -> Response:
    said = answer.detail if answer is not None else detail
    faults = answer.faults if answer is not None else ()
    return render("error.html", title=title, status=status, detail=said, faults=faults)


@blueprint.errorhandler(Refusal)
def refused(error: Refusal) -> AnyResponse:
    """The API said no to a page itself: it says why."""
    status = error.answer.status
    if status == 401:  # the session ended while the page was made
        answer = redirect(url_for("ui.login"), 303)
        guard.forget(answer, COOKIE)
        return answer
    titles = {403: "Not allowed", 404: "Not found", 422: "Not understood", 503: "Not available"}
    return _error(status, titles.get(status, "It did not work"), error.answer)


@blueprint.errorhandler(HTTPException)
def not_served(error: HTTPException) -> Response:
    answer = _error(error.code or 500, error.name, detail=error.description or "")
    if (later := getattr(error, "retry_after", None)) is not None:
        answer.headers["Retry-After"] = str(later)
    return answer


@blueprint.errorhandler(OperationalError)
@blueprint.errorhandler(InterfaceError)
@blueprint.errorhandler(NoConnection)
def no_store(error: SQLAlchemyError) -> Response:
    """A full disk, a lock that is held too long, a server that is away: it may pass."""
    log.error("the store failed: %s", getattr(error, "orig", error))
    return _error(503, "Not available", detail="The store cannot be used now; nothing was changed.")


@blueprint.errorhandler(Exception)
def bug(error: Exception) -> Response:
    log.error("unhandled error", exc_info=error)
    return _error(500, "Internal error", detail="The log of the coordinator says why.")


@blueprint.route("/<path:path>", methods=["GET", "POST"])
def nowhere(path: str) -> Response:
    abort(404, f"There is no page /ui/{path}.")
