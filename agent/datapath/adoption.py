"""Programs and maps for an interface, of which a predecessor may have left some at work.

adopted  the same programs: taken as they are, nothing is loaded
reused   the same schema and sizes, other programs (or marks): loaded onto the predecessor's maps
carried  another schema, other sizes, or bcc: fresh maps, into which goes what the old ones hold and
         means the same. What the kernel goes on changing meanwhile, flows and counters, is brought
         up to date once the new programs have taken over.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agent import abi, state
from agent.abi import ConfigWord, LogCounter, PolicyFlag
from agent.datapath import attach, sources
from agent.datapath.hits import HitCounters
from agent.datapath.libbpf import possible_cpus
from agent.datapath.loaded import Loaded, Wanted
from agent.datapath.loader import load
from agent.datapath.maps import BpfMap, SharedWords, map_id
from agent.datapath.parts import identity_counts
from agent.datapath.pins import PinnedSet, Pins, Statement, namespace_cookie
from agent.datapath.rings import EventRings, is_ring
from ztlab.errors import ZtError

log = logging.getLogger(__name__)

FLOWS = "zt_flows"
_THROUGH_BY_TAG = "zt_passed"  # what zt_through was in schema 3
_WORDS = "zt_config"
_HITS = frozenset({"zt_hits", "zt_names", "zt_totals"})
_POLICY = frozenset({"zt_ids", "zt_nets", "zt_pairs", "zt_policy"})
_CARRIED_WHOLE = frozenset({*_POLICY, FLOWS, "zt_frags", "zt_quotas", "zt_names", "zt_totals"})


def obtain(loader: str, wanted: Wanted, pins: Pins) -> tuple[Loaded, PinnedSet | None]:
    """What LOADER (auto | bcc | libbpf) shall make of WANTED, and the set that it replaces; the
    latter is the caller's to close."""
    stated = _statement(wanted)
    before = pins.find(attach.numbers(pins.interface))
    said = before.statement if before is not None else None
    if before is not None and said is not None and said.namespace != stated.namespace:
        before.close()  # of a namespace that is gone: only the inode's number is the same
        before = None
    fits = before is not None and before.schema == abi.SCHEMA and _fit(before.maps, wanted)
    if before is not None and fits and _is_what_is_wanted(said, stated, loader):
        log.info("programs and maps of a predecessor adopted")
        reason = f"adopted, as its predecessor loaded it ({loader} asked for)"
        assert said is not None
        adopted = Loaded(
            loader=said.loader,
            programs=before.programs,
            maps=before.maps,
            release=before.close,
            reason=reason,
            origin="adopted",
        )
        return adopted, None
    loaded = _loaded(loader, wanted, before.maps if before is not None and fits else None)
    if before is not None and loaded.origin == "fresh":
        loaded = replace(loaded, origin="carried")
    try:
        pins.stage(loaded, replace(stated, loader=loaded.loader))
    except BaseException:
        loaded.close()
        if before is not None:
            before.close()
        raise
    return loaded, before


def _loaded(loader: str, wanted: Wanted, maps: Mapping[str, int] | None) -> Loaded:
    if maps is not None:
        try:
            return load(loader, wanted, maps=maps)
        except ZtError as error:
            log.warning("the predecessor's maps cannot be used: %s", error)
    return load(loader, wanted)


def _statement(wanted: Wanted) -> Statement:
    return Statement(
        namespace=namespace_cookie(),
        sources=sources.digest() or sources.stated(sources.OBJECT) or "",
        loader="",
        l3_offset=wanted.l3_offset,
        mark_mask=wanted.marks.mask,
        layouts={name: _layout(*kinds) for name, kinds in abi.MAPS.items()},
    )


def _is_what_is_wanted(said: Statement | None, stated: Statement, loader: str) -> bool:
    if said is None or not stated.sources or loader not in ("auto", said.loader):
        return False
    return replace(said, loader="", programs={}) == stated


