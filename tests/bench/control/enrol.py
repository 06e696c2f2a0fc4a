"""A thousand nodes enrol at once, each with its key, its proof and its first token."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context

from tests.bench.control.served import Served, serving
from tests.bench.report import Figure, at_most, claim
from tests.control.process import Keys
from ztlab.client.node import NodeClient
from ztlab.errors import Refused, Unreachable

NODES = 1000
PROCESSES, AT_ONCE = 2, 50
BAR_S = 60.0


def measure() -> list[Figure]:
    """Until the last has its token, and how many failed."""
    with serving({"gateway": 1}, 0) as served:
        with closing(served.coordinator.admin()) as admin:
            key = admin.create_setup_key(role="client", uses=NODES).key
        begun = time.monotonic()
        failed = _enrol_all(served, str(key))
        seconds = time.monotonic() - begun
        with closing(served.coordinator.admin()) as admin:
            total = admin.network().nodes.total
    for line in failed[:5]:
        print(f"  {line}")
    return [
        at_most(f"{NODES:,} nodes enrol at once", [seconds], "s", BAR_S),
        claim("  none fails, all are there", holds=not failed and total == NODES + 1),
    ]


def _enrol_all(served: Served, key: str) -> list[str]:
    names = [f"new{i}" for i in range(NODES)]
    here = served.coordinator
    shares = [(here.url, here.authority, key, names[i::PROCESSES]) for i in range(PROCESSES)]
    with get_context("spawn").Pool(PROCESSES) as pool:
        return [line for lines in pool.starmap(_enrol_some, shares) for line in lines]


def _enrol_some(url: str, authority: str, key: str, names: Sequence[str]) -> list[str]:
    """What failed."""

    def enrol(name: str) -> str | None:
        keys, is_again = Keys(), False
        with closing(NodeClient(url, authority, None)) as client:
            while True:
                try:
                    client.enrol(
                        setup_key=key,
                        public_key=keys.public,
                        name=name,
                        endpoint=None,
                        prove=keys.prove,
                    )
                    return None
                except Unreachable:  # as agents do: once more
                    is_again = True
                except Refused as error:
                    # The answer to the time before may have been lost; then its key is known.
                    is_there = is_again and error.status == 409
                    return None if is_there else f"{name}: {error}"

    with ThreadPoolExecutor(AT_ONCE) as executor:
        return [line for line in executor.map(enrol, names) if line is not None]
