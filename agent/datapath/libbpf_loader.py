"""Load the object that was compiled ahead of time, through libbpf: no compiler, no headers."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from agent import abi
from agent.datapath import sources
from agent.datapath.libbpf import heard, library
from agent.datapath.loaded import Loaded, Wanted
from ztlab.errors import HostUnfit, ZtError
from ztlab.model.verdict import Hook

_SCHED_CLS = 3  # BPF_PROG_TYPE_SCHED_CLS
_CONSTANTS = b".rodata.zt_load"
_SHARED = (*abi.MAPS, abi.RINGS)
_LINES_SHOWN = 40


def load(wanted: Wanted, *, maps: Mapping[str, int] | None = None) -> Loaded:
    """Load the object, onto MAPS (of exactly its shapes) where given.

    HostUnfit where it or libbpf is not there, or the kernel does not take it (with libbpf's
    messages and the verifier's log); ZtError where it is not of this version.
    """
    built = sources.OBJECT
    if not built.exists():
        raise HostUnfit(
            f"there is no compiled object {built}",
            hint="python -m agent.datapath.build compiles it (clang, libbpf-dev)",
        )
    with heard() as said, ExitStack() as undo:

        def prepared(programs: Collection[str]) -> int:
            object_ = undo.enter_context(_opened(built, said))
            _prepare(object_, wanted, built, programs)
            return object_

        whole = prepared(())
        if maps is not None:
            _use(whole, maps)
        _load(whole, said)
        shared = {name: _fd(whole, name) for name in _SHARED}
        # Each program from an object of its own, onto the same maps: nearly all of the time goes
        # into verifying them, and the kernel verifies two at once.
        objects = {hook: prepared((name,)) for hook, name in abi.PROGRAMS.items()}
        for object_ in objects.values():
            _use(object_, shared)
        with ThreadPoolExecutor(len(objects), "verify") as verifying:
            for done in [verifying.submit(_load, each, said) for each in objects.values()]:
                done.result()
        return _taken_over(objects, shared)


def _prepare(object_: int, wanted: Wanted, built: Path, programs: Collection[str]) -> None:
    """Make an opened object ready to be loaded with PROGRAMS only."""
    _set_constants(object_, wanted, built)
    _set_sizes(object_, wanted)
    for name in abi.PROGRAMS.values():
        program = _program(object_, name)
        _check(library().bpf_program__set_type(program, _SCHED_CLS), name)
        _check(library().bpf_program__set_autoload(program, name in programs), name)


def _load(object_: int, said: Sequence[str]) -> None:
    failure = library().bpf_object__load(object_)
    if failure:
        raise _not_taken(-failure, said)


@contextmanager
def _opened(built: Path, said: Sequence[str]) -> Iterator[int]:
    """The object, until the block ends; what lives on is what somebody holds a descriptor of."""
    ctypes.set_errno(0)
    object_ = library().bpf_object__open_file(os.fsencode(built), None)
    if not object_:
        why = "; ".join(said) or os.strerror(ctypes.get_errno())
        raise ZtError(f"{built} is not an object that libbpf can read: {why}", hint=_REBUILD)
    try:
        yield object_
    finally:
        library().bpf_object__close(object_)


_REBUILD = "rebuild it (python -m agent.datapath.build), or reinstall the agent"


def _set_constants(object_: int, wanted: Wanted, built: Path) -> None:
    """Write what the programs read as constants, after looking whose object this is."""
    size = ctypes.c_size_t()
    data = library().bpf_map__initial_value(_map(object_, _CONSTANTS), ctypes.byref(size))
    if not data or size.value != ctypes.sizeof(abi.Load):
        raise ZtError(
            f"{built} has constants of {size.value} bytes, agent/abi.py says "
            f"{ctypes.sizeof(abi.Load)}",
            hint=_REBUILD,
        )
    constants = abi.Load.from_address(data)
    _require_same_sources(bytes(constants.sources).decode(errors="replace").rstrip("\0"), built)
    constants.l3_offset = wanted.l3_offset
    constants.mark_mask = wanted.marks.mask
    constants.mark_judged = wanted.marks.judged
    constants.mark_shift = wanted.marks.tag_shift
    constants.rules = wanted.limits.rules + 1
    constants.tags = wanted.limits.tags


def _require_same_sources(of_object: str, built: Path) -> None:
    """ZtError unless the object was compiled from the sources of this agent."""
    known = {
        f"{sources.statement_of(built).name} beside it": sources.stated(built),
        f"the sources in {sources.SOURCES}": sources.digest(),
    }
    if not any(known.values()):
        raise ZtError(f"nothing says of which sources {built} must be", hint=_REBUILD)
    for who, said in known.items():
        if said is not None and said != of_object:
            raise ZtError(
                f"{built} is stale: it was compiled from sources {of_object[:12] or '(none)'}, "
                f"{who} say {said[:12]}",
                hint=_REBUILD,
            )


def _set_sizes(object_: int, wanted: Wanted) -> None:
    for name, size in wanted.map_sizes().items():
        result = library().bpf_map__set_max_entries(_map(object_, name.encode()), size)
        _check(result, name)


def _use(object_: int, maps: Mapping[str, int]) -> None:
    for name in _SHARED:
        _check(library().bpf_map__reuse_fd(_map(object_, name.encode()), maps[name]), name)


def _taken_over(objects: Mapping[Hook, int], maps: Mapping[str, int]) -> Loaded:
    """Descriptors of our own: libbpf closes its own with the objects."""
    with ExitStack() as undo:

        def own(fd: int) -> int:
            copy = os.dup(fd)
            undo.callback(os.close, copy)
            return copy

        programs: dict[Hook, int] = {
            hook: own(library().bpf_program__fd(_program(object_, abi.PROGRAMS[hook])))
            for hook, object_ in objects.items()
        }
        kept = {name: own(fd) for name, fd in maps.items()}
        release = undo.pop_all().close
    return Loaded(loader="libbpf", programs=programs, maps=kept, release=release)


def _fd(object_: int, name: str) -> int:
    return int(library().bpf_map__fd(_map(object_, name.encode())))


def _map(object_: int, name: bytes) -> Any:
    found = library().bpf_object__find_map_by_name(object_, name)
    if not found:
        raise ZtError(f"the programs have no map {name.decode()}", hint=_REBUILD)
    return found


def _program(object_: int, name: str) -> Any:
    found = library().bpf_object__find_program_by_name(object_, name.encode())
    if not found:
        raise ZtError(f"the object has no program {name}", hint=_REBUILD)
    return found


def _check(result: int, name: str) -> None:
    if result:
        raise ZtError(f"libbpf refused to set up {name}: {os.strerror(-result)}", hint=_REBUILD)


def _not_taken(number: int, said: Sequence[str]) -> HostUnfit:
    lines = "\n".join(said).splitlines()
    if len(lines) > _LINES_SHOWN:
        lines = [f"(the last {_LINES_SHOWN} of {len(lines)} lines)", *lines[-_LINES_SHOWN:]]
    if number == errno.EPERM:
        hint = "it needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    else:
        hint = "a kernel of 5.15 or newer, with BPF and its ring buffer, takes it"
    shown = "\n  ".join(["", *lines])
    return HostUnfit(f"the kernel did not take the object: {os.strerror(number)}{shown}", hint=hint)
