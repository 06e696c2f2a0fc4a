"""Which rules an event's epoch means: rule ids by the first epoch of each policy.

Kept in a folder as well, a file per policy, so that the successor of an agent that was killed names
rules right: the file is there before the policy is in force. The folder is on a tmpfs.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from agent import state

KEPT = 64
RULES_KEPT = 400_000  # of all policies but the last two: about 30 MB


class RuleBook:
    """(first epoch, rule ids), rising; without a folder only in memory.

    known  replaced, never changed: who reads events keeps what held then
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self.known: tuple[tuple[int, tuple[str, ...]], ...] = ((0, ()),)

    @property
    def rules(self) -> tuple[str, ...]:
        """Of the policy in force."""
        return self.known[-1][1]

    def begin(self, epoch: int, rules: tuple[str, ...]) -> None:
        """From EPOCH on RULES are meant; on file before this returns."""
        if self._folder is not None:
            self._folder.mkdir(mode=state.PRIVATE_DIR, exist_ok=True)
            state.write(self._folder / str(epoch), "\n".join(rules).encode())
        known = (*self.known, (epoch, rules))
        kept = known[_first_kept(known) :]
        for gone, _ in known[: len(known) - len(kept)]:
            self._forget(gone)
        self.known = kept

    def take_over(self, epoch: int) -> None:
        """Know what a predecessor wrote up to EPOCH, which is in force; what it had announced
        beyond never came."""
        if self._folder is None:
            return
        with contextlib.suppress(FileNotFoundError):
            found = [int(path.name) for path in self._folder.iterdir() if path.name.isdigit()]
            for late in (number for number in found if number > epoch):
                self._forget(late)
            known = [(0, ()), *((n, self._read(n)) for n in sorted(found) if n <= epoch)]
            self.known = tuple(known[-KEPT:])

    def clear(self) -> None:
        """Forget all: the maps are fresh, and so are their epochs."""
        self.known = ((0, ()),)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self, epoch: int) -> tuple[str, ...]:
        assert self._folder is not None
        content = (self._folder / str(epoch)).read_text(encoding="utf-8")
        return tuple(content.split("\n")) if content else ()

    def _forget(self, epoch: int) -> None:
        if self._folder is not None:
            (self._folder / str(epoch)).unlink(missing_ok=True)


def _first_kept(known: tuple[tuple[int, tuple[str, ...]], ...]) -> int:
    first = max(0, len(known) - KEPT)
    while len(known) - first > 2 and sum(len(r) for _, r in known[first:-2]) > RULES_KEPT:
        first += 1
    return first
