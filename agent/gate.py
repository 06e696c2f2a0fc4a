"""authz_mode in the two places that must agree about it: the programs' word, and the belt.

The belt drops what no program judged, so it is on only while they judge: to enforce the word comes
first and then the belt, to observe the other way round. One lock holds the two together, and no
configuration is applied under it: a switch takes effect in the midst of a change of any size.
"""

from __future__ import annotations

import threading
from typing import Literal

from agent.datapath import belt
from agent.datapath.datapath import Datapath
from agent.datapath.marks import MarkLayout
from ztlab.errors import ZtError
from ztlab.model.verdict import AuthzMode


class Gate:
    """The local switches of one interface. Any thread may throw them and look after the belt."""

    def __init__(self, interface: str, marks: MarkLayout, mode: AuthzMode) -> None:
        """MODE is what shall be, once there are programs."""
        self._interface, self._marks = interface, marks
        self._lock = threading.Lock()
        self._datapath: Datapath | None = None
        self._mode = mode
        self._is_belted = False

    def open(self, datapath: Datapath, mode: AuthzMode) -> None:
        """From now on DATAPATH's programs are switched, first to MODE; the belt stays as it is."""
        with self._lock:
            self._datapath, self._mode = datapath, mode
            datapath.set_authz_mode(mode)

    def close(self) -> None:
        """Switch nothing any more; all stays as it is."""
        with self._lock:
            self._datapath = None

    @property
    def mode(self) -> AuthzMode:
        """What the programs do now."""
        return self._mode

    @property
    def is_belted(self) -> bool:
        """Was the belt on, when it was last changed or looked at?"""
        return self._is_belted

    def set_mode(self, mode: AuthzMode) -> None:
        """Without a gap: the belt holds only while the programs set the judged bit and judge."""
        with self._lock:
            datapath = self._live()
            if mode is AuthzMode.ENFORCE:
                datapath.set_authz_mode(mode)
                self._mode = mode  # from here on the watch puts on a belt that is missing
                self._put_on()
            else:
                self._take_off()
                self._mode = mode
                datapath.set_authz_mode(mode)

    def set_logging(
        self, enabled: bool, granularity: Literal["flow", "packet"], *, denials_per_s: int
    ) -> None:
        """Takes effect with the next packet."""
        with self._lock:
            self._live().set_logging(enabled, granularity, denials_per_s=denials_per_s)

    def fit_belt(self) -> None:
        """Have it on or off, as the mode says; one that is on stays, with its count."""
        with self._lock:
            if self._mode is not AuthzMode.ENFORCE:
                self._take_off()
            elif not belt.is_installed(self._interface, self._marks):
                self._put_on()

    def repair_belt(self) -> bool:
        """Put the belt on again where it must be and is not; True where that was needed."""
        with self._lock:
            enforces = self._mode is AuthzMode.ENFORCE
            if not enforces or belt.is_installed(self._interface, self._marks):
                return False
            self._put_on()
            return True

    def look(self) -> None:
        """See whether the belt is on."""
        with self._lock:
            self._is_belted = belt.dropped_packets(self._interface) is not None

    def belt_drops(self) -> int:
        """Packets that came out of the tunnel unjudged since the belt was put on, as of now."""
        enforces = self._mode is AuthzMode.ENFORCE
        return (belt.dropped_packets(self._interface) or 0) if enforces else 0

    def _put_on(self) -> None:
        belt.install(self._interface, self._marks)
        self._is_belted = True

    def _take_off(self) -> None:
        belt.remove(self._interface)
        self._is_belted = False

    def _live(self) -> Datapath:
        if self._datapath is None:
            raise ZtError("the agent is stopping")
        return self._datapath
