"""Configurations, compiled for this node; each once, however many ask."""

from __future__ import annotations

from agent.datapath.compile import desired_state
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from agent.datapath.state import DatapathState
from ztlab.model.config import NodeConfig


class Compiler:
    """Remembers the last two: what is applied, and what shall be. From any thread."""

    def __init__(self, limits: Limits, marks: MarkLayout) -> None:
        self._limits, self._marks = limits, marks
        # Replaced, never changed. A configuration is frozen: the same object means the same.
        self._known: tuple[tuple[NodeConfig, DatapathState], ...] = ()

    def compiled(self, config: NodeConfig) -> DatapathState:
        """What CONFIG asks of the datapath; ZtError where this node cannot do it."""
        for known, state in self._known:
            if known is config:
                return state
        state = desired_state(config, limits=self._limits, marks=self._marks)
        self._known = (*self._known[-1:], (config, state))
        return state
