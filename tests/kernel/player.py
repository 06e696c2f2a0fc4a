"""Plays stories through the loaded programs, fast: one datapath, buffers that are used again."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from agent import abi
from agent.datapath.compile import desired_state
from agent.datapath.datapath import Datapath
from agent.datapath.state import DatapathState
from tests.kernel import testrun
from tests.kernel.conftest import ELSEWHERE, LOOPBACK, MARKS, Node
from tests.kernel.stories import Step, Story
from tests.kernel.truth import Fate, Truth, Way
from ztlab.model.config import NodeConfig
from ztlab.model.verdict import AuthzMode, Hook, Verdict

_INGRESS_IFINDEX = {Way.TUNNEL: 0, Way.LAN: ELSEWHERE, Way.LOCAL: 0, Way.TRANSIT: LOOPBACK}
_EVENT = abi.Event
_SIZE = ctypes.sizeof(_EVENT)
_LONGEST = 2048

Shot = tuple[Step, Fate, bool, int]
"""A packet, what should become of it, whether it passed, and its mark then."""


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

    def fire(self, program: int, packet: bytes, ingress_ifindex: int) -> tuple[int, int]:
        """(what the program returned, the packet's mark); the packet must come out as it was."""
        size, options = testrun.ETHERNET + len(packet), self._options
        ctypes.memmove(ctypes.addressof(self._frame) + testrun.ETHERNET, packet, len(packet))
        self._context.ingress_ifindex = ingress_ifindex
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


class Player:
    """Plays stories, each on a node that remembers nothing of the one before."""

    def __init__(self, datapath: Datapath) -> None:
        self._node, self._datapath = Node(datapath), datapath
        self._gun = Gun()
        self._state: DatapathState | None = None
        datapath.set_logging(True, "packet")

    def play(self, story: Story) -> list[Played]:
        """Every packet of STORY, in order, and what became of it."""
        configs = [setup.config() for setup in story.setups]
        truth = Truth(configs[0], AuthzMode.ENFORCE)
        for name in ("zt_flows", "zt_frags"):
            memory = self._datapath._maps[name]
            memory.delete(memory.items())
        self._apply(configs[0])
        self._datapath.set_authz_mode(AuthzMode.ENFORCE)
        played: list[Played] = []
        chapter: list[Shot] = []
        for step in story.steps:
            if step.packet is not None:
                chapter.append(self._shoot(step, truth))
                continue
            played += self._read(chapter)
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
        return [*played, *self._read(chapter)]

    def _apply(self, config: NodeConfig) -> None:
        self._state = desired_state(config)
        self._node.configure(config)

    def _shoot(self, step: Step, truth: Truth) -> Shot:
        assert step.packet is not None
        way, packet = step.packet
        hook = Hook.INGRESS if way is Way.TUNNEL else Hook.EGRESS
        retval, mark = self._gun.fire(self._datapath.programs[hook], packet, _INGRESS_IFINDEX[way])
        assert retval in (testrun.PASSED, testrun.DROPPED)
        return step, truth.pass_on(way, packet), retval == testrun.PASSED, mark

    def _read(self, chapter: list[Shot]) -> Iterator[Played]:
        """What the events say of the shots of CHAPTER, all under one configuration."""
        records = b"".join(self._datapath.read_records(0))
        events = [_EVENT.from_buffer_copy(records, at) for at in range(0, len(records), _SIZE)]
        events.sort(key=lambda event: event.at_ns)  # they may be of several CPUs
        assert len(events) == len(chapter), "each packet has one event"
        for (step, wanted, passed, mark), event in zip(chapter, events, strict=True):
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
        )
