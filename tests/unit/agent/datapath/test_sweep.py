"""What the log is told of flows from pass to pass, and which of them are taken out of the table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from agent.abi import Event, EventFlag, Flow
from agent.datapath import sweep
from agent.datapath.sweep import FlowSweep
from tests.unit.agent.datapath.flowtable import NOW_NS, Table, counted, flow, key
from ztlab.model.logbatch import SIZE

UPDATE, END = EventFlag.UPDATE, EventFlag.END
SECOND = 10**9
OVER = {"last_ns": NOW_NS - 4000 * SECOND, "created_ns": NOW_NS - 5000 * SECOND}


class Log:
    """A sweep of TABLE at a standing clock, and what it tells."""

    def __init__(self, table: Table) -> None:
        self.sweep = FlowSweep(table, clock_ns=lambda: NOW_NS)

    def events(self, room: Callable[[], int] = lambda: sys.maxsize) -> list[Event]:
        told = b"".join(self.sweep.records(room))
        return list((Event * (len(told) // SIZE)).from_buffer_copy(told))

    def told(self, room: Callable[[], int] = lambda: sys.maxsize) -> list[tuple[int, int, int]]:
        """(source's port, kind, packets) of each, in order of these."""
        return sorted((e.source_port, e.flags, e.packets) for e in self.events(room))


def keys(count: int) -> list[bytes]:
    """Of as many flows, which differ in the beginner's port: 1, 2, ..."""
    return [key(low_port=1 + i) for i in range(count)]


def test_what_changed_is_told_and_what_did_not_is_not() -> None:
    one, two = keys(2)
    table = Table((one, flow(packets=(3, 0))), (two, flow(packets=(5, 0))))
    log = Log(table)
    assert log.told() == [(1, UPDATE, 3), (2, UPDATE, 5)]
    assert log.told() == []
    table.entries[two] = counted(table.entries[two], (2, 1))
    assert log.told() == [(2, UPDATE, 7), (8080, UPDATE, 1)]
    assert log.told() == []


def test_the_first_packet_alone_is_not_told_twice() -> None:
    (one,) = keys(1)
    table = Table((one, flow(packets=(1, 0))))
    log = Log(table)
    assert log.told() == []
    table.entries[one] = counted(table.entries[one], (1, 0))
    assert log.told() == [(1, UPDATE, 2)]


def test_a_flow_that_is_over_is_taken_out_and_told_of_once() -> None:
    one, two = keys(2)
    table = Table((one, flow(**OVER)), (two, flow()))
    log = Log(table)
    assert log.told() == [(1, END, 3), (2, UPDATE, 3), (8080, UPDATE, 2), (8080, END, 2)]
    assert list(table.entries) == [two]
    assert log.told() == []


def test_a_flow_that_vanished_ends_with_the_sums_known_last() -> None:
    (one,) = keys(1)
    table = Table((one, flow(packets=(6, 0))))
    log = Log(table)
    log.told()
    del table.entries[one]
    assert log.told() == [(1, END, 6)]
    assert log.told() == []


def test_a_flow_in_the_place_of_another_ends_that_one() -> None:
    (one,) = keys(1)
    table = Table((one, flow(packets=(6, 0))))
    log = Log(table)
    log.told()
    table.entries[one] = flow(packets=(2, 0), created_ns=NOW_NS - 2)
    ended, begun = log.events()
    assert (ended.flags, ended.packets, ended.began_ns) == (END, 6, NOW_NS - 5 * SECOND)
    assert (begun.flags, begun.packets, begun.began_ns) == (UPDATE, 2, NOW_NS - 2)


def test_a_flow_that_begins_anew_while_the_old_one_is_taken_out_is_put_back() -> None:
    (one,) = keys(1)
    table, fresh = Table((one, flow(**OVER))), flow(packets=(1, 0), created_ns=NOW_NS)
    table.meanwhile = lambda key: table.entries.update({key: fresh})
    log = Log(table)
    assert log.told() == [(1, END, 3), (8080, END, 2)]  # the old one's sums
    assert table.entries == {one: fresh}
    table.entries[one] = counted(fresh, (3, 0))
    assert log.told() == [(1, UPDATE, 4)]


def test_where_a_packet_was_faster_than_the_putting_back_both_flows_have_their_end() -> None:
    (one,) = keys(1)
    table = Table((one, flow(**OVER)))
    second = flow(packets=(1, 0), created_ns=NOW_NS)
    third = flow(packets=(1, 1), created_ns=NOW_NS + 1)
    table.meanwhile = lambda key: table.entries.update({key: second})
    table.after = lambda key: table.entries.update({key: third})
    log = Log(table)
    assert log.told() == [(1, END, 1), (1, END, 3), (8080, END, 2)]
    assert table.entries == {one: third}
    assert log.told() == [(8080, UPDATE, 1)]


def test_a_flow_that_was_forgotten_before_it_was_taken_out_ends_all_the_same() -> None:
    (one,) = keys(1)
    table = Table((one, flow(**OVER)))
    table.meanwhile = lambda key: table.entries.clear()
    log = Log(table)
    assert log.told() == [(1, END, 3), (8080, END, 2)]
    assert log.told() == []


def test_a_flow_is_taken_out_only_once_its_end_was_told() -> None:
    """So that the successor of who is killed in between tells of it."""
    (one,) = keys(1)
    table = Table((one, flow(**OVER)))
    log = Log(table)
    passing = log.sweep.records(lambda: 0)
    assert len(next(passing)) == 2 * SIZE and list(table.entries) == [one]
    del passing  # and whoever heard of it
    successor = Log(table)
    assert successor.told() == [(1, END, 3), (8080, END, 2)] and not table.entries


def test_one_pass_takes_out_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "TAKEN_MAX", 4)
    table = Table(*((each, flow(packets=(1, 0), **OVER)) for each in keys(10)))
    log = Log(table)
    assert [len(log.told()) for _ in range(4)] == [4, 4, 2, 0]
    assert not table.entries


