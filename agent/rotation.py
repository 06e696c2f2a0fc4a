"""The node changes its WireGuard key, in a thread of its own, and across restarts.

PREPARED  the new key is made, proved and announced; peers take it up, with no prefixes
SWITCHED  the interface has it; the coordinator is to move the prefixes to it
NONE      it is the node's key, or the change was undone

Which of them holds is on disk (agent/keyfiles.py), and what the coordinator knows is asked; nothing
else is remembered. Every step may be repeated, so a restart goes on with the step it finds.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from agent.keyfiles import KeyFiles, Stage
from agent.keys import NodeKey
from ztlab.client.node import NodeClient
from ztlab.errors import Refused, Unreachable, ZtError
from ztlab.model.keys import KeyChange

log = logging.getLogger(__name__)

T = TypeVar("T")
WAIT_S = 30  # for peers, unless the operator said otherwise
POLL_S = 0.1
LONGEST_POLL_S = 1.0
COMMIT_S = 1.5  # no coordinator for so long after the switch: back to the key that the peers have
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 15.0


class Ask(Protocol):
    """Makes one call of the coordinator as this node; ZtError where it fails."""

    def __call__(self, call: Callable[[NodeClient], T]) -> T: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationStatus:
    """What an operator may know of it.

    client_id    of the key that is in use
    next_id      of the key to come, None: none is
    waiting_for  peers that have not acknowledged it: the first of them, by name
    outcome      how the last one in this agent's life ended: done, undone, None: none did
    without      done: the peers that were not waited for any longer
    error        why it does not go on, or was undone
    """

    stage: str
    client_id: str
    next_id: str | None = None
    waiting_for: tuple[str, ...] = ()
    outcome: str | None = None
    without: tuple[str, ...] = ()
    error: str | None = None


class Rotation:
    """Carries out one change of the key after the other, when asked to or when one was cut off.

    use  gives the interface and the session a key; raises ZtError where that fails
    ask  one call of the coordinator
    """

    def __init__(self, files: KeyFiles, *, ask: Ask, use: Callable[[NodeKey], None]) -> None:
        self._files = files
        self._ask, self._use = ask, use
        self._wait_s = WAIT_S
        self._lock = threading.Lock()
        self._go, self._stop = threading.Event(), threading.Event()
        self._notes = RotationStatus(stage="none", client_id="")
        self.ended = {"done": 0, "undone": 0}
        self._thread = threading.Thread(target=self._run, name="rotation", daemon=True)

    def start(self) -> None:
        """Go on with what was cut off, if anything was."""
        if self._files.stage is not Stage.NONE:
            log.info("a change of the key was cut off: going on (%s)", self._files.stage.value)
            self._go.set()
        self._thread.start()

    def stop(self) -> None:
        """Leave off; what is not done goes on at the next start."""
        self._stop.set()
        self._go.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1)

    def begin(self, wait_s: int) -> None:
        """Change the key. ZtError if it is being changed.

        wait_s  seconds to wait for peers that do not acknowledge the new key
        """
        if not 1 <= wait_s <= 3600:
            raise ZtError(f"want to wait 1 to 3600 seconds for peers, got {wait_s}")
        with self._lock:
            if self._go.is_set() or self._files.stage is not Stage.NONE:
                raise ZtError(
                    "the key is being changed already",
                    hint="`zt-agent status` says how far it is",
                )
            self._wait_s = wait_s
            self._notes = RotationStatus(stage="none", client_id="")
            self._files.prepare()
            self._go.set()

    @property
    def status(self) -> RotationStatus:
        """How far it is; any thread may ask."""
        files = self._files
        coming = files.next
        return replace(
            self._notes,
            stage=files.stage.value,
            client_id=files.current.client_id,
            next_id=coming.client_id if coming else None,
        )

    # --- the thread ---

    def _run(self) -> None:
        while True:
            self._go.wait()
            pause_s = FIRST_PAUSE_S
            while self._files.stage is not Stage.NONE and not self._stop.is_set():
                if not self._attempt():
                    self._stop.wait(pause_s)
                    pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
            if self._stop.is_set():
                return
            self._go.clear()

    def _attempt(self) -> bool:
        """One stage further; False: not now, and the notes say why."""
        try:
            if self._files.stage is Stage.PREPARED:
                self._announce_and_switch()
            else:
                self._commit()
            return True
        except ZtError as error:
            self._note(error)
        except Exception:
            log.exception("the change of the key failed on a bug; it goes on")
        return False

    def _note(self, error: ZtError) -> None:
        if str(error) != self._notes.error:
            log.warning("the change of the key does not go on yet: %s", error)
        self._notes = replace(self._notes, error=str(error))

    def _announce_and_switch(self) -> None:
        old, new = self._files.current, self._files.next
        assert new is not None
        try:
            found = self._announced(old, new)
            while found.state == "announced":
                self._notes = replace(self._notes, waiting_for=found.waiting_for, error=None)
                if self._stop.wait(self._poll_s):
                    return
                found = self._ask(lambda client: client.rotation())
        except Refused as refusal:
            if refusal.status == 401 and self._is_known(new):
                found = None  # committed, and the answer never came: so the key is in use
            elif _is_final(refusal):
                self._undo(refusal)
                return
            else:
                raise
        without = found.waiting_for if found else ()
        self._notes = replace(self._notes, waiting_for=(), without=without, error=None)
        self._switch()

    @property
    def _poll_s(self) -> float:
        return min(LONGEST_POLL_S, max(POLL_S, self._wait_s / 100))

    def _announced(self, old: NodeKey, new: NodeKey) -> KeyChange:
        return self._ask(
            lambda client: client.rotate(
                public_key=old.public_key,
                prove=old.prove,
                new_public_key=new.public_key,
                new_prove=new.prove,
                wait_s=self._wait_s,
            )
        )

    def _is_known(self, key: NodeKey) -> bool:
        """Does the coordinator give this node a token for KEY?"""
        try:
            self._ask(lambda client: client.renew(public_key=key.public_key, prove=key.prove))
        except Refused:
            return False
        return True

    def _switch(self) -> None:
        began = time.monotonic()
        new = self._files.switch()
        try:
            self._use(new)
        except ZtError as error:
            self._go_back()
            self._undo(error)
            return
        log.info("the interface has the new key, client ID %s", new.client_id)
        self._commit(began)

    def _commit(self, began: float | None = None) -> None:
        """Tell the coordinator, for COMMIT_S; while it cannot be told, the old key is used on.

        The prefixes are with the old key until it knows: without it, nothing would pass.
        """
        began = time.monotonic() if began is None else began
        new, former = self._files.current, self._files.former
        assert former is not None
        while True:
            try:
                self._ask(lambda client: client.commit_rotation(new.public_key))
                break
            except Refused as refusal:
                # 401: a store that was set back may know the former key only.
                if _is_final(refusal) or (refusal.status == 401 and self._is_known(former)):
                    self._go_back()
                    self._undo(refusal)
                    return
                error: ZtError = refusal
            except Unreachable as unreachable:
                error = unreachable
            if time.monotonic() - began > COMMIT_S:
                self._go_back()
                raise error
            if self._stop.wait(POLL_S):
                return
        self._files.settle()
        self._end("done", None)
        log.info("the key was changed: client ID %s, before %s", new.client_id, former.client_id)

    def _go_back(self) -> None:
        log.warning("back to the key that the peers know")
        self._use(self._files.go_back())

    def _undo(self, why: ZtError) -> None:
        with contextlib.suppress(ZtError):
            self._ask(lambda client: client.cancel_rotation())
        self._files.abandon()
        self._end("undone", str(why))
        log.error("the key stays as it was: %s", why)

    def _end(self, outcome: str, error: str | None) -> None:
        self.ended[outcome] += 1
        self._notes = replace(self._notes, outcome=outcome, error=error, waiting_for=())


def _is_final(refusal: Refused) -> bool:
    """Would the same be refused again?"""
    status = refusal.status
    return status is not None and 400 <= status < 500 and status not in (401, 408, 429)
