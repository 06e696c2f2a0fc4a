"""The errors an operator can act on: one tree, one exit code each."""

from __future__ import annotations

import inspect

import pytest

from ztlab import errors
from ztlab.errors import HostUnfit, Refused, SchemaError, ZtError

ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, BaseException)
]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_stands_in_the_drawn_tree_and_says_what_it_is(kind: type[ZtError]) -> None:
    assert issubclass(kind, ZtError)
    assert kind.__name__ in (errors.__doc__ or "")
    assert kind.__doc__


@pytest.mark.parametrize("kind", ALL)
def test_only_an_unfit_machine_has_an_exit_code_of_its_own(kind: type[ZtError]) -> None:
    assert kind.exit_code == (3 if kind is HostUnfit else 1)


def test_an_error_carries_what_broke_and_what_to_try() -> None:
    error = ZtError("the lab is gone", hint="build it again")
    assert (str(error), error.hint) == ("the lab is gone", "build it again")
    assert ZtError("x").hint == ""


def test_a_schema_error_has_a_line_for_each_problem() -> None:
    error = SchemaError(["a: missing", "b: want a text, got 5"])
    assert error.problems == ("a: missing", "b: want a text, got 5")
    assert str(error).splitlines() == list(error.problems)


def test_a_refusal_carries_the_status_if_it_came_over_http() -> None:
    assert Refused("no", status=403).status == 403
    assert Refused("no").status is None
