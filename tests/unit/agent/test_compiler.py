from __future__ import annotations

from dataclasses import replace

import pytest

from agent.compiler import Compiler
from agent.datapath.compile import desired_state
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from tests.unit.agent.datapath.configs import node_config, rule
from ztlab.errors import SchemaError
from ztlab.model.policy import Policy

LIMITS, MARKS = Limits(), MarkLayout.from_mask(0xFF002000)


def test_a_configuration_is_compiled_once_however_many_ask() -> None:
    compiler, config = Compiler(LIMITS, MARKS), node_config()
    first = compiler.compiled(config)
    assert first == desired_state(config, limits=LIMITS, marks=MARKS)
    assert compiler.compiled(config) is first


def test_what_is_applied_and_what_shall_be_are_both_remembered_and_not_mixed_up() -> None:
    compiler, before = Compiler(LIMITS, MARKS), node_config()
    after = replace(before, policy=Policy(default="allow"))
    states = compiler.compiled(before), compiler.compiled(after)
    assert (states[0].default_allow, states[1].default_allow) == (False, True)
    assert (compiler.compiled(before), compiler.compiled(after)) == states
    assert compiler.compiled(before) is states[0]


def test_what_does_not_compile_is_refused_each_time() -> None:
    config = replace(
        node_config(), policy=Policy(rules=(rule("r", "nobody-at-all", "*", "allow"),))
    )
    compiler = Compiler(LIMITS, MARKS)
    for _ in range(2):
        with pytest.raises(SchemaError):
            compiler.compiled(config)
