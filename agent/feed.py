"""What the datapath counts and emits, in the words of logs and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agent.datapath.datapath import Datapath
from agent.datapath.events import boot_time_ns
from agent.datapath.sweep import FlowSweep, KernelFlows
from agent.events import Chunk, Names, Naming
from agent.flowlog import Emitted, Reading
from agent.metrics import RuleTraffic, Traffic

CLOCK_DRIFT_NS = 1_000_000  # the wall clock is slewed all the time


class DatapathFeed:
    """One datapath, read by the log consumer and by the sweeper (a thread each) and by scrapes
    (any)."""

    def __init__(self, datapath: Datapath, names: Names) -> None:
        self._datapath, self._names = datapath, names
        self._undecodable = 0
        self._naming = Naming(boot_time_ns(), names.table, datapath.generations)
        self._sweep = FlowSweep(KernelFlows(datapath.flows))

    def read(self, timeout_ms: int) -> Reading:
        """The events that are there; waits up to TIMEOUT_MS for the first."""
        records = self._datapath.read_records(timeout_ms)
        before, self._undecodable = self._undecodable, self._datapath.undecodable_events
        naming = self.naming()
        return Reading(
            chunks=[Chunk(part, naming) for part in records],
            undecodable=self._undecodable - before,
        )

    def flow_records(self, room: Callable[[], int]) -> Iterator[Chunk]:
        """A pass over the flow table, which forgets flows that are over; what there is to tell of
        flows, as far as ROOM welcomes so many, where it is flows that are logged."""
        if not self._datapath.logs_flows:
            self._sweep.tidy()
            return
        for records in self._sweep.records(room):
            if self._datapath.logs_flows:  # still
                yield Chunk(records, self.naming())

    def naming(self) -> Naming:
        """What numbers are called now: the same object until that, or the clock, has changed."""
        last, clock_ns = self._naming, boot_time_ns()
        if abs(clock_ns - last.clock_ns) < CLOCK_DRIFT_NS:
            clock_ns = last.clock_ns
        now = Naming(clock_ns, self._names.table, self._datapath.generations)
        is_same = (
            now.clock_ns == last.clock_ns and now.names is last.names and now.rules is last.rules
        )
        if not is_same:
            self._naming = now
        return self._naming

    def emitted(self) -> Emitted:
        """What the programs wanted to log; the kernel counts what found room and what did not."""
        now = self._datapath.log_counters()
        return Emitted(emitted=now.emitted + now.ring_full, ring_full=now.ring_full)

    def suppressed(self) -> int:
        """Denials that were too many in one second to become events."""
        return self._datapath.log_counters().suppressed

    def traffic(self) -> tuple[Traffic, ...]:
        """Every counter, with its tag's name."""
        return tuple(
            Traffic(
                identity=self._names.identity(counter.tag),
                hook=counter.hook,
                verdict=counter.verdict,
                packets=counter.packets,
                bytes=counter.bytes,
            )
            for counter in self._datapath.counters()
        )

    def rules(self) -> tuple[RuleTraffic, ...]:
        """What each rule decided."""
        return tuple(
            RuleTraffic(
                rule=hits.rule,
                action=hits.action.name.lower(),
                packets=hits.packets,
                bytes=hits.bytes,
            )
            for hits in self._datapath.rule_hits()
        )
