"""The node's keys on disk while they change, so that a crash at any moment loses none in use.

state_dir/private.key  what the interface shall have
state_dir/next.key     made, not in use yet: a change that goes on until it is done or abandoned
state_dir/former.key   what was in use before, kept until the coordinator has committed the change

Each change is one file written whole or removed, in an order in which every prefix of it is one of
the stages below.
"""

from __future__ import annotations

import enum
from pathlib import Path

from agent import keys, state
from agent.keys import NodeKey


class Stage(enum.Enum):
    """How far a change of the key is, as far as the files say."""

    NONE = "none"
    PREPARED = "prepared"
    SWITCHED = "switched"


class KeyFiles:
    """The keys of one state directory; made at first use, found again at every start."""

    def __init__(self, directory: Path) -> None:
        self._private, self._next, self._former = (
            directory / f"{name}.key" for name in ("private", "next", "former")
        )
        self.current = keys.load_or_make(self._private)
        self.next = _found(self._next)
        self.former = _found(self._former)
        # What a crash left half-way: a copy of the key in use says nothing.
        if self.former is not None and self.former.public_key == self.current.public_key:
            self._drop_former()
        is_in_use = self.next is not None and self.next.public_key == self.current.public_key
        if is_in_use or self.former is not None:
            self.abandon()

    @property
    def stage(self) -> Stage:
        """Which of the two extra keys there is."""
        if self.former is not None:
            return Stage.SWITCHED
        return Stage.PREPARED if self.next is not None else Stage.NONE

    @property
    def public_keys(self) -> frozenset[str]:
        """Of an interface that is ours, whenever the agent that made it was cut off."""
        known = (self.current, self.next, self.former)
        return frozenset(key.public_key for key in known if key is not None)

    def prepare(self) -> NodeKey:
        """Make the next key."""
        self.next = keys.make(self._next)
        return self.next

    def switch(self) -> NodeKey:
        """The next key is the current one, the current one the former."""
        assert self.next is not None, "prepare comes first"
        keys.store(self._former, self.current)
        keys.store(self._private, self.next)
        self.current, self.former = self.next, self.current
        self.abandon()
        return self.current

    def go_back(self) -> NodeKey:
        """The former key is the current one again, the one in use the next."""
        assert self.former is not None, "switch comes first"
        keys.store(self._next, self.current)
        keys.store(self._private, self.former)
        self.current, self.next = self.former, self.current
        self._drop_former()
        return self.current

    def settle(self) -> None:
        """The change is committed: the former key is destroyed."""
        self._drop_former()

    def abandon(self) -> None:
        """The next key will not be used."""
        state.remove(self._next)
        self.next = None

    def _drop_former(self) -> None:
        state.remove(self._former)
        self.former = None


def _found(path: Path) -> NodeKey | None:
    return keys.load_or_make(path) if path.exists() else None
