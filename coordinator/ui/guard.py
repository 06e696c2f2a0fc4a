"""Who is at the browser, what a form must bring, and what every page tells the browser to refuse.

The cookie: RFC 6265bis, section 4.1.3 (`__Host-`: this host alone, TLS alone). The policy: W3C
Content Security Policy Level 3.
"""

from __future__ import annotations

import hmac
import math
import secrets

from flask import Response, abort, g, redirect, request, url_for
from werkzeug.exceptions import TooManyRequests
from werkzeug.wrappers import Response as AnyResponse

from coordinator import clock, sessions
from coordinator.api import refusals
from coordinator.api.context import service
from coordinator.sessions import Browser
from coordinator.ui.inside import COOKIE

LOGIN_COOKIE = "__Host-ztlab-login"  # before there is a session: the login form's own token
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_STRANGERS = frozenset({"ui.login", "ui.log_in", "ui.static_file"})


def browser() -> Browser:
    """The session of this request; who has none did not come so far."""
    found: Browser = g.browser
    return found


def admit() -> AnyResponse | None:
    """Before each request: whoever has no session is shown the login; a form must prove itself."""
    g.browser = None
    if request.endpoint in _STRANGERS:
        return None
    cookie = request.cookies.get(COOKIE, "")
    with service().store.reading() as session:
        g.browser = sessions.find(session, cookie, clock.now())
        is_forged = g.browser is None and cookie and not sessions.is_known(session, cookie)
    if g.browser is None:
        if is_forged and (wait_s := refusals.forged_session()):
            raise TooManyRequests(
                "Too many wrong cookies from this address.", retry_after=max(1, math.ceil(wait_s))
            )
        response = redirect(url_for("ui.login"), 303)
        if cookie:  # it is shown once, and not with every page that is asked for
            forget(response, COOKIE)
        return response
    if request.method not in ("GET", "HEAD"):
        _check(g.browser.csrf)
    return None


def check_login() -> None:
    """The login form has no session to be bound to: it is bound to a cookie of its own."""
    _check(request.cookies.get(LOGIN_COOKIE, ""))


def _check(wanted: str) -> None:
    given = request.form.get("csrf", "")
    if not wanted or not hmac.compare_digest(given.encode(), wanted.encode()):
        abort(403, "This form was not made for this browser, or is too old: open it again.")


def login_token() -> str:
    """What the login form carries, and its cookie."""
    return request.cookies.get(LOGIN_COOKIE) or secrets.token_urlsafe(32)


def keep(response: AnyResponse, name: str, value: str) -> None:
    """Set a cookie that no script reads and no other site's request carries."""
    response.set_cookie(name, value, secure=True, httponly=True, samesite="Strict", path="/")


def forget(response: AnyResponse, name: str) -> None:
    """Take a cookie back."""
    response.delete_cookie(name, secure=True, httponly=True, samesite="Strict", path="/")


def seal(response: Response) -> Response:
    """After each request: the headers of every answer below /ui."""
    for name, value in HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")
    return response
