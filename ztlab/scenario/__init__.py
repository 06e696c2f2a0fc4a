"""Scenario files: what to build, what to do to it, and what must then be true."""

from ztlab.scenario.loading import load

__all__ = ["load"]
