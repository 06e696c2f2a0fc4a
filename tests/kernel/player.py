"""Plays stories through the loaded programs, fast: one datapath, buffers that are used again."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from agent import abi
from agent.datapath.compile import desired_state
from agent.datapath.datapath import Datapath
from agent.datapath.libbpf import library
from agent.datapath.loaded import Wanted
from agent.datapath.loader import load
from agent.datapath.state import DatapathState
from tests.kernel import testrun
from tests.kernel.conftest import ELSEWHERE, LOOPBACK, MARKS, Node
from tests.kernel.stories import Step, Story
from tests.kernel.truth import Fate, Moment, Truth, Way
from ztlab.model.config import NodeConfig
from ztlab.model.verdict import AuthzMode, Hook, Verdict

_INGRESS_IFINDEX = {Way.TUNNEL: 0, Way.LAN: ELSEWHERE, Way.LOCAL: 0, Way.TRANSIT: LOOPBACK}
_EVENT = abi.Event
_SIZE = ctypes.sizeof(_EVENT)
_LONGEST = 2048

_HASH = 1  # BPF_MAP_TYPE_HASH

Shot = tuple[Step, int, bool, int]
"""A packet, when it was fired (ns), whether it passed, and its mark then."""


class Gun:
    """One packet after the other through one program; everything but the packet stays the same."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libbpf.so.1")
        self._frame = ctypes.create_string_buffer(bytes(12) + b"\x88\xb5", _LONGEST)
        self._out = ctypes.create_string_buffer(_LONGEST + 256)
        self._context = testrun._SkBuff(ifindex=LOOPBACK)
        self._after = ctypes.create_string_buffer(512)
        self._options = testrun._Options(
            sz=ctypes.sizeof(testrun._Options),
            data_in=ctypes.cast(self._frame, ctypes.c_char_p),
            data_out=ctypes.cast(self._out, ctypes.c_void_p),
            ctx_in=ctypes.cast(ctypes.pointer(self._context), ctypes.c_void_p),
            ctx_out=ctypes.cast(self._after, ctypes.c_void_p),
            ctx_size_in=ctypes.sizeof(self._context),
            repeat=1,
        )
        self._reference = ctypes.byref(self._options)

    def fire(
        self, program: int, packet: bytes, ingress_ifindex: int, gso: tuple[int, int]
    ) -> tuple[int, int]:
        """(what the program returned, the packet's mark); the packet must come out as it was.

        gso  number and size of its segments
        """
        size, options = testrun.ETHERNET + len(packet), self._options
        ctypes.memmove(ctypes.addressof(self._frame) + testrun.ETHERNET, packet, len(packet))
        self._context.ingress_ifindex = ingress_ifindex
        self._context.gso_segs, self._context.gso_size = gso
        options.data_size_in, options.data_size_out = size, len(self._out)
        options.ctx_size_out = len(self._after)
        result = self._lib.bpf_prog_test_run_opts(program, self._reference)
        if result < 0:
            raise OSError(-result, f"no test run of {packet.hex()}")
        seen = ctypes.string_at(self._out, options.data_size_out)
        assert seen[testrun.ETHERNET :] == packet, "a program changed the packet"
        return options.retval, struct.unpack_from("=I", self._after, 8)[0]


@dataclass(frozen=True, slots=True)
class Played:
    """A packet of a story, what should have become of it, and what did. tag: its source's."""

    step: Step
    wanted: Fate
    found: Fate
    passed: bool
    mark: int
    tag: int

    @property
    def complaint(self) -> str:
        """Where the two differ; nothing where they agree."""
        assert self.step.packet is not None
        if self.wanted != self.found:
            return f"want {self.wanted}, got {self.found}"
        if self.passed == self.wanted.verdict.is_drop:
            return f"the verdict is {self.wanted.verdict.word}, and passed is {self.passed}"
        if self.step.packet[0] is Way.TUNNEL and self.passed:
            if self.wanted.source is not None and self.mark != MARKS.mark(self.tag):
                return f"want the mark of tag {self.tag}, got {self.mark:#x}"
        elif self.mark:
            return f"want no mark, got {self.mark:#x}"
        return ""


@contextmanager
def with_room_for(flows: int, wanted: Wanted) -> Iterator[Datapath]:
    """The shipped programs, as WANTED otherwise, where a flow that finds no room gets none: their
    LRU map always finds some, so they are loaded onto a plain hash of FLOWS entries instead."""
    with ExitStack() as held:
        first = load("libbpf", wanted)
        held.callback(first.close)
        sizes = ctypes.sizeof(abi.FlowKey), ctypes.sizeof(abi.Flow), flows
        plain = library().bpf_map_create(_HASH, b"zt_flows", *sizes, None)
        assert plain >= 0, os.strerror(-plain)
        held.callback(os.close, plain)
        second = load("libbpf", wanted, maps={**first.maps, "zt_flows": plain})
        datapath = Datapath(replace(second, origin="fresh"))
        held.callback(datapath.close)
        yield datapath


