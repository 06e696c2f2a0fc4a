"""Compile and load the programs with bcc. The only module that knows bcc, which has no types."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import abi
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from ztlab.errors import HostUnfit, ZtError
from ztlab.model.verdict import Hook

SOURCES = Path(__file__).with_name("bpf")
HEADERS = Path("/lib/modules") / os.uname().release / "build"
_MAIN = "zt_wg.c"
_INCLUDE = re.compile(r'#include "(zt_\w+\.h)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Programs and maps in the kernel; they live until `close`, programs also while attached.

    programs  hook to file descriptor
    maps      name to file descriptor
    """

    loader: str
    programs: Mapping[Hook, int]
    maps: Mapping[str, int]
    owner: Any

    def close(self) -> None:
        """Close every file descriptor."""
        self.owner.cleanup()


def load_with_bcc(*, marks: MarkLayout, limits: Limits, l3_offset: int) -> Loaded:
    """Compile and load; needs root, kernel headers and python3-bpfcc, else HostUnfit."""
    if os.geteuid() != 0:
        raise HostUnfit("loading programs into the kernel needs root", hint="run as root")
    bcc, lib = _import_bcc()
    _require_headers()
    flags = [f"-D{name}={value}" for name, value in _defines(marks, limits, l3_offset).items()]
    try:
        module = bcc.BPF(text=flattened(_MAIN).encode(), cflags=flags)
    except Exception as error:  # bcc raises no other type
        raise HostUnfit(
            f"bcc could not compile {_MAIN}: {error}",
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
    maps = {name: lib.bpf_table_fd(module.module, name.encode()) for name in (*abi.MAPS, abi.RING)}
    missing = [name for name, fd in maps.items() if fd < 0]
    if missing:
        raise ZtError(f"the programs have no map {', '.join(missing)}", hint="reinstall the agent")
    # The compiler's pages can go: nothing is compiled after this.
    module.free_bcc_memory()
    return Loaded(loader="bcc", programs=programs, maps=maps, owner=module)


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


def _defines(marks: MarkLayout, limits: Limits, l3_offset: int) -> dict[str, str]:
    return {
        "ZT_BCC": "1",
        "ZT_L3_OFFSET": f"{l3_offset}",
        "ZT_MARK_MASK": f"{marks.mask:#x}u",
        "ZT_MARK_JUDGED": f"{marks.judged:#x}u",
        "ZT_MARK_SHIFT": f"{marks.tag_shift}",
        "ZT_MAX_IDS": f"{limits.ids}",
        "ZT_MAX_NETS": f"{limits.nets}",
        # Both slots share one map.
        "ZT_MAX_PAIRS": f"{2 * limits.pairs}",
        "ZT_MAX_POLICY": f"{2 * limits.policy}",
        "ZT_MAX_FLOWS": f"{limits.flows}",
        "ZT_MAX_STATS": f"{limits.stats}",
        "ZT_RING_PAGES": f"{limits.ring_pages}",
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
