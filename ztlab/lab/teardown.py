"""Take a lab away, whatever is left of it. Safe to repeat, and after any crash."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ztlab.errors import DeadlineExceeded, NotFound, ZtError
from ztlab.lab import processes, state
from ztlab.lab.names import check_lab_name
from ztlab.lab.namespaces import forsake_connections, unbind_names
from ztlab.lab.pace import scaled
from ztlab.lab.state import InitProcess

_END_TIMEOUT_S = 20.0
_LOCK_TIMEOUT_S = 10.0


def down(name: str) -> None:
    """Remove lab NAME: its processes, namespaces, names and files. NotFound if there is none."""
    check_lab_name(name)
    if not state.lab_dir(name).exists():
        state.read(name)  # raises NotFound with the list
    with uninterrupted(), state.lock(name, timeout_s=scaled(_LOCK_TIMEOUT_S)):
        if not state.lab_dir(name).exists():
            raise NotFound(f"lab {name!r} was removed by somebody else just now")
        remove(name)


def down_all() -> tuple[str, ...]:
    """Remove every lab of this state directory; their names. One failure does not stop the rest."""
    removed, failures = [], []
    for name in state.names():
        try:
            down(name)
            removed.append(name)
        except NotFound:
            continue
        except ZtError as error:
            failures.append(f"{name}: {error}")
    if failures:
        raise ZtError("\n".join(failures))
    return tuple(removed)


def remove(name: str) -> None:
    """The work itself, by whoever holds the lab's lock."""
    init, names = state.remains(name)
    forsake_connections(names)
    if init is not None:
        end(init)
    unbind_names(names)
    shutil.rmtree(state.lab_dir(name), ignore_errors=False)


def end(init: InitProcess) -> None:
    """Kill a lab's PID 1 and wait until its whole namespace is empty."""
    processes.kill(init)
    deadline = time.monotonic() + scaled(_END_TIMEOUT_S)
    while not processes.is_gone(init):
        if time.monotonic() > deadline:
            waited_s = scaled(_END_TIMEOUT_S)
            raise DeadlineExceeded(
                f"the lab's processes did not end within {waited_s:.0f} s of being killed",
                hint="a process stuck in the kernel (state D)? Try again later",
            )
        time.sleep(0.005)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM off while the block runs: half a teardown helps nobody."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