def _layout(*kinds: type[ctypes.Structure]) -> str:
    """Of what KINDS are made, as a hash: names, places and sizes of their fields. A field that
    comes to mean something else gets another name."""
    text = ";".join(
        ",".join(f"{f[0]}@{getattr(k, f[0]).offset}+{getattr(k, f[0]).size}" for f in k._fields_)
        if issubclass(k, ctypes.Structure)
        else f"{ctypes.sizeof(k)}"
        for k in kinds
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _fit(maps: Mapping[str, int], wanted: Wanted) -> bool:
    """Are these MAPS of the shapes that the programs want?"""
    if not abi.MAPS.keys() <= maps.keys():
        return False
    for name, entries in wanted.map_sizes().items():
        if name not in maps or BpfMap.open(name, maps[name]).max_entries != entries:
            return False
    rings = [BpfMap.open(name, fd).max_entries for name, fd in maps.items() if is_ring(name)]
    if rings != [wanted.ring_bytes()] * possible_cpus():
        return False
    opened = {name: BpfMap.open(name, maps[name]) for name in abi.MAPS}
    return all(
        (opened[name].key_size, opened[name].value_size) == (ctypes.sizeof(k), ctypes.sizeof(v))
        for name, (k, v) in abi.MAPS.items()
    )


def carry(before: PinnedSet, maps: Mapping[str, BpfMap], words: SharedWords) -> None:
    """Fill the fresh MAPS and WORDS with what the old ones hold, as far as it means the same: all
    of it, or where the layout of policy or identities changed, only what they do not tell."""
    same = {name for name in maps if name in before.maps and _means_the_same(before, name)}
    whole = same & _CARRIED_WHOLE
    if not whole >= _POLICY:
        whole -= _POLICY
    old = SharedWords(before.maps[_WORDS], len(ConfigWord))
    try:
        words[ConfigWord.MODE] = old[ConfigWord.MODE]
        words[ConfigWord.LOGGING] = old[ConfigWord.LOGGING]
        words[ConfigWord.SELF] = old[ConfigWord.SELF]
        # The epoch goes on: the flows were judged in it.
        kept = 0xFF if whole >= _POLICY else int(PolicyFlag.CLIENT)
        mask = ((1 << 64) - 1) << abi.EPOCH_SHIFT | kept
        words[ConfigWord.POLICY] = old[ConfigWord.POLICY] & mask
    finally:
        old.close()
    for name in sorted(whole):
        try:
            maps[name].put(BpfMap.open(name, before.maps[name]).items())
        except ZtError as error:  # it became smaller: what does not fit is the configuration's
            log.warning("not everything is carried over: %s", error)


def catch_up(before: PinnedSet, maps: Mapping[str, BpfMap]) -> dict[str, dict[str, list[int]]]:
    """The old programs have ended: add the flows made since `carry`, and return the old counters,
    map name to key (hexadecimal) to sums, for whoever counts on."""
    if FLOWS in before.maps and _means_the_same(before, FLOWS):
        there = maps[FLOWS].items()
        old = BpfMap.open(FLOWS, before.maps[FLOWS]).items()
        maps[FLOWS].put({key: flow for key, flow in old.items() if key not in there})
    counted: dict[str, dict[str, list[int]]] = {}
    by_tag = _THROUGH_BY_TAG in before.maps
    through = _THROUGH_BY_TAG if by_tag else "zt_through"
    if {"zt_stats", through} <= before.maps.keys() and _means_the_same(before, "zt_stats"):
        sums = identity_counts(
            BpfMap.open("zt_stats", before.maps["zt_stats"], per_cpu=True),
            BpfMap.open(through, before.maps[through]),
            by_tag=by_tag,
        )
        counted["zt_stats"] = {key.hex(): list(values) for key, values in sums.items()}
    if _HITS <= before.maps.keys() and all(_means_the_same(before, name) for name in _HITS):
        HitCounters(maps).inherit(
            HitCounters({name: BpfMap.open(name, before.maps[name]) for name in _HITS})
        )
    if "zt_log" in before.maps and _means_the_same(before, "zt_log"):
        words = BpfMap.open("zt_log", before.maps["zt_log"], per_cpu=True).words()
        counted["zt_log"] = {"": words}
    return counted


@dataclass(frozen=True, slots=True, kw_only=True)
class LastLog:
    """How the log counters of maps ended whose programs are replaced.

    account   the kernel's number for them
    emitted   put into the rings
    consumed  taken out of them, by any agent; the rest is lost with the rings
    """

    account: int
    emitted: int
    ring_full: int
    consumed: int


def last_log(before: PinnedSet) -> LastLog | None:
    """Of the maps that were replaced; None where they count otherwise, or in other records."""
    if before.schema != abi.SCHEMA or not {"zt_log", abi.RINGS} <= before.maps.keys():
        return None
    words = BpfMap.open("zt_log", before.maps["zt_log"], per_cpu=True).words()
    sizes = {n: BpfMap.open(n, fd).max_entries for n, fd in before.maps.items() if is_ring(n)}
    rings = EventRings(before.maps, sizes)
    try:
        consumed = rings.consumed
    finally:
        rings.close()
    return LastLog(
        account=map_id(before.maps["zt_log"]),
        emitted=words[LogCounter.EMITTED],
        ring_full=words[LogCounter.RING_FULL],
        consumed=consumed,
    )


def _means_the_same(before: PinnedSet, name: str) -> bool:
    if before.schema == abi.SCHEMA:
        return True
    said = before.statement
    return said is not None and said.layouts.get(name) == _layout(*abi.MAPS[name])


class Inherited:
    """Counts of maps that are no more, added to those of the present ones; on file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        found = state.read_json(path) if path is not None else None
        self._counts: dict[str, dict[str, list[int]]] = found if isinstance(found, dict) else {}

    def add(self, counts: Mapping[str, Mapping[str, list[int]]]) -> None:
        """So much more; on file before this returns."""
        for name, entries in counts.items():
            known = self._counts.setdefault(name, {})
            for key, values in entries.items():
                before = known.get(key, [0] * len(values))
                known[key] = [a + b for a, b in zip(before, values, strict=True)]
        if self._path is not None:
            state.write_json(self._path, self._counts)

    def sums(self, name: str) -> dict[bytes, tuple[int, ...]]:
        """Key to sums, of the maps called NAME."""
        return {bytes.fromhex(k): tuple(v) for k, v in self._counts.get(name, {}).items()}

    def clear(self) -> None:
        """Begin at zero."""
        self._counts = {}
        if self._path is not None:
            self._path.unlink(missing_ok=True)
