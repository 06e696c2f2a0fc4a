"""Compile and load the programs with bcc. The only module that knows bcc, which has no types."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from agent import abi
from agent.datapath.loaded import Loaded, Wanted
from agent.datapath.sources import MAIN, SOURCES
from ztlab.errors import HostUnfit, ZtError

HEADERS = Path("/lib/modules") / os.uname().release / "build"
_INCLUDE = re.compile(r'#include "(zt_\w+\.h)"')


def load(wanted: Wanted) -> Loaded:
    """Compile and load; needs root, kernel headers and python3-bpfcc, else HostUnfit."""
    if os.geteuid() != 0:
        raise HostUnfit("loading programs into the kernel needs root", hint="run as root")
    bcc, lib = _import_bcc()
    _require_headers()
    flags = [f"-D{name}={value}" for name, value in _defines(wanted).items()]
    try:
        module = bcc.BPF(text=flattened(MAIN).encode(), cflags=flags)
    except Exception as error:  # bcc raises no other type
        raise HostUnfit(
            f"bcc could not compile {MAIN}: {error}",
            hint="the compiler's messages are above; do the kernel headers fit this kernel?",
        ) from error
    try:
        programs = {
            hook: module.load_func(name.encode(), bcc.BPF.SCHED_CLS).fd
            for hook, name in abi.PROGRAMS.items()
        }
    except Exception as error:
        module.cleanup()
        raise HostUnfit(
            f"the kernel did not take the programs: {error}",
            hint="they need root (CAP_BPF, CAP_NET_ADMIN) and a kernel of 5.15 or newer",
        ) from error
    maps = {name: lib.bpf_table_fd(module.module, name.encode()) for name in (*abi.MAPS, abi.RINGS)}
    missing = [name for name, fd in maps.items() if fd < 0]
    if missing:
        module.cleanup()
        raise ZtError(f"the programs have no map {', '.join(missing)}", hint="reinstall the agent")
    # The compiler's pages can go: nothing is compiled after this.
    module.free_bcc_memory()
    return Loaded(loader="bcc", programs=programs, maps=maps, release=module.cleanup)


def flattened(name: str, seen: set[str] | None = None) -> str:
    """The source NAME with our own headers in place of their #include lines: bcc rewrites map
    accesses in the main file only. #line keeps the compiler's messages right."""
    seen = set() if seen is None else seen
    if name in seen:
        return ""
    seen.add(name)
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate((SOURCES / name).read_text().splitlines(), start=1):
        include = _INCLUDE.fullmatch(line)
        if include:
            lines += [flattened(include[1], seen), f'#line {number + 1} "{name}"']
        else:
            lines.append(line)
    return "\n".join(lines)


def _defines(wanted: Wanted) -> dict[str, str]:
    marks, sizes = wanted.marks, wanted.map_sizes()
    return {
        "ZT_BCC": "1",
        "ZT_L3_OFFSET": f"{wanted.l3_offset}",
        "ZT_MARK_MASK": f"{marks.mask:#x}u",
        "ZT_MARK_JUDGED": f"{marks.judged:#x}u",
        "ZT_MARK_SHIFT": f"{marks.tag_shift}",
        "ZT_ROOM_RULES": f"{wanted.limits.rules + 1}",
        "ZT_ROOM_TAGS": f"{wanted.limits.tags}",
        **{name.upper().replace("ZT_", "ZT_MAX_"): f"{size}" for name, size in sizes.items()},
    }


def _import_bcc() -> tuple[Any, Any]:
    try:
        import bcc
        from bcc.libbcc import lib
    except (ImportError, OSError) as error:
        raise HostUnfit(
            f"bcc is not usable: {error}",
            hint="apt-get install python3-bpfcc, and link it into the virtual environment",
        ) from error
    return bcc, lib


def _require_headers() -> None:
    if not (HEADERS / "include").is_dir():
        raise HostUnfit(
            f"bcc needs kernel headers in {HEADERS}",
            hint="install linux-headers of this kernel, or link another version's there",
        )
