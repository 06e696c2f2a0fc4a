"""How long an agent takes to enforce, and how much memory it then has, under each loader.

    .venv/bin/python -m tests.bench.agent_start [RUNS]

Root. Each run is one standalone agent in a namespace of its own, from its process's start to the
line in its log that says that everything configured is enforced.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.nodes import namespaces
from tests.e2e.test_agent_standalone import config, pair

DEADLINE_S = 20.0


def one(loader: str) -> tuple[float, float, float]:
    """(seconds to enforcing, seconds of these in the loader, resident MB)."""
    with tempfile.TemporaryDirectory() as folder:
        alice, bob = pair(Path(folder))
        alice.settings = {"datapath": {"loader": loader}}
        with namespaces(alice, bob):
            begin = time.monotonic()
            alice.start_agent(config(alice, bob), wait=False)
            while "ready: " not in alice.log:
                assert time.monotonic() < begin + DEADLINE_S, alice.log
                time.sleep(0.002)
            took = time.monotonic() - begin
            loading = float(alice.log.partition(f"loaded by {loader} in ")[2].split(" ")[0])
            status = Path(f"/proc/{alice.agent_pid()}/status").read_text()
            resident = int(status.partition("VmRSS:")[2].split()[0]) / 1000
    return took, loading, resident


def main() -> None:
    """Print the medians; on a busy machine the best run says more."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for loader in ("libbpf", "bcc"):
        seen = [one(loader) for _ in range(runs)]
        took, loading, resident = (statistics.median(column) for column in zip(*seen, strict=True))
        print(
            f"{loader:<6}  enforcing after {took:.2f} s (best {min(seen)[0]:.2f} s), "
            f"{loading:.2f} s of it in the loader, {resident:.1f} MB resident (median of {runs})"
        )


if __name__ == "__main__":
    main()
