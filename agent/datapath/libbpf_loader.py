"""Load the object that was compiled ahead of time, through libbpf: no compiler, no headers."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
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
    with heard() as said, _opened(built, said) as object_:
        _set_constants(object_, wanted, built)
        _set_sizes(object_, wanted)
        if maps is not None:
            _use(object_, maps)
        for name in abi.PROGRAMS.values():
            _check(library().bpf_program__set_type(_program(object_, name), _SCHED_CLS), name)
        failure = library().bpf_object__load(object_)
        if failure:
            raise _not_taken(-failure, said)
        return _taken_over(object_)


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
    for name in (*abi.MAPS, abi.RINGS):
        _check(library().bpf_map__reuse_fd(_map(object_, name.encode()), maps[name]), name)


def _taken_over(object_: int) -> Loaded:
    """Descriptors of our own: libbpf closes its own with the object."""
    lib = library()
    with ExitStack() as undo:

        def own(fd: int) -> int:
            copy = os.dup(fd)
            undo.callback(os.close, copy)
            return copy

        programs: dict[Hook, int] = {
            hook: own(lib.bpf_program__fd(_program(object_, name)))
            for hook, name in abi.PROGRAMS.items()
        }
        maps = {
            name: own(lib.bpf_map__fd(_map(object_, name.encode())))
            for name in (*abi.MAPS, abi.RINGS)
        }
        release = undo.pop_all().close
    return Loaded(loader="libbpf", programs=programs, maps=maps, release=release)


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
