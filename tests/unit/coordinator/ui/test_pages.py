"""Every page: what it tells the browser to refuse, what it escapes, whom it lets write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flask import Flask

from coordinator.api.context import Service
from coordinator.store.models import NodeRow
from coordinator.ui import guard, page
from coordinator.ui.kinds import KINDS, Kind
from coordinator.ui.policy import PARTS
from tests.unit.coordinator.conftest import Call
from tests.unit.coordinator.test_network import add_node
from tests.unit.coordinator.ui.conftest import ORIGIN, Meet, Person

LISTS = tuple(f"/ui/{slug}" for slug, _, _ in page.MENU)
PAGES = (
    *LISTS,
    *(f"/ui/{kind.slug}/new" for kind in KINDS.values() if kind.can_create),
    *(f"/ui/policy/{part}/edit" for part in PARTS),
)
BAD = "<script>alert(1)</script>"


@pytest.mark.parametrize("path", [*PAGES, "/ui/login", "/ui/nothing", "/ui/nodes/nobody"])
def test_every_page_has_every_header(owner: Person, path: str) -> None:
    answer = owner.open("GET", path)
    assert answer.status_code == (404 if path in ("/ui/nothing", "/ui/nodes/nobody") else 200)
    for name, value in guard.HEADERS.items():
        assert answer.headers[name] == value
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.mimetype == "text/html"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize("path", PAGES)
def test_no_page_has_script_or_style_of_its_own(owner: Person, path: str) -> None:
    text = owner.get(path)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))
    assert text.count("<main") == text.count("<h1>") == text.count('class="skip"') == 1


def test_a_static_file_is_kept_for_ever_at_an_address_that_names_its_content(
    owner: Person,
) -> None:
    text = owner.get("/ui/")
    (style,) = re.findall(r'href="(/ui/static/[0-9a-f]{16}/ui.css)"', text)
    answer = owner.open("GET", style)
    assert answer.mimetype == "text/css"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.data == (Path(page.__file__).parent / "static/ui.css").read_bytes()
    assert owner.open("GET", re.sub("[0-9a-f]{16}", "0" * 16, style)).status_code == 404


@pytest.mark.parametrize("csrf", ["", "wrong", "ä"])
def test_a_form_that_this_browser_did_not_get_is_refused(
    owner: Person, call: Call, csrf: str
) -> None:
    answer = owner.open("POST", "/ui/identities/new", csrf=csrf, name="web")
    assert answer.status_code == 403
    assert "open it again" in answer.text
    assert call("GET", "/identities")["items"] == []
    owner.send("/ui/identities/new", name="web")
    assert [item["name"] for item in call("GET", "/identities")["items"]] == ["web"]


def test_another_sessions_csrf_token_is_refused(owner: Person, meet: Meet) -> None:
    other = meet("editor").hidden("/ui/")["csrf"]
    assert owner.open("POST", "/ui/identities/new", csrf=other, name="web").status_code == 403


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.slug)
def test_a_viewer_sees_no_form_and_is_refused_whatever_is_posted(
    meet: Meet, call: Call, kind: Kind
) -> None:
    call("POST", "/identities", {"name": "web"}, status=201)
    viewer = meet("viewer")
    csrf = viewer.hidden("/ui/")["csrf"]
    for what in ("new", "web/edit", "web/delete"):
        is_there = what != "new" or kind.can_create
        path = f"/ui/{kind.slug}/{what}"
        assert viewer.open("GET", path).status_code == (403 if is_there else 404)
        answer = viewer.open("POST", path, csrf=csrf, name="other")
        assert answer.status_code == (403 if is_there else 404)
    assert len(call("GET", "/identities")["items"]) == 1


@pytest.mark.parametrize("path", [p for p in LISTS if p != "/ui/administrators"])
def test_what_a_viewer_may_see_has_no_way_to_change_it(meet: Meet, path: str) -> None:
    text = meet("viewer").get(path)
    assert re.findall(r'<form[^>]*method="post"[^>]*action="([^"]*)"', text) == ["/ui/logout"]
    assert not re.search(r'href="[^"]*/(new|edit|delete)"', text)


def test_administrators_are_shown_to_owners_alone(meet: Meet, owner: Person) -> None:
    assert "/ui/administrators" in owner.get("/ui/")
    editor = meet("editor")
    assert "/ui/administrators" not in editor.get("/ui/")
    assert "needs the role owner" in editor.get("/ui/administrators", status=403)
    assert editor.send("/ui/identities/new", name="web") == "/ui/identities"


def test_what_somebody_else_wrote_is_text_and_never_markup(owner: Person, service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    with service.store.writing() as session:  # a node says what it likes
        row = session.get_one(NodeRow, node_id)
        row.applied_error = BAD
        row.applied_number, row.applied_epoch, row.applied_digest = 0, "e", "d"
    text = owner.get("/ui/nodes") + owner.get("/ui/")
    assert "&lt;script&gt;alert(1)" in text
    assert BAD not in text


@pytest.mark.parametrize("path", [f"/ui/nodes/{BAD}", f"/ui/{BAD}", f"/ui/groups/{BAD}/edit"])
def test_what_is_in_the_address_is_text_as_well(owner: Person, path: str) -> None:
    text = owner.get(path, status=404)
    assert BAD not in text
    assert "alert(1)" in text or "no page" in text


def test_what_was_typed_wrong_is_shown_again_as_text(owner: Person) -> None:
    text = owner.send("/ui/identities/new", status=422, name=f'"{BAD}')
    assert BAD not in text
    assert "&lt;script&gt;" in text


def test_no_page_shows_a_secret_but_the_one_that_makes_it(
    owner: Person, app: Flask, call: Call
) -> None:
    made = owner.send("/ui/setup-keys/new", status=200, role="mesh", uses="1", ttl_s="60")
    (key,) = re.findall(r"ztk_[\w.~-]+|<textarea[^>]*>([^<]+)</textarea>", made)
    token_page = owner.send("/ui/administrators/new", status=200, name="ann", role="viewer")
    (token,) = re.findall(r"zta_[\w-]+", token_page)
    assert key and token
    everything = "".join(owner.get(path) for path in PAGES)
    cookie = owner.client.get_cookie("__Host-ztlab", domain="localhost")
    assert cookie is not None
    for secret in (key, token, owner.token, cookie.value):
        assert secret not in everything
    ann = Person(app, token)
    ann.log_in()


def test_a_page_that_is_not_there_is_a_page(owner: Person, app: Flask) -> None:
    assert "There is no page /ui/nothing/at/all" in owner.get("/ui/nothing/at/all", status=404)
    assert "<h1>" in owner.get("/ui/logout", status=404)  # it is there for a form alone
    stranger = app.test_client().get("/ui/nothing", base_url=ORIGIN)
    assert stranger.headers["Location"] == "/ui/login"
