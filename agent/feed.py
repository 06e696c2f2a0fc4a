"""What the datapath counts and emits, in the words of logs and metrics."""

from __future__ import annotations

from agent.datapath.datapath import Datapath
from agent.events import Names, record
from agent.flowlog import Emitted, Reading
from agent.metrics import RuleTraffic, Traffic


class DatapathFeed:
    """One datapath, read by the log consumer (one thread) and by scrapes (any)."""

    def __init__(self, datapath: Datapath, names: Names) -> None:
        self._datapath, self._names = datapath, names
        self._undecodable = 0

    def read(self, timeout_ms: int) -> Reading:
        """The events that are there; waits up to TIMEOUT_MS for the first."""
        records = [record(event, self._names) for event in self._datapath.read_events(timeout_ms)]
        before, self._undecodable = self._undecodable, self._datapath.undecodable_events
        return Reading(records=records, undecodable=self._undecodable - before)

    def emitted(self) -> Emitted:
        """What the programs wanted to log; the kernel counts what found room and what did not."""
        now = self._datapath.log_counters()
        return Emitted(emitted=now.emitted + now.ring_full, ring_full=now.ring_full)

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
