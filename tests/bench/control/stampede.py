"""A coordinator is killed and starts again: 5,000 nodes come back without a stampede."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import closing

from tests.bench.control.agents import Agents, simulated
from tests.bench.control.served import Owner, Served, serving
from tests.bench.report import Figure, at_most, beside
from tests.control.process import start, wait_until_it_answers

CLIENTS = int(os.environ.get("ZT_BENCH_CLIENTS", "5000"))
WITHIN_S = 600.0
DOWN_S = 3.0
BAR_ATTEMPTS = 2.0  # a node, after there is somebody to answer


def measure() -> list[Figure]:
    """How long until all have their stream again, and what that costs."""
    with serving({"gateway": 1, "client": CLIENTS}, 1000) as served, simulated(served) as agents:
        agents.live(served.nodes)
        wait_for(agents, len(served.nodes))
        print(f"  {len(served.nodes):,} streams are open", flush=True)
        return restart(served, agents)


def restart(served: Served, agents: Agents) -> list[Figure]:
    """Kill it, start it again after a while, and wait for all."""
    here = served.coordinator
    worker = here.worker_pid()
    here.process.kill()
    os.kill(worker, signal.SIGKILL)
    here.process.wait()
    time.sleep(DOWN_S)
    agents.life()
    begun = time.monotonic()
    here.process = start(here.directory)
    wait_until_it_answers(here)
    answers = time.monotonic()
    requests: list[float] = []
    with closing(Owner(served)) as owner:
        attempts = wait_for(agents, len(served.nodes), owner, requests)
    back = time.monotonic()
    late = [at for at in attempts if at >= answers]
    second = Counter(int(at - answers) for at in late).most_common(1)
    return [
        beside("from its start until it answers", [answers - begun], "s"),
        beside(f"then until all {CLIENTS:,} have their stream", [back - answers], "s"),
        at_most("  connections begun, for each node", [len(late) / CLIENTS], "", BAR_ATTEMPTS),
        beside("  most in one second", [float(second[0][1] if second else 0)], ""),
        beside("  a request of an administrator meanwhile: median", requests, "ms"),
        beside("  the slowest", [max(requests)], "ms"),
    ]


def wait_for(
    agents: Agents, count: int, owner: Owner | None = None, requests: list[float] | None = None
) -> list[float]:
    """Until so many streams are open: when connections were begun. OWNER asks something now and
    then; how many milliseconds each took goes to REQUESTS."""
    deadline = time.monotonic() + WITHIN_S
    attempts: list[float] = []
    while True:
        life = agents.life()
        attempts += life.attempts
        if life.held >= count:
            return attempts
        if time.monotonic() > deadline:
            raise TimeoutError(f"{life.held} of {count} streams are open")
        if owner is not None and requests is not None:
            asked = time.monotonic()
            owner.ask("GET", "/network")
            requests.append((time.monotonic() - asked) * 1000)
        time.sleep(0.2)
