"""Does a verdict cost more where there are more rules? From 1,000 to 500,000, with the same flows.

Beside it the same with flows that are spread over as many of the rules as there are flows: that
is ten times the counters and pairs that are in use, and shows what the memory behind them costs.

    .venv/bin/python -m tests.bench.growth

Root. All policies stand at the same time, and are asked in turns.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial

from tests.bench import report, verdict
from tests.bench.generator import Mode, generator
from tests.bench.workload import workload

FEW, MANY = 1_000, 500_000
ROUNDS = 10
AT_MOST = 1.3


def main() -> None:
    """Measure and publish."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    loads = {"few": workload(FEW), "same": workload(MANY, used=FEW), "spread": workload(MANY)}
    assert loads["few"].flows == loads["same"].flows
    with ExitStack() as stack:
        packets = stack.enter_context(generator())
        gateways = {
            name: stack.enter_context(verdict.gateway(load)) for name, load in loads.items()
        }

        def asked(name: str, kind: str) -> float:
            packets.use(loads[name].flows)
            if kind == "first":
                return verdict.first(gateways[name], packets)
            return verdict.established(gateways[name], packets)

        def own(kind: str) -> float:
            packets.use(loads["few"].flows)
            mode = Mode.FRESH if kind == "first" else Mode.RANDOM
            return verdict.own_cost(packets, mode)

        kinds = ("established", "first")
        cases = {f"{kind} {name}": partial(asked, name, kind) for kind in kinds for name in loads}
        cases |= {f"{kind} own": partial(own, kind) for kind in kinds}
        found = verdict.measured(cases, ROUNDS)
    figures = []
    for kind, title in (("established", "established"), ("first", "first packet")):
        own_cost = min(found[f"{kind} own"])
        net = {name: [ns - own_cost for ns in found[f"{kind} {name}"]] for name in loads}
        growth, spread = (
            [many / few for few, many in zip(net["few"], net[name], strict=True)]
            for name in ("same", "spread")
        )
        figures += [
            report.at_most(f"{title}: growth", growth, "x", AT_MOST),
            report.beside(f"  {FEW:,} rules", net["few"], "ns"),
            report.beside(f"  {MANY:,} rules, the same flows", net["same"], "ns"),
            report.beside(f"  {MANY:,} rules, flows over 10,000", net["spread"], "ns"),
            report.beside("    against 1,000", spread, "x"),
        ]
    report.publish("growth", figures)


if __name__ == "__main__":
    main()
