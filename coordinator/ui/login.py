"""In and out: an administrator's token opens a session, and never comes back to the browser."""

from __future__ import annotations

from flask import Response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from coordinator import clock, sessions
from coordinator.api.context import service
from coordinator.errors import Unauthenticated
from coordinator.ui import guard
from coordinator.ui.inside import COOKIE, ask, get
from coordinator.ui.page import blueprint, go, render


@blueprint.get("/login")
def login() -> Response:
    return _form()


@blueprint.post("/login")
def log_in() -> AnyResponse:
    guard.check_login()
    token = request.form.get("token", "").strip()
    # Asked as any client would ask, so it is counted and slowed down as any guess is.
    answer = ask("GET", "/network", token=token)
    if answer.status in (400, 401) or not token:
        return _form("This is no administrator’s token.", 401)
    if not answer.is_ok:
        return _form(answer.detail, answer.status)
    try:
        with service().store.writing() as session:
            sessions.end(session, request.cookies.get(COOKIE, ""), clock.now())
            cookie = sessions.begin(session, token, clock.now())
    except Unauthenticated:  # another session's cookie, or a token that is deleted just now
        return _form("This is no administrator’s token.", 401)
    response = go("overview")
    guard.keep(response, COOKIE, cookie)
    guard.forget(response, guard.LOGIN_COOKIE)
    return response


@blueprint.post("/logout")
def log_out() -> AnyResponse:
    with service().store.writing() as session:
        sessions.end(session, request.cookies.get(COOKIE, ""), clock.now())
    response = redirect(url_for("ui.login"), 303)
    guard.forget(response, COOKIE)
    return response


@blueprint.get("/")
def overview() -> Response:
    found = get("/network").body
    waiting = get("/nodes", {"revoked": "false", "has_converged": "false"}).body
    return render(
        "overview.html",
        title="Overview",
        network=found,
        waiting=waiting["items"],
        are_more=waiting["next"] is not None,
    )


def _form(fault: str = "", status: int = 200) -> Response:
    token = guard.login_token()
    response = render("login.html", title="Log in", status=status, csrf=token, fault=fault)
    guard.keep(response, guard.LOGIN_COOKIE, token)
    return response
