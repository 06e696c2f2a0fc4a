"""Killed a hundred times under load: what was acknowledged is there, and the store is whole."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tests.control.process import Coordinator, running, start, wait_until_it_answers
from tests.control.served import until
from ztlab.client.admin import AdminClient
from ztlab.errors import Refused, Unreachable

KILLS = 100
WHOLE_EVERY = 10  # master and worker; else the worker, which its master replaces
WRITERS = 3


class Writer(threading.Thread):
    """Makes identities one after the other, and those that nobody acknowledged again."""

    def __init__(self, number: int, admin: AdminClient, stop: threading.Event) -> None:
        super().__init__(name=f"writer-{number}", daemon=True)
        self._admin, self._stop_it = admin, stop
        self._names = (f"w{number}-{count}" for count in itertools.count())
        self.acknowledged: list[str] = []
        self.unanswered = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with closing(self._admin):
                while not self._stop_it.is_set():
                    self._make(next(self._names))
        except BaseException as error:
            self.failure = error

    def _make(self, name: str) -> None:
        was_unanswered = False
        while not self._stop_it.is_set():
            try:
                self._admin.create_identity(name)
            except Unreachable:
                was_unanswered = True
                self.unanswered += 1
                self._stop_it.wait(0.005)  # nobody listens for a moment
                continue
            except Refused as error:
                # It was done, and only the answer was lost.
                assert error.status == 409 and was_unanswered, error
            self.acknowledged.append(name)
            return


def kill_worker(here: Coordinator) -> None:
    """Its master starts another one."""
    killed = here.worker_pid()
    os.kill(killed, signal.SIGKILL)
    until(lambda: workers(here) not in ([], [killed]), "another worker")


def kill_all(here: Coordinator) -> None:
    """As when the machine loses its power, but for what the kernel has in its caches."""
    left = workers(here)
    here.process.kill()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    here.process.wait()
    here.process = start(here.directory)


def workers(here: Coordinator) -> list[int]:
    pid = here.process.pid
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(text) for text in file.read().split()]


@contextmanager
def stored(here: Coordinator) -> Iterator[sqlite3.Connection]:
    """The store itself, to be read."""
    database = f"file:{here.directory}/state/ztlab.db?mode=ro"
    with closing(sqlite3.connect(database, uri=True, timeout=20)) as connection:
        yield connection


def check(here: Coordinator, writers: list[Writer]) -> None:
    """The store is whole, and has all that was acknowledged until now."""
    names = {name for writer in writers for name in tuple(writer.acknowledged)}
    with stored(here) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        there = {name for (name,) in connection.execute("SELECT name FROM identities")}
    assert names <= there


def test_killed_a_hundred_times_under_load_it_loses_nothing_that_it_acknowledged() -> None:
    moments = random.Random(0)
    stop = threading.Event()
    with running() as here:
        writers = [Writer(number, here.admin(), stop) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        for kill in range(1, KILLS + 1):
            before = [len(writer.acknowledged) for writer in writers]
            until(
                lambda before=before: all(  # type: ignore[misc]
                    writer.failure is not None or len(writer.acknowledged) > count
                    for writer, count in zip(writers, before, strict=True)
                ),
                f"each of them writes, before kill {kill}",
                30.0,
            )
            assert [writer.failure for writer in writers] == [None] * WRITERS
            time.sleep(moments.uniform(0, 0.03))  # anywhere in what is under way
            if kill % WHOLE_EVERY:
                kill_worker(here)
            else:
                kill_all(here)
                wait_until_it_answers(here)
            check(here, writers)
        stop.set()
        for writer in writers:
            writer.join(20.0)
            assert not writer.is_alive() and writer.failure is None
        wait_until_it_answers(here)
        check(here, writers)
        with closing(here.admin()) as admin:
            number = admin.network().revision.number
        with stored(here) as connection:
            (made,) = connection.execute("SELECT count(*) FROM identities").fetchone()
    # It was in the midst of something each second time at least, and nothing was done twice.
    unanswered = sum(writer.unanswered for writer in writers)
    print(f"{made} identities, {unanswered} requests without an answer")
    assert unanswered > KILLS / 2
    assert made == number
