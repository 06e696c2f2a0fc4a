"""The API against its own description, by Schemathesis: no 5xx, no answer that is not described.

A real `zt-coordinator` process over TLS, and not the WSGI application alone: what gunicorn refuses
before the application hears of it is an answer as well. ZT_FUZZ_EXAMPLES asks for more examples of
each operation; then they are not the same ones each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

from tests.contract.fuzzing import EXAMPLES, operations
from tests.contract.test_openapi import DESCRIBED
from tests.control.process import Coordinator, running

# Whoever asks for everything without a token, as Schemathesis does, is soon asked to wait.
UNLIMITED = {name: 100_000 for name in ("failures", "failures_per_minute", "challenges")}
NAMES = {
    "nodes": ["gate", "laptop", "peer"],
    "gateways": ["gate"],
    "identities": ["laptop", "peer", "spare"],
    "groups": ["everybody", "nobody"],
    "resources": ["db"],
    "policy": ["ping", "web"],
    "setup-keys": ["KEY"],
    "tokens": ["reader", "writer"],
}


@dataclass
class Fuzzed:
    """A coordinator with something in it, and the bearer of each kind of operation."""

    here: Coordinator
    session: requests.Session
    bearers: dict[str, str]
    key_id: str
    authority: str


@pytest.fixture(scope="module")
def target() -> Iterator[Fuzzed]:
    with (
        running(limits=UNLIMITED) as here,
        requests.Session() as session,
        closing(here.admin()) as admin,
    ):
        node, _ = here.enrol("gate", role="gateway")
        here.enrol("laptop", role="client", endpoint=None)
        here.enrol("peer", role="mesh")
        key = admin.create_setup_key(role="mesh", uses=1000)
        admin.create_identity("spare")
        admin.put_group("everybody", ["laptop", "peer"], etag=None)
        admin.put_group("nobody", [], etag=None)
        admin.put_resource("db", cidr="192.0.2.0/24", gateway="gate", etag=None)
        for rule in (
            {"id": "ping", "from": "*", "to": "*", "proto": "icmp", "action": "allow"},
            {"id": "web", "from": "everybody", "to": "db", "proto": "tcp", "action": "allow"},
        ):
            admin.put_rule(rule, etag=None)
        for name in ("reader", "writer"):
            admin.create_token(name, "viewer")
        token = node._transport.token
        assert token is not None
        bearers = {"administrator": here.owner, "node": token, "setupKey": key.key}
        yield Fuzzed(here, session, bearers, key.id, str(here.directory / "state/authority.pem"))


OPERATIONS = operations(NAMES)


@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_every_answer_is_one_that_is_described(label: str, target: Fuzzed) -> None:
    operation = OPERATIONS[label]
    modes = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]
    needed = operation.definition.raw["security"]
    schemes = [scheme for one in needed for scheme in one]
    headers = {"Authorization": f"Bearer {target.bearers[schemes[0]]}"} if schemes else {}

    @settings(
        max_examples=EXAMPLES or 16,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(modes))
    def answer(case: schemathesis.Case[Any]) -> None:
        if case.path_parameters.get("id") == "KEY":
            case.path_parameters["id"] = target.key_id
        case.call_and_validate(
            base_url=target.here.url,
            session=target.session,
            headers=headers,
            timeout=20,
            verify=target.authority,
            excluded_checks=[] if is_sent_whole(case) else [negative_data_rejection],
        )

    answer()


def is_sent_whole(case: schemathesis.Case[Any]) -> bool:
    """False where a parameter has no form in a URL (an empty list): nobody can refuse it."""
    sent = requests.Request("GET", "http://localhost", params=case.query).prepare().url or ""
    return set(case.query) <= {name for name, _ in parse_qsl(urlsplit(sent).query, True)}


def test_every_operation_but_the_stream_is_asked() -> None:
    described = [(path, method) for path, found in DESCRIBED["paths"].items() for method in found]
    assert len(OPERATIONS) == len(described) - 1
