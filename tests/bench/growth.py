"""Does a verdict cost more where there are more rules? From 1,000 to 500,000, with the same flows.

    .venv/bin/python -m tests.bench.growth

Root. Both policies stand at the same time, and are asked in turns.
"""

from __future__ import annotations

import os
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
    loads = {FEW: workload(FEW), MANY: workload(MANY)}
    with (
        generator() as packets,
        verdict.gateway(loads[FEW]) as few,
        verdict.gateway(loads[MANY]) as many,
    ):
        gateways = {FEW: few, MANY: many}

        def asked(rules: int, kind: str) -> float:
            packets.use(loads[rules].flows)
            if kind == "first":
                return verdict.first(gateways[rules], packets)
            return verdict.established(gateways[rules], packets)

        def own(kind: str) -> float:
            packets.use(loads[FEW].flows)
            mode = Mode.FRESH if kind == "first" else Mode.RANDOM
            return verdict.own_cost(packets, mode)

        kinds = ("established", "first")
        cases = {f"{kind} {n}": partial(asked, n, kind) for kind in kinds for n in loads}
        cases |= {f"{kind} own": partial(own, kind) for kind in kinds}
        found = verdict.measured(cases, ROUNDS)
    figures = []
    for kind, name in (("established", "established"), ("first", "first packet")):
        own_cost = min(found[f"{kind} own"])
        net = {rules: [ns - own_cost for ns in found[f"{kind} {rules}"]] for rules in loads}
        ratios = [many / few for few, many in zip(net[FEW], net[MANY], strict=True)]
        figures.append(report.at_most(f"{name}: growth", ratios, "x", AT_MOST))
        figures += [report.beside(f"  {rules:,} rules", net[rules], "ns") for rules in loads]
    report.publish("growth", figures)


if __name__ == "__main__":
    main()
