"""The programs on their way into the kernel, in a thread of its own.

Most of an agent's start is the kernel's verifier. It begins as soon as the settings are known, and
meanwhile the rest of the agent is imported: so nothing here, nor what it imports, may import
pyroute2 or agent/daemon.py.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from agent.datapath.pins import Pins
from agent.settings import Settings
from ztlab.errors import HostUnfit

log = logging.getLogger(__name__)


class Loading:
    """What SETTINGS ask for, from `with` on. Leaving it waits, and lets go of what nobody took.

    pins             where programs and maps are pinned; None: they end with the agent
    unpinned_reason  why; "" if they are pinned
    """

    def __init__(self, settings: Settings) -> None:
        self.marks, self.limits = MarkLayout.from_mask(settings.datapath.mark_mask), Limits()
        self.unpinned_reason = ""
        self.pins: Pins | None = None
        try:
            self.pins = Pins(settings.wireguard.interface, settings.run_path)
        except HostUnfit as error:
            self.unpinned_reason = str(error)
            log.warning(
                "flows and counters will not outlive this agent: %s (%s)", error, error.hint
            )
        self._thread = ThreadPoolExecutor(1, "load")
        self._future = self._thread.submit(self._load, settings)
        self._is_taken = False

    def take(self) -> Datapath:
        """Wait until all is loaded; it is the caller's from now on. HostUnfit, ZtError as in
        Datapath.load."""
        datapath = self._future.result()
        self._is_taken = True
        return datapath

    def wait(self) -> None:
        """Until nothing is being loaded any more, well or not: pins can be taken away now."""
        self._thread.shutdown()

    def _load(self, settings: Settings) -> Datapath:
        return Datapath.load(
            marks=self.marks,
            limits=self.limits,
            loader=settings.datapath.loader,
            pins=self.pins,
            run_dir=settings.run_path if self.pins else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wait()
        if not self._is_taken and self._future.exception() is None:
            self._future.result().abandon()