def test_what_finds_no_room_is_told_in_turn_with_the_sums_of_then() -> None:
    table = Table(*((each, flow(packets=(2, 0))) for each in keys(6)))
    log = Log(table)

    def pass_with_room_for_two_flows() -> list[int]:
        rooms = iter([4, 0])  # a flow may have two records
        return [e.source_port for e in log.events(lambda: next(rooms))]

    seen = []
    for _ in range(6):
        seen.append(pass_with_room_for_two_flows())
        table.entries = {each: counted(value, (1, 0)) for each, value in table.entries.items()}
    assert seen == [[1, 2], [3, 4], [5, 6], [1, 2], [3, 4], [5, 6]]
    assert log.told() == [(port, UPDATE, 8) for port in range(1, 7)]
    assert log.told() == []


def test_of_flows_that_are_over_is_told_whether_or_not_there_is_room() -> None:
    one, two = keys(2)
    log = Log(Table((one, flow(packets=(2, 0))), (two, flow(packets=(2, 0), **OVER))))
    assert log.told(lambda: 0) == [(2, END, 2)]
    assert log.told() == [(1, UPDATE, 2)]


def test_a_table_that_cannot_be_read_to_its_end_makes_no_flow_end() -> None:
    table = Table(*((each, flow(packets=(2, 0))) for each in keys(6)))
    log = Log(table)
    log.told()
    whole = table.batches

    def broken() -> Any:
        yield next(whole())
        raise OSError("no more")

    table.batches = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no more"):
        log.told()
    table.batches = whole  # type: ignore[method-assign]
    assert log.told() == []


def test_a_pass_that_tells_nothing_takes_out_what_is_over_and_forgets_what_was_told() -> None:
    one, two = keys(2)
    table = Table((one, flow(packets=(2, 0))), (two, flow(**OVER)))
    log = Log(table)
    log.told(lambda: 0)
    log.sweep.tidy()
    assert list(table.entries) == [one]
    assert log.told() == [(1, UPDATE, 2)]


class Passes(RuleBasedStateMachine):
    """Flows come, move and go as they like; the log's last word on each direction is its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.log = Log(self.table)
        self.began = NOW_NS - 10 * SECOND
        self.last: dict[int, tuple[int, bytes]] = {}  # began_ns to key and value, as it was last
        self.seen: dict[int, bytes] = {}  # began_ns to value, as a pass found it last
        self.told: dict[tuple[int, int], int] = {}  # (began_ns, source's port) to packets
        self.ended: list[tuple[int, int]] = []

    @rule(port=st.integers(1, 8), packets=st.tuples(st.integers(1, 3), st.integers(0, 3)))
    def a_flow_begins(self, port: int, packets: tuple[int, int]) -> None:
        self.began += 1
        self.table.entries[key(low_port=port)] = flow(packets=packets, created_ns=self.began)

    @rule(port=st.integers(1, 8), packets=st.tuples(st.integers(0, 3), st.integers(0, 3)))
    def a_flow_moves(self, port: int, packets: tuple[int, int]) -> None:
        self._change(port, lambda value: counted(value, packets))

    @rule(port=st.integers(1, 8))
    def a_flow_falls_silent(self, port: int) -> None:
        self._change(port, lambda value: counted(value, (0, 0), last_ns=NOW_NS - 4000 * SECOND))

    @rule(port=st.integers(1, 8))
    def a_flow_is_forgotten(self, port: int) -> None:
        self.table.entries.pop(key(low_port=port), None)

    def _change(self, port: int, change: Callable[[bytes], bytes]) -> None:
        found = self.table.entries.get(key(low_port=port))
        # Nobody adds to a flow that is over.
        if found is not None and Flow.from_buffer_copy(found).last_ns > NOW_NS - 4000 * SECOND:
            self.table.entries[key(low_port=port)] = change(found)

    @rule(room=st.integers(0, 12))
    def a_pass(self, room: int) -> None:
        self._pass(room)

    def _pass(self, room: int) -> None:
        before = dict(self.table.entries)
        left = [room]

        def welcome() -> int:
            return left[0]

        for records in self.log.sweep.records(welcome):
            events = (Event * (len(records) // SIZE)).from_buffer_copy(records)
            updates = sum(event.flags == UPDATE for event in events)
            assert updates <= left[0], "more than was welcome"
            left[0] -= updates
            for event in events:
                name = (event.began_ns, event.source_port)
                assert name not in self.ended, "told of after its end"
                assert event.packets >= self.told.get(name, 0)
                self.told[name] = event.packets
                if event.flags == END:
                    self.ended.append(name)
        for each, value in before.items():
            self.seen[Flow.from_buffer_copy(value).created_ns] = value
            assert each in self.table.entries or self._is_over(value)

    @staticmethod
    def _is_over(value: bytes) -> bool:
        return bool(Flow.from_buffer_copy(value).last_ns < NOW_NS - 3601 * SECOND)

    def teardown(self) -> None:
        self.table.entries.clear()
        self._pass(10**6)
        for began, value in self.seen.items():
            made = Flow.from_buffer_copy(value)
            ways = {port: n for (at, port), n in self.told.items() if at == began}
            assert sorted(ways.values()) == sorted(n for n in made.packets if n)
            assert len([at for at, _ in self.ended if at == began]) == len(ways)


TestPasses = Passes.TestCase
TestPasses.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
