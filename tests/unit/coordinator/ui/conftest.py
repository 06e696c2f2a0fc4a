"""A browser without a screen: cookies, pages, and the forms on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import unescape

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from coordinator import access, clock
from coordinator.access import AdminRole
from coordinator.api.context import Service

ORIGIN = "https://localhost"
_HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')


class Person:
    """Somebody at a browser of their own.

    token  an administrator's, with which they log in
    """

    def __init__(self, app: Flask, token: str) -> None:
        self.client = app.test_client()
        self.token = token

    def get(self, path: str, *, status: int = 200) -> str:
        """The page at PATH."""
        answer = self.open("GET", path)
        assert answer.status_code == status, answer.text
        return answer.text

    def open(self, method: str, path: str, **form: str) -> TestResponse:
        """One request, exactly as given; redirections are not followed."""
        data = form if method == "POST" else None
        return self.client.open(path, method=method, base_url=ORIGIN, data=data)

    def send(
        self,
        path: str,
        fields: Mapping[str, str] | None = None,
        *,
        status: int = 303,
        on: str | None = None,
        **more: str,
    ) -> str:
        """Fill in the last form on the page ON (else PATH) and send it to PATH: where it leads to,
        or the page that answers instead."""
        answer = self.open("POST", path, **{**self.hidden(on or path), **(fields or {}), **more})
        assert answer.status_code == status, answer.text
        return answer.headers["Location"] if status == 303 else answer.text

    def hidden(self, path: str) -> dict[str, str]:
        """The hidden fields of the forms at PATH."""
        return {name: unescape(value) for name, value in _HIDDEN.findall(self.get(path))}

    def log_in(self) -> None:
        assert self.send("/ui/login", token=self.token) == "/ui/"


Meet = Callable[[AdminRole], Person]


@pytest.fixture
def meet(app: Flask, service: Service) -> Meet:
    """meet("viewer"): somebody of that role, logged in."""

    def made(role: AdminRole) -> Person:
        with service.store.writing() as session:
            token = access.create_token(session, role, role, clock.now())
        person = Person(app, token)
        person.log_in()
        return person

    return made


@pytest.fixture
def owner(meet: Meet) -> Person:
    return meet("owner")
