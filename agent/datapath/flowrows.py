"""Rows of zt_flows, many at once: which of them are over, and what the log says of them.

A row is a key and a value as the kernel has them. What all of them have in a field is one strided
slice, and what all records say in a field is another, so that hardly any Python runs for a flow.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import compress
from operator import itemgetter, ne, or_

from agent import abi
from agent.abi import Event, EventFlag, Flow, FlowFlag, FlowKey, Origin
from ztlab.model.verdict import Hook, Verdict

KEY_SIZE, VALUE_SIZE = ctypes.sizeof(FlowKey), ctypes.sizeof(Flow)
Row = tuple[bytes, bytes, bytes]
"""Key, value, and the value that was said of it last."""

# ZT_IDLE_... of bpf/zt_flow.h.
IDLE_TCP_S, IDLE_TCP_CLOSING_S, IDLE_UDP_S, IDLE_OTHER_S = 3600, 10, 180, 30
# To the programs a flow is over this much earlier: one that read its clock before we read ours
# is no longer at work on a flow that is over to us.
GRACE_S = 1
_NS = 10**9

TCP, UDP = 6, 17
_WITH_PORTS = bytes((TCP, UDP))
# Protocol and flags to an index of the idle times, the sum of the two.
_IDLE_S = (IDLE_OTHER_S, IDLE_OTHER_S, IDLE_UDP_S, IDLE_UDP_S, IDLE_TCP_S, IDLE_TCP_CLOSING_S)
_BY_PROTOCOL = bytes({TCP: 4, UDP: 2}.get(protocol, 0) for protocol in range(256))
_BOTH = FlowFlag.FIN_SOURCE | FlowFlag.FIN_OTHER
_BY_FLAGS = bytes(bool(bits & FlowFlag.RESET or bits & _BOTH == _BOTH) for bits in range(256))
_HOOKS = bytes(Hook.INGRESS if o == Origin.TUNNEL else Hook.EGRESS for o in range(256))
_BEGUN_BY_LOW = bytes(not bits & FlowFlag.FROM_HIGH for bits in range(256))
_BEGUN_BY_HIGH = bytes(bool(bits & FlowFlag.FROM_HIGH) for bits in range(256))
# By origin and these bits: the verdict on the packets that went on. It is `established` of a flow
# that was cut since: whoever judged now did not let them through.
_JUDGED, _CUT = 8, 16
_VERDICTS = bytes(
    Verdict.ESTABLISHED
    if bits & _CUT
    else Verdict.ALLOWED
    if bits & _JUDGED and bits & 7 != Origin.LOCAL
    else Verdict.OBSERVED
    for bits in range(256)
)
_CREATED = Flow.created_ns.offset

NOTHING = bytes(VALUE_SIZE)
"""Said of a flow of which nothing was said."""
NEWBORN = bytes(Flow(packets=(1, 0)))
"""Said of a flow of which only the first packet was."""


def column(
    data: bytes | bytearray, kind: type[ctypes.Structure], name: str, code: str, index: int = 0
) -> memoryview:
    """The field NAME of all the KINDs that lie in DATA, as numbers of struct's CODE; of an array
    of these the one at INDEX."""
    width = struct.calcsize(code)
    start = getattr(kind, name).offset // width + index
    return memoryview(data).cast("B").cast(code)[start :: ctypes.sizeof(kind) // width]  # type: ignore[call-overload, no-any-return]


def expired(keys: bytes, values: bytes, now_ns: int) -> list[int]:
    """Which of these flows were idle for so long that the programs take them for over."""
    last = column(values, Flow, "last_ns", "q")
    protocols = bytes(column(keys, FlowKey, "protocol", "B")).translate(_BY_PROTOCOL)
    flags = bytes(column(values, Flow, "flags", "B")).translate(_BY_FLAGS)
    before = [now_ns - (idle_s + GRACE_S) * _NS for idle_s in _IDLE_S]
    rows = enumerate(zip(last.tolist(), protocols, flags, strict=True))
    return [i for i, (at_ns, protocol, flag) in rows if at_ns < before[protocol + flag]]


def is_same_flow(value: bytes, other: bytes) -> bool:
    """Are these two values of one key of one flow, or was it forgotten and begun anew between?"""
    return value[_CREATED : _CREATED + 8] == other[_CREATED : _CREATED + 8]


def records(rows: Sequence[Row], kind: EventFlag) -> bytearray:
    """A record of KIND for each direction in which a flow has other sums than were said last."""
    made = bytearray()
    values = b"".join(map(itemgetter(1), rows))
    flags = bytes(column(values, Flow, "flags", "B"))
    for began_high, chosen in enumerate((_BEGUN_BY_LOW, _BEGUN_BY_HIGH)):
        begun = list(compress(rows, flags.translate(chosen)))
        now, before = (b"".join(map(itemgetter(i), begun)) for i in (1, 2))
        for way in (0, 1):
            sums = (column(data, Flow, "packets", "Q", way) for data in (now, before))
            changed = list(compress(begun, map(ne, *sums)))
            if changed:
                source = "low" if began_high == way else "high"
                made += _one_way(changed, way, source, kind)
    return made


def _one_way(rows: Sequence[Row], way: int, source: str, kind: EventFlag) -> bytearray:
    """The records of one direction of flows whose SOURCE in it (low | high) is the same end."""
    keys = b"".join(map(itemgetter(0), rows))
    values = b"".join(map(itemgetter(1), rows))
    made = bytearray(len(rows) * ctypes.sizeof(Event))
    destination = "low" if source == "high" else "high"
    tags = ("source_tag", "destination_tag") if way == 0 else ("destination_tag", "source_tag")
    protocols = bytes(column(keys, FlowKey, "protocol", "B"))
    origins = bytes(column(values, Flow, "origin", "B"))

    def put(name: str, code: str, numbers: memoryview | bytes | array[int], index: int = 0) -> None:
        column(made, Event, name, code, index)[:] = memoryview(numbers)

    put("at_ns", "Q", column(values, Flow, "last_ns", "Q"))
    put("began_ns", "Q", column(values, Flow, "created_ns", "Q"))
    put("packets", "Q", column(values, Flow, "packets", "Q", way))
    put("bytes", "Q", column(values, Flow, "bytes", "Q", way))
    for name, end, tag in zip(("source", "destination"), (source, destination), tags, strict=True):
        for half in (0, 1):
            put(name, "Q", column(keys, FlowKey, end, "Q", half), half)
        put(f"{name}_tag", "I", column(values, Flow, tag, "I"))
        put(f"{name}_port", "H", _ports(keys, f"{end}_port", protocols))
    rules, verdicts = _judgements(values, origins)
    put("rule", "Q", rules)
    put("verdict", "B", verdicts)
    put("family", "B", column(keys, FlowKey, "family", "B"))
    put("protocol", "B", protocols)
    put("hook", "B", origins.translate(_HOOKS))
    put("flags", "B", bytes((kind,)) * len(rows))
    return made


def _ports(keys: bytes, name: str, protocols: bytes) -> memoryview | array[int]:
    """As in events: none but of TCP and UDP."""
    ports = column(keys, FlowKey, name, "H")
    if not protocols.translate(None, _WITH_PORTS):
        return ports
    both = zip(ports, protocols, strict=True)
    return array("H", [port if protocol in _WITH_PORTS else 0 for port, protocol in both])


def _judgements(values: bytes, origins: bytes) -> tuple[array[int], bytes]:
    """The columns of rules, each with its epoch behind it, and of verdicts."""
    judged = column(values, Flow, "judged", "Q").tolist()
    known = {word: _judgement(word) for word in set(judged)}  # few differ
    said = [known[word] for word in judged]
    verdicts = bytes(map(or_, map(itemgetter(1), said), origins)).translate(_VERDICTS)
    return array("Q", map(itemgetter(0), said)), verdicts


def _judgement(judged: int) -> tuple[int, int]:
    """Of a judgement the two words of rule and epoch, and what _VERDICTS is asked with."""
    epoch = judged >> abi.JUDGED_EPOCH_SHIFT
    if Verdict(judged & 0xFF).is_drop:
        return 0, _CUT
    rule = judged >> abi.JUDGED_RULE_SHIFT & abi.RULE_MAX
    return int.from_bytes(struct.pack("=2I", rule, epoch), sys.byteorder), _JUDGED if epoch else 0
