"""Waiting for programs that began before a change, and may still go by what was there."""

from __future__ import annotations

import ctypes
import platform

_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283}


def wait_for_programs() -> bool:
    """Wait until every program that runs now has ended; False where the kernel cannot tell.

    MEMBARRIER_CMD_GLOBAL is synchronize_rcu() (kernel/sched/membarrier.c), and programs run inside
    an RCU read section. A kernel with nohz_full refuses it.
    """
    number = _SYS_MEMBARRIER.get(platform.machine())
    if number is None:
        return False
    global_command = 1
    return int(ctypes.CDLL(None).syscall(number, global_command, 0, 0)) == 0
