"""Objects are made, read, listed, changed and deleted in a network of 1,000 nodes and 10,000 rules,
over HTTPS, in SQLite: how long an administrator waits for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing

from tests.bench.control.served import Owner, serving
from tests.bench.report import Figure, at_most, beside

NODES = {"gateway": 10, "client": 940, "mesh": 50}
RULES = 10_000
ROUNDS = 100
BAR_MS = 50.0
Step = tuple[str, Callable[[], object]]


def measure() -> list[Figure]:
    """The 99th percentile of all requests, and the median of each kind."""
    times: dict[str, list[float]] = {}
    with serving(NODES, RULES) as served, closing(Owner(served)) as owner:  # type: ignore[arg-type]
        for number in range(-5, ROUNDS):
            for name, step in _round(owner, abs(number)):
                begun = time.perf_counter()
                step()
                if number >= 0:
                    times.setdefault(name, []).append((time.perf_counter() - begun) * 1000)
    every = sorted(ms for found in times.values() for ms in found)
    figures = [at_most("CRUD, 1,000 nodes, 10,000 rules: p99", [_p99(every)], "ms", BAR_MS)]
    figures += [
        at_most(f"  {name}: p99", [_p99(sorted(found))], "ms", BAR_MS)
        for name, found in times.items()
    ]
    figures += [beside(f"  {name}: median", found, "ms") for name, found in times.items()]
    return figures


def _p99(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def _round(owner: Owner, i: int) -> Iterator[Step]:
    """Each object's life; at its end everything is as before."""
    ask, rule = owner.ask, {"id": "bench", "from": "client1", "to": "client2", "action": "deny"}
    node = f"client{i}"
    yield "create identity", lambda: ask("POST", "/identities", {"name": "bench"}, creates=True)
    yield "read identity", lambda: ask("GET", "/identities/bench")
    yield "list identities", lambda: ask("GET", "/identities?limit=100")
    group = {"name": "g", "members": ["bench"]}
    yield "create group", lambda: ask("PUT", "/groups/g", group, creates=True)
    more = {"name": "g", "members": ["bench", node]}
    yield "replace group", lambda: ask("PUT", "/groups/g", more)
    yield "delete group", lambda: ask("DELETE", "/groups/g")
    yield "delete identity", lambda: ask("DELETE", "/identities/bench")
    yield "create rule", lambda: ask("POST", "/policy/rules", rule, creates=True)
    yield "read rule", lambda: ask("GET", "/policy/rules/bench")
    yield "list rules", lambda: ask("GET", "/policy/rules?limit=100")
    yield "patch rule", lambda: ask("PATCH", "/policy/rules/bench", {"action": "allow"})
    yield "delete rule", lambda: ask("DELETE", "/policy/rules/bench")
    yield "read node", lambda: ask("GET", f"/nodes/{node}")
    yield "list nodes", lambda: ask("GET", "/nodes?limit=100")
    endpoint = {"endpoint": f"198.51.100.1:{1000 + i}"}
    yield "patch client", lambda: ask("PATCH", f"/nodes/{node}", endpoint)
    yield "patch gateway", lambda: ask("PATCH", "/nodes/gateway1", endpoint)
    resource = {"name": "r", "cidr": "192.0.2.0/24", "gateway": "gateway1"}
    yield "create resource", lambda: ask("POST", "/resources", resource, creates=True)
    yield "patch resource", lambda: ask("PATCH", "/resources/r", {"cidr": "192.0.2.0/25"})
    yield "delete resource", lambda: ask("DELETE", "/resources/r")