class Player:
    """Plays stories, each on a node that remembers nothing of the one before.

    flows   the node has room for so many; None: for more than a story has
    astray  where the buckets were not as full as they should be when the last story was over; ""
    """

    def __init__(self, datapath: Datapath, flows: int | None = None) -> None:
        self._node, self._datapath, self._flows = Node(datapath), datapath, flows
        self._gun = Gun()
        self._state: DatapathState | None = None
        self.astray = ""
        datapath.set_logging(True, "packet")

    def play(self, story: Story) -> list[Played]:
        """Every packet of STORY, in order, and what became of it."""
        assert story.flows == self._flows
        configs = [setup.config() for setup in story.setups]
        truth = Truth(configs[0], AuthzMode.ENFORCE, self._flows)
        for name in ("zt_flows", "zt_frags", "zt_quotas"):
            memory = self._datapath._maps[name]
            memory.delete(memory.items())
        self._apply(configs[0])
        self._datapath.set_authz_mode(AuthzMode.ENFORCE)
        played: list[Played] = []
        chapter: list[Shot] = []
        for step in story.steps:
            if step.packet is not None:
                chapter.append(self._shoot(step))
                continue
            played += self._read(chapter, truth)
            chapter = []
            if step.mode is not None:
                truth.set_mode(step.mode)
                self._datapath.set_authz_mode(step.mode)
            elif step.apply is not None:
                truth.configure(configs[step.apply])
                self._apply(configs[step.apply])
            else:
                truth.elapse(step.elapse)
                self._node.age_flows(step.elapse)
                self._node.age_fragments(step.elapse)
                self._node.age_quotas(step.elapse)
        played += self._read(chapter, truth)
        wanted, found = truth.levels(), self._levels()
        is_right = wanted.keys() == found.keys() and all(
            # One that never was used is full since before the clock began.
            (found[name] - early) % 2**64 <= late - early
            for name, (early, late) in wanted.items()
        )
        self.astray = "" if is_right else f"want {wanted}, got {found}"
        return played

    def _levels(self) -> dict[str, int]:
        """When each bucket is full again."""
        assert self._state is not None
        return {
            self._state.tag_names[int.from_bytes(tag, "little")]: abi.Quota.from_buffer_copy(
                value
            ).full_at
            for tag, value in self._datapath._maps["zt_quotas"].items().items()
        }

    def _apply(self, config: NodeConfig) -> None:
        self._state = desired_state(config)
        self._node.configure(config)

    def _shoot(self, step: Step) -> Shot:
        assert step.packet is not None
        way, packet = step.packet
        hook = Hook.INGRESS if way is Way.TUNNEL else Hook.EGRESS
        program = self._datapath.programs[hook]
        fired_ns = time.monotonic_ns()
        retval, mark = self._gun.fire(program, packet, _INGRESS_IFINDEX[way], step.gso)
        assert retval in (testrun.PASSED, testrun.DROPPED)
        return step, fired_ns, retval == testrun.PASSED, mark

    def _read(self, chapter: list[Shot], truth: Truth) -> Iterator[Played]:
        """What the events say of the shots of CHAPTER, all under one configuration, and what TRUTH
        says: of a packet that came when the program saw it, since buckets fill meanwhile."""
        records = b"".join(self._datapath.read_records(0))
        events = [_EVENT.from_buffer_copy(records, at) for at in range(0, len(records), _SIZE)]
        events.sort(key=lambda event: event.at_ns)  # they may be of several CPUs
        assert len(events) == len(chapter), "each packet has one event"
        for (step, fired_ns, passed, mark), event in zip(chapter, events, strict=True):
            assert step.packet is not None
            # The program looks at the clock before it writes the event.
            at = Moment(fired_ns, event.at_ns, event.verdict == Verdict.OVER_QUOTA)
            wanted = truth.pass_on(*step.packet, step.gso, at)
            yield Played(step, wanted, self._fate(event, wanted), passed, mark, event.source_tag)

    def _fate(self, event: abi.Event, wanted: Fate) -> Fate:
        assert self._state is not None
        names, rules = self._state.tag_names, self._state.rules
        is_named = wanted.source is not None
        return Fate(
            Verdict(event.verdict),
            rules[event.rule - 1] if event.rule else None,
            names[event.source_tag] if is_named else None,
            names[event.destination_tag] if is_named else None,
            event.packets if wanted.packets is not None else None,
            event.bytes if wanted.size is not None else None,
        )
