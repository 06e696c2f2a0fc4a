"""How long an agent takes to enforce, and how much memory it then has, under each loader.

    .venv/bin/python -m tests.bench.agent_start [RUNS]

Root. Each run is one standalone agent in a namespace of its own, from its process's start to the
line in its log that says that everything configured is enforced.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.bench import report
from tests.e2e.nodes import namespaces
from tests.e2e.test_agent_standalone import config, pair

DEADLINE_S = 20.0
AT_MOST_S, AT_MOST_MB = 0.5, 60.0


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
    """Measure and publish: the shipped object has bars, bcc stands beside it."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seen: dict[str, list[tuple[float, float, float]]] = {"libbpf": [], "bcc": []}
    for _ in range(runs):
        for loader, found in seen.items():
            found.append(one(loader))
    took, loading, resident = zip(*seen["libbpf"], strict=True)
    figures = [
        report.at_most("shipped object: start to enforcing", took, "s", AT_MOST_S),
        report.beside("  in the loader", loading, "s"),
        report.at_most("  resident", resident, "MB", AT_MOST_MB),
    ]
    took, loading, resident = zip(*seen["bcc"], strict=True)
    figures += [
        report.beside("bcc: start to enforcing", took, "s"),
        report.beside("  in the loader", loading, "s"),
        report.beside("  resident", resident, "MB"),
    ]
    report.publish("agent_start", figures)


if __name__ == "__main__":
    main()
