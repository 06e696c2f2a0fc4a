"""Sessions: opened by a token, kept in a cookie that nothing else reads, and over when they are."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from coordinator import access, clock, sessions
from coordinator.api.context import Service
from coordinator.store.models import SessionRow
from tests.unit.coordinator.conftest import Call
from tests.unit.coordinator.ui.conftest import ORIGIN, Meet, Person
from ztlab.errors import ZtError

ON_BOTH_STORES = True


def is_inside(person: Person) -> bool:
    return person.open("GET", "/ui/nodes").status_code == 200


def test_the_root_leads_to_the_pages_and_they_to_the_login(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/", base_url=ORIGIN).headers["Location"] == "/ui/"
    assert client.get("/ui/", base_url=ORIGIN).headers["Location"] == "/ui/login"


def test_every_page_but_the_login_sends_a_stranger_to_it(app: Flask) -> None:
    client = app.test_client()
    adapter = app.url_map.bind("localhost")
    outside = [r for r in app.url_map.iter_rules() if not r.rule.startswith(("/api/", "/ui/"))]
    assert [rule.rule for rule in outside] == ["/"]
    pages = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("ui.")]
    asked = 0
    for rule in pages:
        arguments: dict[str, Any] = dict.fromkeys(rule.arguments, "x")
        arguments |= {"slug": "identities"} if "slug" in arguments else {}
        arguments |= {"part": "tests"} if "part" in arguments else {}
        arguments |= {"number": 1} if "number" in arguments else {}
        path = adapter.build(rule.endpoint, arguments)
        if rule.endpoint in ("ui.login", "ui.log_in", "ui.static_file"):
            continue
        for method in (rule.methods or set()) - {"HEAD"}:
            answer = client.open(path, method=method, base_url=ORIGIN)
            assert (answer.status_code, answer.headers["Location"]) == (303, "/ui/login"), path
            asked += 1
    assert asked > 10


def test_the_cookie_is_for_this_host_over_tls_and_for_no_script(app: Flask, owner: Person) -> None:
    stranger = Person(app, owner.token)
    answer = stranger.open("POST", "/ui/login", **stranger.hidden("/ui/login"), token=owner.token)
    cookies = answer.headers.getlist("Set-Cookie")
    (cookie,) = [c for c in cookies if c.startswith("__Host-ztlab=")]
    value, *attributes = cookie.split("; ")
    assert value.startswith("__Host-ztlab=zts_")
    assert set(attributes) == {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"}


def test_a_wrong_token_opens_nothing_and_the_right_one_does(app: Flask, owner: Person) -> None:
    stranger = Person(app, owner.token)
    page = stranger.send("/ui/login", status=401, token="zta_wrong")
    assert "This is no administrator’s token." in page
    assert "zta_wrong" not in page
    assert not is_inside(stranger)
    stranger.log_in()
    assert is_inside(stranger)


@pytest.mark.parametrize("token", ["a\nb", "a\r\nX-Role: owner", "ä", "\x00", "{cookie}"])
def test_what_is_no_token_at_all_is_refused_like_a_wrong_one(
    app: Flask, owner: Person, token: str
) -> None:
    cookie = owner.client.get_cookie("__Host-ztlab", domain="localhost")
    token = token.format(cookie=cookie.value if cookie else "none")
    page = Person(app, "").send("/ui/login", status=401, token=token)
    assert "no administrator" in page


def test_the_login_form_of_another_browser_is_refused(app: Flask, owner: Person) -> None:
    mine, other = Person(app, owner.token), Person(app, owner.token)
    csrf = other.hidden("/ui/login")["csrf"]
    assert mine.open("POST", "/ui/login", csrf=csrf, token=owner.token).status_code == 403
    mine.get("/ui/login")
    assert mine.open("POST", "/ui/login", csrf=csrf, token=owner.token).status_code == 403
    assert not is_inside(mine)
    mine.log_in()


def test_the_store_has_the_hash_of_a_cookie_and_not_the_cookie(
    service: Service, owner: Person
) -> None:
    cookie = owner.client.get_cookie("__Host-ztlab", domain="localhost")
    assert cookie is not None and cookie.value.startswith("zts_")
    with service.store.reading() as session:
        (row,) = session.scalars(select(SessionRow))
        held = repr([getattr(row, column.key) for column in SessionRow.__table__.columns])
    assert cookie.value not in held and cookie.value[4:] not in held
    assert owner.token not in held


def test_a_login_and_a_logout_are_in_the_audit_log(owner: Person, call: Call) -> None:
    owner.send("/ui/logout", on="/ui/")
    rows = call("GET", "/audit?kind=session")["items"]
    assert [(row["actor"], row["action"], row["name"]) for row in rows] == [
        ("token owner", "logout", "owner"),
        ("token owner", "login", "owner"),
    ]
    assert {*rows[1]["after"]} == {"begun_at", "expires_at"}


def test_a_logout_ends_this_session_and_no_other(app: Flask, owner: Person) -> None:
    other = Person(app, owner.token)
    other.log_in()
    cookie = owner.client.get_cookie("__Host-ztlab", domain="localhost")
    assert cookie is not None
    assert owner.send("/ui/logout", on="/ui/") == "/ui/login"
    owner.client.set_cookie("__Host-ztlab", cookie.value, domain="localhost", secure=True)
    assert not is_inside(owner)  # although the browser still shows the cookie
    assert is_inside(other)


def test_a_session_ends_with_the_token_that_opened_it(
    service: Service, meet: Meet, owner: Person
) -> None:
    viewer = meet("viewer")
    assert is_inside(viewer)
    with service.store.writing() as session:
        access.delete_token(session, "viewer")
    assert not is_inside(viewer)
    assert is_inside(owner)


def test_a_session_ends_where_its_token_is_replaced(
    service: Service, meet: Meet, owner: Person
) -> None:
    viewer = meet("viewer")
    with service.store.writing() as session:
        access.create_token(session, "viewer", "viewer", clock.now(), replaces=True)
    assert not is_inside(viewer)
    assert is_inside(owner)


def test_a_session_ends_with_its_time(service: Service, owner: Person) -> None:
    assert is_inside(owner)
    with service.store.writing() as session:
        past = clock.now() - timedelta(seconds=1)
        session.execute(update(SessionRow).values(expires_at=past))
    assert not is_inside(owner)
    owner.log_in()
    assert is_inside(owner)
    with service.store.reading() as session:
        assert len(session.scalars(select(SessionRow)).all()) == 1  # the old one is swept


def test_an_administrator_has_so_many_sessions_and_a_new_one_ends_the_oldest(
    service: Service, meet: Meet, owner: Person
) -> None:
    viewer = meet("viewer")
    for n in range(sessions.MOST):
        assert is_inside(viewer), n
        with service.store.writing() as session:
            sessions.begin(session, viewer.token, clock.now() + timedelta(seconds=1 + n))
    assert not is_inside(viewer) and is_inside(owner)
    with service.store.reading() as session:
        theirs = select(SessionRow).where(SessionRow.token_name == "viewer")
        assert len(session.scalars(theirs).all()) == sessions.MOST


def test_a_session_speaks_to_the_api_with_the_role_of_its_token(
    service: Service, meet: Meet
) -> None:
    cookie = meet("viewer").client.get_cookie("__Host-ztlab", domain="localhost")
    assert cookie is not None
    with service.store.reading() as session:
        access.authorize(session, cookie.value, "viewer")
        with pytest.raises(ZtError, match="needs the role editor"):
            access.authorize(session, cookie.value, "editor")


def test_a_forged_cookie_is_counted_noted_and_slowed_down_and_an_expired_one_is_not(
    app: Flask, service: Service, owner: Person, call: Call
) -> None:
    def show(cookie: str) -> TestResponse:
        client = app.test_client()
        client.set_cookie("__Host-ztlab", cookie, domain="localhost", secure=True)
        return client.get("/ui/nodes", base_url=ORIGIN)

    ours = owner.client.get_cookie("__Host-ztlab", domain="localhost")
    assert ours is not None and show(ours.value).status_code == 200
    with service.store.writing() as session:
        session.execute(update(SessionRow).values(expires_at=clock.now() - timedelta(seconds=1)))
    assert show(ours.value).headers["Location"] == "/ui/login"
    assert not service.refusals.counts

    answer = show("zts_forged")
    assert answer.headers["Location"] == "/ui/login"
    assert any(c.startswith("__Host-ztlab=;") for c in answer.headers.getlist("Set-Cookie"))
    assert service.refusals.counts == {("login", "unknown_token"): 1}
    (row,) = call("GET", "/audit?kind=login&action=refuse")["items"]
    assert row["after"]["reason"] == "unknown_token" and "zts_forged" not in str(row)
    while (answer := show("zts_forged")).status_code == 303:
        assert service.refusals.counts["login", "unknown_token"] < 1000
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1
    owner.log_in()  # who has the right token is not slowed down
    assert is_inside(owner)


def test_the_pages_name_no_other_origin(owner: Person, call: Call) -> None:
    for path in ("/ui/", "/ui/nodes", "/ui/setup-keys/new"):
        addresses = re.findall(r'(?:href|src|action)="([^"]*)"', owner.get(path))
        assert addresses
        assert all(address.startswith(("/ui/", "#", "/api/v1/docs")) for address in addresses), (
            addresses
        )
