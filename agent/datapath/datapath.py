"""The data plane of one interface: programs, their maps, their events.

A change has three phases, in this order: `remove_identities`, then (peers removed) `apply_policy`,
then `put_identities`, then (peers added). Each compares with what the maps hold, so each may be
repeated, and each that changed anything raises the epoch *after* it: a packet that reads the new
epoch sees the change, and every flow judged before is judged again.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent import abi
from agent.abi import ConfigWord, IPNetwork, LogCounter, Logging, PolicyFlag, StatsKey
from agent.datapath import adoption, encode
from agent.datapath import attach as filters
from agent.datapath.adoption import Inherited, LastLog
from agent.datapath.barrier import wait_for_programs
from agent.datapath.events import DatapathEvent, Generations, boot_time_ns, decode
from agent.datapath.generations import RuleBook
from agent.datapath.hits import HitCounters, RuleHits
from agent.datapath.limits import Limits
from agent.datapath.loaded import Loaded, Origin, Wanted
from agent.datapath.loader import load
from agent.datapath.maps import BpfMap, SharedWords, map_id
from agent.datapath.marks import MarkLayout
from agent.datapath.parts import identity_counts
from agent.datapath.pins import PinnedSet, Pins
from agent.datapath.rings import EventRings
from agent.datapath.state import DatapathState, IdentityEntry
from ztlab.errors import ZtError
from ztlab.model import logbatch
from ztlab.model.verdict import AuthzMode, Hook, Verdict

_PER_CPU = frozenset({"zt_stats", "zt_log"})
_NOT_OF_A_POLICY = PolicyFlag.SLOT | PolicyFlag.CHANGING


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """Packets and bytes since the programs were loaded.

    tag      of the far end for what went on (ingress: the source, egress: the destination); always
             of the source for what was dropped; 0: nobody's
    packets  as on the wire: a GSO packet counts as its segments
    bytes    of these packets, from the IP header on
    """

    tag: int
    hook: Hook
    verdict: Verdict
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCounters:
    """Events since the programs were loaded: put into a ring, and lost because it was full; and
    denials that were not to become events, because there were too many in one second."""

    emitted: int
    ring_full: int
    suppressed: int


class Datapath:
    """Programs in the kernel and the maps they read. Fresh ones are in enforce, with logging off,
    until told; a predecessor's are as it left them."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        pins: Pins | None = None,
        before: PinnedSet | None = None,
        run_dir: Path | None = None,
    ) -> None:
        """Use `load`. Takes over LOADED, staged in PINS, and BEFORE, which it replaces."""
        self._loaded = loaded
        self._pins, self._before = pins, before
        self._interface: str | None = None
        # Held while the policy word is read and written: the local switches are another thread's.
        self._changing = threading.RLock()
        self._maps = {
            name: BpfMap.open(name, loaded.maps[name], per_cpu=name in _PER_CPU)
            for name in abi.MAPS
        }
        _require_sizes(self._maps)
        self._hits = HitCounters(self._maps)
        self._config = SharedWords(loaded.maps["zt_config"], len(ConfigWord))
        self._rings = EventRings(
            loaded.maps,
            {name: BpfMap.open(name, fd).max_entries for name, fd in loaded.maps.items()},
        )
        self._generations = RuleBook(run_dir / "rules" if run_dir else None)
        self._inherited = Inherited(run_dir / "inherited.json" if run_dir else None)
        self._undecodable = 0
        self._replaced_log: LastLog | None = None
        if loaded.origin == "fresh":
            self._generations.clear()
            self._inherited.clear()
            self._config[ConfigWord.POLICY] = 1 << abi.EPOCH_SHIFT
            self._config[ConfigWord.MODE] = AuthzMode.ENFORCE
            return
        if before is not None and loaded.origin == "carried":
            adoption.carry(before, self._maps, self._config)
        self._generations.take_over(self.epoch)

    @classmethod
    def load(
        cls,
        *,
        marks: MarkLayout,
        limits: Limits,
        l3_offset: int = 0,
        loader: str = "auto",
        pins: Pins | None = None,
        run_dir: Path | None = None,
    ) -> Datapath:
        """Load the programs, or take over a predecessor's; no interface is needed yet.

        l3_offset  where the IP header begins in a packet: 0 on WireGuard, 14 under a test run
        loader     auto | bcc | libbpf; HostUnfit where this machine cannot, ZtError where the
                   shipped object is not of this version
        pins       where a predecessor's are and ours shall be; None: they end with this process and
                   the interface
        run_dir    where what must outlast this process besides is kept; None: nowhere
        """
        wanted = Wanted(marks=marks, limits=limits, l3_offset=l3_offset)
        loaded, before = (
            adoption.obtain(loader, wanted, pins) if pins else (load(loader, wanted), None)
        )
        try:
            return cls(loaded, pins=pins, before=before, run_dir=run_dir)
        except BaseException:
            loaded.close()
            if before is not None:
                before.close()
            raise

    @property
    def loader(self) -> str:
        """Who loaded it: bcc | libbpf."""
        return self._loaded.loader

    @property
    def loader_reason(self) -> str:
        """Why that one."""
        return self._loaded.reason

    @property
    def origin(self) -> Origin:
        """What of it a predecessor left."""
        return self._loaded.origin

    @property
    def pinned_in(self) -> Path | None:
        """The folder that holds it beyond this process; None: nothing does."""
        return self._pins.directory if self._pins else None

    @property
    def programs(self) -> Mapping[Hook, int]:
        """The programs' file descriptors."""
        return self._loaded.programs

    # --- on the interface ---

    def attach(self, interface: str) -> None:
        """Attach both programs, atomically in place of an older version of ours."""
        if not all(filters.attached(interface, self.programs).values()):
            filters.attach(interface, self.programs)
        self._interface = interface
        self._settle()

    def _settle(self) -> None:
        """Our programs run: what they replaced is caught up with, and let go."""
        if self._before is not None:
            if self._loaded.origin == "carried":
                wait_for_programs()
                self._inherited.add(adoption.catch_up(self._before, self._maps))
                self._replaced_log = adoption.last_log(self._before)
            self._before.close()
            self._before = None
        if self._pins is not None:
            self._pins.settle()

    def detach(self) -> None:
        """Take the programs off the interface; nothing happens where they are not."""
        if self._interface is not None:
            filters.detach(self._interface)
            self._interface = None

    def unpin(self) -> None:
        """Let nothing hold programs and maps beyond this process, but the interface."""
        if self._pins is not None:
            self._pins.remove()
            self._generations.clear()
            self._inherited.clear()

    def is_attached(self) -> dict[Hook, bool]:
        """At which hooks exactly these programs run."""
        if self._interface is None:
            return dict.fromkeys(Hook, False)
        return filters.attached(self._interface, self.programs)

    def repair(self) -> tuple[Hook, ...]:
        """Attach again what somebody took off; the hooks where that was needed."""
        if self._interface is None:
            return ()
        missing = tuple(hook for hook, is_there in self.is_attached().items() if not is_there)
        if missing:
            filters.attach(self._interface, {hook: self.programs[hook] for hook in missing})
        return missing

    # --- the three phases of a change ---

    def remove_identities(self, desired: DatapathState) -> bool:
        """Delete every prefix that DESIRED does not have; True where there was one."""
        wanted = encode.identity_entries(desired)
        gone = {
            name: self._maps[name].items().keys() - entries.keys()
            for name, entries in zip(("zt_ids", "zt_nets"), wanted, strict=True)
        }
        changed = any(gone.values())
        with self._identities_changing(changed) as is_unfinished:
            for name, keys in gone.items():
                self._maps[name].delete(keys)
        return changed or is_unfinished

    def apply_policy(self, desired: DatapathState) -> bool:
        """Put DESIRED's policy in force in one step; True where it was not so already.

        It is written beside the one in force; one 8-byte store then switches slot, flags and epoch.
        """
        word = self._config[ConfigWord.POLICY]
        slot = word & PolicyFlag.SLOT
        policy, pairs = self._maps["zt_policy"], self._maps["zt_pairs"]
        held = policy.items(), pairs.items()
        in_force = encode.in_slot(*held, slot)
        flags = encode.policy_flags(desired)
        # What is quick to compare comes first.
        is_same = (
            word & ~_NOT_OF_A_POLICY & 0xFF == flags
            and self._generations.rules == desired.rules
            and len(in_force[1]) == len(desired.pairs)
            and in_force == encode.policy_entries(desired, slot)
        )
        is_same &= not self._apply_quotas(desired)
        if is_same:
            return False
        other = slot ^ PolicyFlag.SLOT
        self._hits.fold(other)  # where an earlier change was interrupted
        entries = encode.policy_entries(desired, other)
        for bpf_map, there, old, fresh in zip(
            (policy, pairs), held, in_force, entries, strict=True
        ):
            if len(there) > len(old):  # an earlier change was interrupted here as well
                bpf_map.delete(there.keys() - old.keys())
            bpf_map.put(fresh)
        self._hits.install(other, desired.rules, desired.actions)
        with self._changing:
            epoch = self._next_epoch()
            self._generations.begin(epoch, desired.rules)
            self._config[ConfigWord.POLICY] = epoch << abi.EPOCH_SHIFT | flags | other
        # A packet may still be reading the old slot. Where that cannot be waited for, the next
        # change deletes it.
        if wait_for_programs():
            self._hits.fold(slot)
            for bpf_map, old in zip((policy, pairs), in_force, strict=True):
                bpf_map.delete(old)
        return True

    def _apply_quotas(self, desired: DatapathState) -> bool:
        """Put DESIRED's quotas in force, each at once; True where one is another. A bucket whose
        quota stays keeps what is in it."""
        quotas, wanted = self._maps["zt_quotas"], encode.quota_entries(desired)
        held, limits = encode.quota_limits(quotas.items()), encode.quota_limits(wanted)
        if held == limits:
            return False
        quotas.delete(held.keys() - limits.keys())
        quotas.put({key: wanted[key] for key, limit in limits.items() if held.get(key) != limit})
        return True

    def put_identities(self, desired: DatapathState) -> bool:
        """Write every prefix that is missing or means something else; True where there was one."""
        wanted = encode.identity_entries(desired)
        fresh = {}
        for name, entries in zip(("zt_ids", "zt_nets"), wanted, strict=True):
            held = self._maps[name].items()
            fresh[name] = {key: value for key, value in entries.items() if held.get(key) != value}
        changed = any(fresh.values()) or self._config[ConfigWord.SELF] != desired.self_tag
        with self._identities_changing(changed) as is_unfinished:
            self._config[ConfigWord.SELF] = desired.self_tag
            for name, missing in fresh.items():
                self._maps[name].put(missing)
        return changed or is_unfinished

    def drift(self, desired: DatapathState) -> tuple[int, int]:
        """(identity prefixes, policy entries) that the maps have otherwise than DESIRED, which was
        applied, says."""
        prefixes = entries = 0
        for name, wanted in zip(
            ("zt_ids", "zt_nets"), encode.identity_entries(desired), strict=True
        ):
            prefixes += len(self._maps[name].items().items() ^ wanted.items())
        slot = self._config[ConfigWord.POLICY] & PolicyFlag.SLOT
        held = self._maps["zt_policy"].items(), self._maps["zt_pairs"].items()
        for there, wanted in zip(
            encode.in_slot(*held, slot), encode.policy_entries(desired, slot), strict=True
        ):
            entries += len(there.items() ^ wanted.items())
        return prefixes, entries

    def identities(self) -> dict[IPNetwork, IdentityEntry]:
        """What the identity maps hold now."""
        return encode.read_identities(self._maps["zt_ids"].items(), self._maps["zt_nets"].items())

    # --- the local switches ---

    @property
    def authz_mode(self) -> AuthzMode:
        """What the programs do now."""
        return AuthzMode(self._config[ConfigWord.MODE])

    def set_authz_mode(self, mode: AuthzMode) -> None:
        """Switch; to enforce the epoch rises first, so that no flow passes unjudged."""
        with self._changing:
            if mode is AuthzMode.ENFORCE and self.authz_mode is AuthzMode.OBSERVE:
                self._raise_epoch()
            self._config[ConfigWord.MODE] = mode

    def set_logging(
        self,
        enabled: bool,
        granularity: Literal["flow", "packet"] = "flow",
        *,
        denials_per_s: int = 0,
    ) -> None:
        """Emit events or none; for each flow's first packet and each denial, or for each packet.

        denials_per_s  how many denials of one second become events, on each CPU, with granularity
                       flow; 0: all
        """
        level = Logging[granularity.upper()] if enabled else Logging.OFF
        self._config[ConfigWord.LOGGING] = denials_per_s << abi.DENIALS_SHIFT | level

    @property
    def logs_flows(self) -> bool:
        """Are flows logged, rather than nothing or each packet?"""
        return self._config[ConfigWord.LOGGING] & 0xFFFFFFFF == Logging.FLOW

    @property
    def epoch(self) -> int:
        """The number that flows are judged in, 1 .. 2^32-1; it rises with every change."""
        return self._config[ConfigWord.POLICY] >> abi.EPOCH_SHIFT

    # --- what happened ---

    def counters(self) -> list[Counter]:
        """Every counter that ever counted."""
        result = []
        now = identity_counts(self._maps["zt_stats"], self._maps["zt_through"])
        before = self._inherited.sums("zt_stats")
        for data in now.keys() | before.keys():
            both = zip(now.get(data, (0, 0)), before.get(data, (0, 0)), strict=True)
            packets, size = map(sum, both)
            key = StatsKey.from_buffer_copy(data)
            result.append(
                Counter(
                    tag=key.tag,
                    hook=Hook(key.hook),
                    verdict=Verdict(key.verdict),
                    packets=packets,
                    bytes=size,
                )
            )
        return result

    def rule_hits(self) -> list[RuleHits]:
        """What each rule decided, under this policy and those before it."""
        return self._hits.read()

    def log_counters(self) -> LogCounters:
        """What became of events in the kernel."""
        words = self._maps["zt_log"].words()
        return LogCounters(
            emitted=words[LogCounter.EMITTED],
            ring_full=words[LogCounter.RING_FULL],
            suppressed=words[LogCounter.SUPPRESSED],
        )

    def uncounted_packets(self) -> int:
        """Packets for whose identity, hook and verdict `counters` had no room left."""
        before = self._inherited.sums("zt_log").get(b"", (0,) * len(LogCounter))
        return self._maps["zt_log"].words()[LogCounter.UNCOUNTED] + before[LogCounter.UNCOUNTED]

    def flow_count(self) -> int:
        """Entries in the flow table, those that timed out and were not reused included."""
        return self._maps["zt_flows"].count()

    @property
    def flows(self) -> BpfMap:
        """The flow table, for who goes through it in bulk; as long as this is not closed."""
        return self._maps["zt_flows"]

    def read_records(self, timeout_ms: int) -> list[bytearray]:
        """The events that are there, packed (struct zt_event), for each CPU that has any; waits up
        to TIMEOUT_MS for the first. One reader."""
        found = self._rings.read(timeout_ms)
        for records in found:
            faulty = logbatch.faulty(records)
            self._undecodable += len(faulty)
            for i in reversed(faulty):
                del records[i * logbatch.SIZE : (i + 1) * logbatch.SIZE]
        return found

    def read_events(self, timeout_ms: int) -> list[DatapathEvent]:
        """The same one by one, by their time."""
        found = b"".join(self.read_records(timeout_ms))
        return decode(found, boot_ns=boot_time_ns(), generations=self._generations.known)

    @property
    def generations(self) -> Generations:
        """Which rules an event's epoch and rule mean."""
        return self._generations.known

    @property
    def consumed_events(self) -> int:
        """Events ever taken out of the rings, by whomever."""
        return self._rings.consumed

    @property
    def log_account(self) -> int:
        """What the kernel's log counters are of: another number, and they began at zero."""
        return map_id(self._loaded.maps["zt_log"])

    @property
    def replaced_log(self) -> LastLog | None:
        """How the log counters ended that these replaced; None: they replaced none."""
        return self._replaced_log

    @property
    def undecodable_events(self) -> int:
        """Records that `read_records` could not make sense of."""
        return self._undecodable + self._rings.odd

    def close(self) -> None:
        """Let go of maps and programs. Attached programs stay in force, with their maps."""
        self._rings.close()
        self._config.close()
        self._loaded.close()

    def abandon(self) -> None:
        """Let go of what was loaded for an interface and never attached: nothing of it stays."""
        if self._pins is not None and self.origin != "adopted":
            self._pins.unstage()
        if self._before is not None:
            self._before.close()
        self.close()

    # --- within ---

    def _next_epoch(self) -> int:
        return self.epoch % abi.EPOCH_MAX + 1

    @contextmanager
    def _identities_changing(self, changes: bool) -> Iterator[bool]:
        """The block changes identity maps, if CHANGES; then the epoch rises, whatever interrupts us
        in between: at the latest when a successor comes here. Yields whether we are that one."""
        word = self._config[ConfigWord.POLICY]
        is_unfinished = bool(word & PolicyFlag.CHANGING)
        if changes:
            with self._changing:
                self._config[ConfigWord.POLICY] |= PolicyFlag.CHANGING
        yield is_unfinished
        if changes or is_unfinished:
            self._raise_epoch(without=PolicyFlag.CHANGING)

    def _raise_epoch(self, *, without: int = 0) -> None:
        with self._changing:
            flags = self._config[ConfigWord.POLICY] & 0xFF & ~without
            self._config[ConfigWord.POLICY] = self._next_epoch() << abi.EPOCH_SHIFT | flags


def _require_sizes(maps: Mapping[str, BpfMap]) -> None:
    """The loaded maps are agent/abi.py's, else nothing in them would mean what we write."""
    for name, (key, value) in abi.MAPS.items():
        found = maps[name].key_size, maps[name].value_size
        wanted = ctypes.sizeof(key), ctypes.sizeof(value)
        if found != wanted:
            raise ZtError(
                f"map {name} has keys and values of {found} bytes, agent/abi.py says {wanted}",
                hint="the programs and the agent are of different versions: reinstall the agent",
            )
