"""Compiled policy entries, read as the kernel program reads them (bpf/zt_policy.h)."""

from __future__ import annotations

from agent.abi import ANY_PROTOCOL, SHAPE_ANY_PROTOCOL, TAG_ANY, Action
from agent.datapath.state import DatapathState, PolicyMatch
from ztlab.model.policy import Decision
from ztlab.model.verdict import Verdict


def evaluate(
    state: DatapathState, source: int, destination: int, protocol: int, port: int
) -> Decision:
    """What the entries of STATE say, found only through its pairs and shapes."""
    found: dict[Action, list[int]] = {Action.ALLOW: [], Action.DENY: []}
    for s in (source, TAG_ANY):
        for d in (destination, TAG_ANY):
            shapes = state.pairs.get((s, d), 0)
            for shape in range(SHAPE_ANY_PROTOCOL + 1):
                if not shapes >> shape & 1:
                    continue
                if shape == SHAPE_ANY_PROTOCOL:
                    match = PolicyMatch(s, d, 0, 0, ANY_PROTOCOL)
                else:
                    match = PolicyMatch(s, d, protocol, port & 0xFFFF0000 >> shape & 0xFFFF, shape)
                entry = state.policy.get(match)
                if entry is not None:
                    found[entry.action].append(entry.rule)
    if found[Action.DENY]:
        return Decision(verdict=Verdict.DENY_RULE, rule=state.rules[min(found[Action.DENY]) - 1])
    if found[Action.ALLOW]:
        return Decision(verdict=Verdict.ALLOWED, rule=state.rules[min(found[Action.ALLOW]) - 1])
    return Decision(verdict=Verdict.ALLOWED if state.default_allow else Verdict.NO_RULE)
