"""/explain, /reachability, /policy/test: what policy says, asked and not written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

from coordinator import document, explain
from coordinator.api.route import Answer, Call, Route
from coordinator.catalog import PolicyBody
from coordinator.validation import MOST_FAULTS
from ztlab.errors import SchemaError
from ztlab.model import codec
from ztlab.model.codec import field, restricted
from ztlab.model.explanation import Explanation, Matrix
from ztlab.model.policy import Policy, PolicyTest, broken_test, dangling_names
from ztlab.model.policy_index import PolicyIndex

MOST_CELLS = 200  # in each direction
MOST_TESTS = 1000  # that are not part of the policy


@restricted(minimum=1, maximum=MOST_CELLS)
def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MOST_CELLS:
        raise ValueError(f"want 1 to {MOST_CELLS}, got {limit}")


@restricted(minimum=0, maximum=2**31 - 1)
def _check_offset(offset: int) -> None:
    if not 0 <= offset < 2**31:
        raise ValueError(f"want 0 or more, got {offset}")


@restricted(maxItems=MOST_TESTS)
def _check_tests(tests: tuple[PolicyTest, ...] | None) -> None:
    if tests is not None and len(tests) > MOST_TESTS:
        raise ValueError(f"want at most {MOST_TESTS} tests at once, got {len(tests)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainQuery:
    """The two ends: a node, an identity, a group, a resource, `world`, an address; `node:NAME` and
    the like where a name has two meanings.

    proto  tcp, udp, icmp, any, or a number; port: None is every port
    """

    source: str = field(key="from")
    destination: str = field(key="to")
    proto: str = field(default="any")
    port: int | None = field(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachabilityQuery:
    """Which part of the matrix: principals come in the order identities, resources, world."""

    from_offset: int = field(default=0, check=_check_offset)
    from_limit: int = field(default=50, check=_check_limit)
    to_offset: int = field(default=0, check=_check_offset)
    to_limit: int = field(default=50, check=_check_limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTestBody:
    """Tests to be run, against a policy that is given or the present one.

    tests   None: those of the policy itself
    policy  None: the present one
    """

    tests: tuple[PolicyTest, ...] | None = field(default=None, check=_check_tests)
    policy: PolicyBody | None = field(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTestResult:
    """failures: one line for each test that does not hold: its number, and what decided."""

    passed: bool
    tests: int
    failures: tuple[str, ...]


def _explain(call: Call) -> Answer:
    asked: ExplainQuery = call.query
    proto = explain.parse_proto(asked.proto)
    found = explain.explain(_state(call), asked.source, asked.destination, proto, asked.port)
    return _plain(found)


def _reachability(call: Call) -> Answer:
    asked: ReachabilityQuery = call.query
    state = _state(call)
    known = explain.principals(state)
    sources = known[asked.from_offset :][: asked.from_limit]
    destinations = known[asked.to_offset :][: asked.to_limit]
    return _plain(explain.reachability(state, sources, destinations))


def _test_policy(call: Call) -> Answer:
    asked: PolicyTestBody = call.body
    state = _state(call)
    policy = state.policy
    if asked.policy is not None:
        given = {name: getattr(asked.policy, name) for name in document.PARTS}
        policy = Policy(**given, groups=policy.groups)
    tests = policy.tests if asked.tests is None else asked.tests
    # Whoever is tested must be somebody; a rule that names nobody matches nobody.
    tested = Policy(rules=policy.rules, groups=policy.groups, tests=tests)
    if faults := list(islice(dangling_names(tested, state.principals), MOST_FAULTS)):
        raise SchemaError(faults)
    failures = []
    index = PolicyIndex(policy)
    for i, test in enumerate(tests):
        line = broken_test(index.between(test.source, test.destination), test)
        if line is not None:
            failures.append(f"tests[{i}]: {line}")
        if i % 20 == 19:
            time.sleep(0)  # the others' turn: all requests are of one thread
    return {"passed": not failures, "tests": len(tests), "failures": failures}


def _state(call: Call) -> Any:
    with call.reading() as session:
        return call.service.hub.known(session).network


def _plain(value: Any) -> Answer:
    plain: Answer = codec.encode(value)
    return plain


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/explain",
        view=_explain,
        summary="Who may reach whom, on what, and by which rule",
        group="policy",
        role="viewer",
        query=ExplainQuery,
        answer=Explanation,
    ),
    Route(
        method="GET",
        path="/reachability",
        view=_reachability,
        summary="Every identity and resource with every other: all, some or nothing",
        group="policy",
        role="viewer",
        query=ReachabilityQuery,
        answer=Matrix,
    ),
    Route(
        method="POST",
        path="/policy/test",
        view=_test_policy,
        summary="Run tests against a policy, and write nothing",
        group="policy",
        role="viewer",
        body=PolicyTestBody,
        answer=PolicyTestResult,
    ),
)
