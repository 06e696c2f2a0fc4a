"""`make bench-control`: what the control plane costs, over real sockets.

    .venv/bin/python -m tests.bench.control [PART...]

Exit code 0 where all parts were measured, whether or not they meet their bars; 3 where the machine
is not fit for one.
"""

from __future__ import annotations

import sys
from importlib import import_module

from tests.bench import report
from ztlab.errors import HostUnfit

PARTS = ("crud", "enrol", "mesh", "hub", "revocation", "enforced", "stampede")


def main() -> int:
    """Measure the parts named on the command line, or all."""
    figures: list[report.Figure] = []
    code = 0
    for name in sys.argv[1:] or PARTS:
        print(f"\n== {name}", flush=True)
        try:
            found = import_module(f"tests.bench.control.{name}").measure()
        except HostUnfit as error:
            print(f"*** NOT MEASURED *** {error}\n  hint: {error.hint}", flush=True)
            code = 3
            continue
        print(report.table(name, found), flush=True)
        figures += found
    if not figures:
        return code
    print()
    report.publish("control", figures)
    for line in report.missed(figures):
        print(f"*** BAR MISSED *** {line}")
    return code


if __name__ == "__main__":
    sys.exit(main())
