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
from tests.control.postgres import Server
from tests.unit.coordinator import networks

Call = Callable[..., Any]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template") / "state"
    initialise(networks.settings(directory))
    return directory


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module that says ON_BOTH_STORES has each test that uses a store run on SQLite and on
    PostgreSQL."""
    if getattr(metafunc.module, "ON_BOTH_STORES", False) and "dialect" in metafunc.fixturenames:
        both = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
        metafunc.parametrize("dialect", both)


@pytest.fixture
def dialect() -> str:
    """Which store: sqlite unless the module says otherwise."""
    return "sqlite"


@pytest.fixture(scope="session")
def postgres_template(
    postgres_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """(database, state directory) of an initialised coordinator; to be copied together."""
    directory = tmp_path_factory.mktemp("template") / "state"
    name = postgres_server.create()
    initialise(networks.settings(directory, database=postgres_server.url(name)))
    return name, directory


@pytest.fixture
def settings(dialect: str, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    if dialect == "sqlite":
        template: Path = request.getfixturevalue("template")
        return networks.settings(shutil.copytree(template, tmp_path / "state"))
    server: Server = request.getfixturevalue("postgres_server")
    database, directory = request.getfixturevalue("postgres_template")
    url = server.url(server.create(database))
    return networks.settings(shutil.copytree(directory, tmp_path / "state"), database=url)


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
            there = client.get(f"/api/v1{path.partition('?')[0]}", headers=headers)
            headers |= {"If-Match": there.headers["ETag"]} if there.status_code == 200 else {}
        if path.partition("?")[0].endswith("/rollback"):
            now = client.get("/api/v1/network", headers=headers).get_json()["revision"]
            headers["If-Match"] = f'"{now["epoch"]}/{now["number"]}"'
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
