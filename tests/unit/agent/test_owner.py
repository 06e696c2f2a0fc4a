"""What one thread owns, no other touches."""

from __future__ import annotations

import threading

import pytest

from agent.owner import Owner, owned
from ztlab.errors import HostUnfit, ZtError


class Thing:
    """Notes which thread did what."""

    def __init__(self) -> None:
        self.owner = Owner("thing")
        self.threads: list[str] = []

    @owned
    def outer(self) -> str:
        self.threads.append(threading.current_thread().name)
        return self.inner("x", twice=True)

    @owned
    def inner(self, text: str, *, twice: bool) -> str:
        self.threads.append(threading.current_thread().name)
        return text * 2 if twice else text

    @owned
    def fails(self) -> None:
        raise HostUnfit("no", hint="try")


def test_every_call_runs_in_the_owners_thread_also_from_within() -> None:
    thing = Thing()
    assert thing.outer() == "xx"
    assert thing.inner("y", twice=False) == "y"
    assert len(set(thing.threads)) == 1 and thing.threads[0].startswith("thing")
    thing.owner.stop()


def test_calls_of_many_threads_come_one_after_the_other() -> None:
    owner = Owner("one")
    running, overlaps = [0], [0]

    def call() -> None:
        running[0] += 1
        overlaps[0] += running[0] > 1
        running[0] -= 1

    threads = [threading.Thread(target=lambda: owner.run(call)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owner.stop()
    assert overlaps == [0]


def test_an_error_reaches_the_caller_as_it_is() -> None:
    thing = Thing()
    with pytest.raises(HostUnfit) as caught:
        thing.fails()
    assert caught.value.hint == "try"
    thing.owner.stop()


def test_after_the_end_a_call_is_refused() -> None:
    thing = Thing()
    thing.owner.stop()
    with pytest.raises(ZtError, match="stopping"):
        thing.outer()
