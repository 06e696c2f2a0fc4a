"""A test's body in network, mount and PID namespaces of its own, gone with it whatever happens."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000  # sched.h

F = TypeVar("F", bound=Callable[..., None])


def isolated(function: F) -> F:
    """Run FUNCTION as process 1 of fresh namespaces: loopback up, /run and /sys/fs/bpf empty.

    When it ends the kernel kills every process it started. Its traceback becomes the failure.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _be_parent_of_init(writer, functools.partial(function, *args, **kwargs))
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        if said or status:
            pytest.fail(said or f"ended with status {status}", pytrace=False)

    return run  # type: ignore[return-value]


def _be_parent_of_init(writer: int, body: Callable[[], None]) -> None:
    status = 1
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        init = os.fork()
        if init == 0:
            _be_init(writer, body)
        status = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
    except BaseException:
        os.write(writer, traceback.format_exc().encode())
    finally:
        os._exit(abs(status))


def _be_init(writer: int, body: Callable[[], None]) -> None:
    # The first process of a PID namespace ignores what it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    status = 1
    try:
        for command in (
            "mount --make-rprivate /",
            "mount -t proc proc /proc",
            "mount -t tmpfs run /run",
            "mount -t bpf bpf /sys/fs/bpf",
            "ip link set lo up",
        ):
            subprocess.run(command.split(), check=True, capture_output=True)
        body()
        status = 0
    except BaseException:
        os.write(writer, traceback.format_exc().encode())
    finally:
        os._exit(status)
