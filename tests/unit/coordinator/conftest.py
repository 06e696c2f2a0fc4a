"""One initialised state directory per test run, copied for each test: making keys is slow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from coordinator import access, clock
from coordinator.api.context import EXTENSION, Service
from coordinator.app import create_app
from coordinator.settings import Settings
from coordinator.setup import initialise
from tests.unit.coordinator import networks

Call = Callable[..., Any]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template") / "state"
    initialise(networks.settings(directory))
    return directory


@pytest.fixture
def settings(template: Path, tmp_path: Path) -> Settings:
    return networks.settings(shutil.copytree(template, tmp_path / "state"))


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    yield app
    app.extensions[EXTENSION].store.close()


@pytest.fixture
def service(app: Flask) -> Service:
    service: Service = app.extensions[EXTENSION]
    return service


@pytest.fixture
def call(app: Flask, service: Service) -> Call:
    """call("PUT", "/policy", {...}, status=422) as an owner: the answer's JSON.

    What is changed is what was there just before, by its entity tag.
    """
    with service.store.writing() as session:
        token = access.create_token(session, "test", "owner", clock.now())
    client = app.test_client()

    def request(method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        options: dict[str, Any] = {} if body is None else {"json": body}
        if method in ("PUT", "PATCH", "DELETE"):
            there = client.get(f"/api/v1{path}", headers=headers)
            headers |= {"If-Match": there.headers["ETag"]} if there.status_code == 200 else {}
        if method == "PATCH":
            options = {"data": json.dumps(body), "content_type": "application/merge-patch+json"}
        answer = client.open(f"/api/v1{path}", method=method, headers=headers, **options)
        assert answer.status_code == status, answer.get_data(as_text=True)
        return answer.get_json()

    return request


@pytest.fixture
def at_once() -> Callable[[Callable[[int], None], int], None]:
    """at_once(work, n): work(0) to work(n - 1), each in a thread of its own; the first error."""

    def run(work: Callable[[int], None], count: int) -> None:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(work, range(count)))

    return run
