"""What refusals cost: a count each, a bounded number of rows, and patience."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from coordinator import access, clock
from coordinator.api.context import EXTENSION, Service
from coordinator.app import create_app
from coordinator.refusals import Refusal, Refusals
from coordinator.settings import Limits, Settings
from coordinator.store.models import AuditRow
from tests.control.process import Keys

FEW = Limits(failures=5, failures_per_minute=1, challenges=3, audit_rows=8)


@pytest.fixture
def strict(settings: Settings) -> Iterator[Flask]:
    app = create_app(replace(settings, limits=FEW, trusted_proxies=("127.0.0.1",)))
    yield app
    app.extensions[EXTENSION].store.close()


def ask(app: Flask, token: str, *, source: str = "198.51.100.1") -> Any:
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": source}
    return app.test_client().get("/api/v1/network", headers=headers)


def rows(app: Flask) -> list[AuditRow]:
    with app.extensions[EXTENSION].store.reading() as session:
        found = select(AuditRow).where(AuditRow.action == "refuse").order_by(AuditRow.id)
        return list(session.scalars(found))


def test_guesses_beyond_the_limit_are_told_to_wait_and_the_right_token_still_passes(
    strict: Flask,
) -> None:
    here: Service = strict.extensions[EXTENSION]
    with here.store.writing() as session:
        token = access.create_token(session, "ops", "viewer", clock.now())
    answers = [ask(strict, f"zta_{i}") for i in range(8)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 3
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert answers[-1].content_type == "application/problem+json"
    assert ask(strict, token).status_code == 200
    assert ask(strict, "zta_x", source="198.51.100.2").status_code == 401
    assert here.refusals.counts == {("admin", "unknown_token"): 9, ("admin", "too_many"): 3}


def test_a_flood_of_refusals_leaves_few_rows_and_says_how_many_were_left_out(
    strict: Flask,
) -> None:
    for i in range(200):
        ask(strict, "zta_x", source=f"198.51.100.{i}")
    here: Service = strict.extensions[EXTENSION]
    noted = rows(strict)
    assert len(noted) == FEW.audit_rows
    assert here.refusals.counts["admin", "unknown_token"] == 200
    assert noted[0].actor == "source 198.51.100.0"
    assert noted[0].after == {"reason": "unknown_token", "left_out": 0}
    assert "zta_x" not in str([row.after for row in noted])


def test_what_was_left_out_is_counted_in_the_next_row(service: Service) -> None:
    refusals = Refusals(Limits())
    refusal = Refusal(what="token", reason="wrong_proof", source="198.51.100.1", subject="key")
    noted = [refusals.note(service.store, refusal, clock.now()) for _ in range(9)]
    assert noted == [True] * 5 + [False] * 4
    other = replace(refusal, source="198.51.100.2")
    assert refusals.note(service.store, other, clock.now())
    with service.store.reading() as session:
        last = session.scalars(select(AuditRow).order_by(AuditRow.id.desc())).first()
        assert last is not None and last.after == {"reason": "wrong_proof", "left_out": 4}
        assert (last.actor, last.kind, last.name) == ("source 198.51.100.2", "token", "key")


def test_challenges_for_one_key_are_few_at_once_from_one_address(strict: Flask) -> None:
    here: Service = strict.extensions[EXTENSION]
    with here.store.writing() as session:
        body = access.SetupKeyBody(role="mesh", uses=1000)
        made = access.create_setup_key(session, body, here.place.authority, clock.now())
    client = strict.test_client()

    def challenge(public_key: str) -> int:
        asked = {"purpose": "enrol", "public_key": public_key}
        headers = {"Authorization": f"Bearer {made['key']}"}
        return client.post("/api/v1/node/challenge", json=asked, headers=headers).status_code

    one = Keys().public
    assert [challenge(one) for _ in range(5)] == [201, 201, 201, 429, 429]
    # A thousand nodes behind one address, each with a key of its own, are no such thing.
    assert {challenge(Keys().public) for _ in range(30)} == {201}


def test_a_node_with_a_stale_token_is_always_told_to_prove_its_key(strict: Flask) -> None:
    client = strict.test_client()
    headers = {"Authorization": "Bearer ztn_stale"}
    answers = {client.get("/api/v1/node/stream", headers=headers).status_code for _ in range(20)}
    assert answers == {401}


def test_guesses_at_the_login_form_wait_like_any_other(strict: Flask) -> None:
    here: Service = strict.extensions[EXTENSION]
    with here.store.writing() as session:
        right = access.create_token(session, "ops", "viewer", clock.now())
    browser = strict.test_client()
    secure = {"base_url": "https://localhost"}
    page = browser.get("/ui/login", **secure).get_data(as_text=True)
    found = re.search(r'name="csrf"[^>]*value="([^"]+)"', page)
    assert found is not None, page

    def log_in(token: str) -> int:
        form = {"token": token, "csrf": found[1]}
        return browser.post("/ui/login", data=form, **secure).status_code

    assert [log_in(f"zta_{i}") for i in range(7)] == [401] * 5 + [429] * 2
    assert log_in(right) == 303
