"""A thread that owns what must not be touched by two.

pyroute2's sockets belong to the thread that opened them (in another, generic netlink reads
"connection reset by peer"), and a change of many steps must not meet another one half-way.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, cast

from ztlab.errors import ZtError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Owner:
    """Runs calls in one thread, one after the other; calls from within run at once."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name, self._take_over)
        self._thread: threading.Thread | None = None

    def run(self, call: Callable[[], T]) -> T:
        """What CALL gives or raises, from the owner's thread; ZtError once it was stopped."""
        if threading.current_thread() is self._thread:
            return call()
        try:
            job = self._executor.submit(call)
        except RuntimeError:
            raise ZtError("the agent is stopping") from None
        return job.result()

    def stop(self) -> None:
        """Finish what was begun, then take nothing more."""
        self._executor.shutdown()

    def _take_over(self) -> None:
        self._thread = threading.current_thread()


class Owned(Protocol):
    """Something whose methods belong to an owner."""

    owner: Owner


def owned(method: F) -> F:
    """Run METHOD of an Owned in its owner's thread."""

    @functools.wraps(method)
    def call(self: Owned, *args: Any, **kwargs: Any) -> Any:
        return self.owner.run(functools.partial(method, self, *args, **kwargs))

    return cast(F, call)
