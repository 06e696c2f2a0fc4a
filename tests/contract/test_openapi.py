"""The API and its description are one: what is served is described, and the other way round."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from flask import Flask

from coordinator.api import table
from coordinator.api.context import EXTENSION
from coordinator.api.openapi.document import document
from coordinator.api.openapi.served import render
from coordinator.app import create_app
from coordinator.setup import initialise
from tests.contract.tree import ROOT
from tests.unit.coordinator import networks

LOCAL_SWITCHES = ("authz_mode", "logging_enabled")
DESCRIBED: dict[str, Any] = document(table.ROUTES, "0")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    directory: Path = tmp_path_factory.mktemp("openapi") / "state"
    settings = networks.settings(directory)
    initialise(settings)
    app = create_app(settings)
    yield app
    app.extensions[EXTENSION].store.close()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DESCRIBED["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def served(app: Flask) -> set[tuple[str, str]]:
    return {
        (method, re.sub(r"<(?:[a-z]+:)?([a-z_]+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/")
        for method in (rule.methods or set()) - {"HEAD"}
    }


def test_every_route_is_described_and_every_described_one_is_a_route(app: Flask) -> None:
    assert {(method, path) for method, path, _ in operations()} == served(app)


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names)) > 40


def test_the_document_is_served_as_it_is_made_and_to_anybody(app: Flask) -> None:
    answer = app.test_client().get("/api/v1/openapi.json")
    assert answer.mimetype == "application/json"
    assert answer.get_json()["paths"] == DESCRIBED["paths"]


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_every_schema_is_one_and_every_reference_leads_to_one() -> None:
    for name, schema in DESCRIBED["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid(schema), name
    known = {f"#/components/schemas/{name}" for name in DESCRIBED["components"]["schemas"]}
    assert set(references(DESCRIBED)) == known


def property_names(part: Any) -> Iterator[str]:
    """Every name that a body, an answer or a parameter may have."""
    if isinstance(part, dict):
        properties = part.get("properties")
        yield from properties if isinstance(properties, dict) else ()
        if "in" in part and isinstance(part.get("name"), str):
            yield part["name"]
        for value in part.values():
            yield from property_names(value)
    elif isinstance(part, list):
        for value in part:
            yield from property_names(value)


@pytest.mark.parametrize("switch", LOCAL_SWITCHES)
def test_no_body_answer_or_parameter_speaks_of_a_nodes_local_switches(switch: str) -> None:
    names = set(property_names(DESCRIBED))
    assert {"endpoint", "members", "applied", "If-Match", "cursor"} <= names  # it looks everywhere
    assert switch not in names
    assert switch not in json.dumps(DESCRIBED)


def test_whoever_changes_what_exists_must_say_what_it_saw() -> None:
    for method, path, operation in operations():
        if method in ("PUT", "PATCH", "DELETE") and not path.startswith("/api/v1/node/"):
            assert {"412", "428"} <= operation["responses"].keys(), (method, path)


def test_the_protocols_page_names_every_path() -> None:
    text = (ROOT / "docs" / "PROTOCOL.md").read_text()
    missing = [
        path
        for _, path, _ in operations()
        if re.sub(r"/\{[a-z_]+\}.*", "", path).removeprefix("/api/v1/") not in text
    ]
    assert not missing


def test_the_page_for_people_loads_nothing_and_runs_nothing(app: Flask) -> None:
    answer = app.test_client().get("/api/v1/docs")
    page, policy = answer.get_data(as_text=True), answer.headers["Content-Security-Policy"]
    assert answer.mimetype == "text/html"
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert not re.search(r"<script|<link|<img| src=| style=|url\(|@import", page)
    for _, path, operation in operations():
        assert f'id="{operation["operationId"]}"' in page and path in page
    assert page == render(app.test_client().get("/api/v1/openapi.json").get_json())
