"""What each rule decided, from the first policy to the one in force.

The programs count by the number of a rule in its slot; when a policy goes, what it counted is
added to totals by the rule's id. Counters, names and totals all live in maps, so that they live as
long as the programs do, and every step may be interrupted: a total says which generation of policy
was added to it last, so what is still in the slot after that is not added again.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from agent.abi import RULE_ID_BYTES, Action, RuleTotal
from agent.datapath.maps import BpfMap
from agent.datapath.parts import CounterParts

# zt_rule_key, zt_rule_name: by struct, which is ten times as fast as ctypes.
_KEY = struct.Struct("=II")
_NAME = struct.Struct(f"={RULE_ID_BYTES}sB7x")
_GENERATION = 0  # the number of no rule: there stands which generation a slot holds


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleHits:
    """Packets and bytes that one rule decided, GSO packets counted as their segments."""

    rule: str
    action: Action
    packets: int
    bytes: int


class HitCounters:
    """The counters of rules; from any thread."""

    def __init__(self, maps: Mapping[str, BpfMap]) -> None:
        self._rules = CounterParts(maps["zt_hits"])
        self._names, self._totals = maps["zt_names"], maps["zt_totals"]
        self._lock = threading.Lock()
        # Slot to the numbers of its rules, where this process wrote them: not to be read again.
        self._installed: dict[int, range] = {}

    def install(self, slot: int, rules: Sequence[str], actions: Sequence[Action]) -> None:
        """Name the numbers of SLOT, in which no program counts yet and which was folded."""
        with self._lock:
            newest = max(self._generation_of(held) or 0 for held in (0, 1))
            names = {
                _KEY.pack(slot, i): _NAME.pack(rule.encode(), action)
                for i, (rule, action) in enumerate(zip(rules, actions, strict=True), start=1)
            }
            self._names.put(names)
            self._installed[slot] = range(len(rules) + 1)
            generation = str(newest % (2**32 - 1) + 1).encode()
            self._names.put({_KEY.pack(slot, _GENERATION): _NAME.pack(generation, 0)})

    def fold(self, slot: int) -> None:
        """Add what SLOT counted, in which no program counts any more, to the totals."""
        with self._lock:
            generation = self._generation_of(slot)
            if generation is None:
                return
            numbers = self._installed.get(slot) or self._held()[slot].keys()
            counted = self._counted(slot, numbers)
            names = {rule: self._names.get(_KEY.pack(slot, rule)) for rule in counted}
            totals = self._totals.items()
            fresh = {
                name: bytes(total)
                for rule, name in names.items()
                if name and (total := _added(totals.get(name), counted[rule], generation))
            }
            self._make_room(totals, fresh)
            self._totals.put(fresh)
            self._rules.zero(slot, counted)
            # The generation last: where this is interrupted, the slot is folded again.
            self._names.delete([_KEY.pack(slot, rule) for rule in numbers if rule])
            self._names.delete([_KEY.pack(slot, _GENERATION)])
            self._installed.pop(slot, None)

    def read(self) -> list[RuleHits]:
        """Every rule that a policy ever had here, and the hits of each."""
        with self._lock:
            sums: dict[bytes, tuple[int, int]] = {}
            totals = self._totals.items()
            for name, value in totals.items():
                total = RuleTotal.from_buffer_copy(value)
                sums[name] = (total.packets, total.bytes)
            for slot, names in self._held().items():
                counted, generation = self._counted(slot, names), self._generation(names)
                for rule, name in names.items():
                    if rule == _GENERATION:
                        continue
                    is_added = _holds(totals.get(name), generation)
                    more = (0, 0) if is_added else counted.get(rule, (0, 0))
                    packets, size = sums.get(name, (0, 0))
                    sums[name] = (packets + more[0], size + more[1])
        return [
            RuleHits(rule=_id_of(name), action=Action(_NAME.unpack(name)[1]), packets=p, bytes=b)
            for name, (p, b) in sums.items()
        ]

    def inherit(self, before: HitCounters) -> None:
        """Add what the slots of BEFORE counted that is not in the totals: names and totals were
        copied from there, and nobody counts there any more."""
        with self._lock:
            theirs, totals = before._totals.items(), self._totals.items()
            fresh: dict[bytes, bytes] = {}
            for slot, names in before._held().items():
                counted, generation = before._counted(slot, names), before._generation(names)
                for name, (packets, size) in ((names[r], h) for r, h in counted.items()):
                    if not _holds(theirs.get(name), generation):
                        held = fresh.get(name) or totals.get(name) or bytes(RuleTotal())
                        total = RuleTotal.from_buffer_copy(held)
                        total.packets += packets
                        total.bytes += size
                        fresh[name] = bytes(total)
            self._totals.put(fresh)

    def rules(self, slot: int) -> tuple[str, ...]:
        """The ids of the rules of SLOT, in written order."""
        with self._lock:
            names = self._held().get(slot, {})
        return tuple(_id_of(names[rule]) for rule in sorted(names) if rule != _GENERATION)

    def _held(self) -> dict[int, dict[int, bytes]]:
        """Slot to number to zt_rule_name, of the slots that hold a policy."""
        held: dict[int, dict[int, bytes]] = {}
        entries = self._names.items()
        for (slot, rule), name in zip(
            _KEY.iter_unpack(b"".join(entries)), entries.values(), strict=True
        ):
            held.setdefault(slot, {})[rule] = name
        return {slot: names for slot, names in held.items() if _GENERATION in names}

    @staticmethod
    def _generation(names: Mapping[int, bytes]) -> int:
        return int(_id_of(names[_GENERATION]))

    def _generation_of(self, slot: int) -> int | None:
        """Which one SLOT holds; None: no policy."""
        name = self._names.get(_KEY.pack(slot, _GENERATION))
        return None if name is None else int(_id_of(name))

    def _counted(self, slot: int, numbers: Collection[int]) -> dict[int, tuple[int, int]]:
        """Number of each rule of SLOT that decided anything to its packets and bytes."""
        return {rule: hits for rule, hits in self._rules.read(slot).items() if rule in numbers}

    def _make_room(self, totals: Mapping[bytes, bytes], fresh: Mapping[bytes, bytes]) -> None:
        """Forget rules that no policy has any more where FRESH would not fit beside all TOTALS."""
        beyond = len(totals.keys() | fresh.keys()) - self._totals.max_entries
        if beyond <= 0:
            return
        alive = {name for names in self._held().values() for name in names.values()}
        gone = [name for name in totals if name not in alive and name not in fresh]
        self._totals.delete(gone[: max(beyond, len(gone) // 2)])


def _id_of(name: bytes) -> str:
    """The id in a zt_rule_name."""
    return name[:RULE_ID_BYTES].rstrip(b"\0").decode()


def _holds(value: bytes | None, generation: int) -> bool:
    """Is what GENERATION counted in this total already?"""
    return value is not None and RuleTotal.from_buffer_copy(value).generation == generation


def _added(value: bytes | None, hits: tuple[int, int], generation: int) -> RuleTotal | None:
    """The total VALUE and HITS of GENERATION; None where it has them already."""
    if _holds(value, generation):
        return None
    total = RuleTotal() if value is None else RuleTotal.from_buffer_copy(value)
    return RuleTotal(
        packets=total.packets + hits[0], bytes=total.bytes + hits[1], generation=generation
    )
