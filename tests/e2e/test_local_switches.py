"""Whatever is asked of the coordinator, no node's two local switches are another afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.contract.fuzzing import operations
from tests.e2e.plans import mesh
from tests.e2e.test_rotation import status
from ztlab.client.admin import AdminClient
from ztlab.errors import Refused
from ztlab.lab import build
from ztlab.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.wireguard, pytest.mark.bpf]

NODES = ("alice", "bob", "carol")
NAMES = {
    "nodes": NODES,
    "identities": ("web", "api", "guest"),
    "policy": ("web-to-api",),
}
SWITCHES = {"authz_mode": "observe", "logging_enabled": False}
JSON_TYPES = ("application/json", "application/merge-patch+json")


@pytest.fixture
def lab(lab_name: str) -> Iterator[Lab]:
    yield build.up(mesh(lab_name))


def switches(lab: Lab) -> dict[str, tuple[Any, ...]]:
    """What each node says of its own two switches."""
    return {node: tuple(status(lab, node)[switch] for switch in SWITCHES) for node in NODES}


def send(admin: AdminClient, case: schemathesis.Case[Any], more: dict[str, Any]) -> int:
    """The status that CASE is answered with; MORE is added to a body that is an object."""
    body, media = case.body, case.media_type
    if media in JSON_TYPES and isinstance(body, dict):
        body = json.dumps({**body, **more}).encode()
    elif not isinstance(body, bytes):
        media = body = None
    headers = {name: str(value) for name, value in case.headers.items()}
    headers = {name: value for name, value in headers.items() if name.startswith("If-")}
    if not all(value.isascii() and value.isprintable() for value in headers.values()):
        headers = {}
    path = case.formatted_path.removeprefix("/api/v1")
    query = {name: str(value) for name, value in (case.query or {}).items()}
    try:
        admin._transport.exchange(
            case.method, path, body, query=query, headers=headers, content_type=media
        )
    except Refused as error:
        assert error.status is not None and error.status < 500
        return error.status
    return 200


def test_nothing_that_is_asked_of_the_coordinator_moves_a_nodes_switches(lab: Lab) -> None:
    before = switches(lab)
    admin = lab.admin()
    answered: list[int] = []
    asked = operations(NAMES)
    for path in ("docs", "metrics"):
        del asked[f"GET /api/v1/{path}"]  # texts, which the client would not read
    for operation in asked.values():
        modes = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

        @settings(
            max_examples=6,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=st.one_of(modes), speaks_of_them=st.booleans())
        def ask(case: schemathesis.Case[Any], speaks_of_them: bool) -> None:
            answered.append(send(admin, case, SWITCHES if speaks_of_them else {}))

        ask()
    assert {200, 404, 422} <= set(answered)  # some was done, and some refused
    assert switches(lab) == before
    # Control: on the node itself they are moved, and that is seen.
    lab.run("bob", ["zt-agent", "set", "authz-mode", "observe"], check=True)
    assert switches(lab)["bob"] != before["bob"]
