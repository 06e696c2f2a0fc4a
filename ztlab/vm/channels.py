"""The pipes between a guest and the host."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(slots=True)
class Pipe:
    """One direction: the guest's end is inherited by what runs the guest, ours is read here."""

    host: int
    guest: int

    @staticmethod
    def make() -> Pipe:
        host, guest = os.pipe2(os.O_CLOEXEC)
        return Pipe(host, guest)

    def close_guest(self) -> None:
        """Ours alone from now on: the end of file is seen when the guest is gone."""
        if self.guest >= 0:
            os.close(self.guest)
            self.guest = -1

    def close(self) -> None:
        self.close_guest()
        if self.host >= 0:
            os.close(self.host)
            self.host = -1


@dataclass(slots=True)
class Channels:
    """What the guest says.

    console  the kernel, and the program that runs it
    control  guest-init: `up RELEASE`, `alive`, `exit CODE`
    """

    stdout: Pipe = field(default_factory=Pipe.make)
    stderr: Pipe = field(default_factory=Pipe.make)
    control: Pipe = field(default_factory=Pipe.make)
    console: Pipe = field(default_factory=Pipe.make)

    def all(self) -> tuple[Pipe, ...]:
        return self.stdout, self.stderr, self.control, self.console
