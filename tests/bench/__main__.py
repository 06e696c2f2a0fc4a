"""`make bench-datapath`: every benchmark, each in a process of its own, and then all bars at once.

    .venv/bin/python -m tests.bench [BENCHMARK...]

Root. Exit code 0 where all were measured, whether or not they meet their bars; 1 where one could
not be.
"""

from __future__ import annotations

import subprocess
import sys

from tests.bench import report

BENCHMARKS = ("verdict", "growth", "policy", "log_drain", "flow_records", "agent_start", "tcp")


def main() -> int:
    """Run those named on the command line, or all; the exit code."""
    wanted = sys.argv[1:] or BENCHMARKS
    failed, figures = [], []
    for name in wanted:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.bench.{name}"]).returncode:
            failed.append(name)
        else:
            figures += report.read(name)
    with_bar = [figure for figure in figures if figure.bar]
    print()
    if with_bar:
        print(report.table("all bars", with_bar))
    for line in report.missed(figures):
        print(f"*** BAR MISSED *** {line}")
    if failed:
        print(f"*** NOT MEASURED *** {', '.join(failed)}")
    elif with_bar and not report.missed(figures):
        print("every bar holds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
