"""Tell the service manager how the program stands: systemd's protocol, sd_notify(3).

One datagram per message to the socket in $NOTIFY_SOCKET; where there is none, nobody is told.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

_SEND_S = 5.0  # the manager's queue may be full for a moment, while a machine boots


class Notifier:
    """Speaks for this process and for those forked from it.

    address       path of the manager's socket, or "@" and an abstract name; None: tell nobody
    has_watchdog  does the manager end this program if `alive` is not called for long enough?
    """

    def __init__(self, address: str | None = None, *, has_watchdog: bool = False) -> None:
        self._address = address
        self._has_watchdog = has_watchdog
        self._status = ""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """By $NOTIFY_SOCKET and $WATCHDOG_USEC, and away with them: what this program starts, or
        a library in it, must not speak in its name."""
        watchdog = environment.pop("WATCHDOG_USEC", None)
        environment.pop("WATCHDOG_PID", None)
        address = environment.pop("NOTIFY_SOCKET", None)
        return cls(address, has_watchdog=watchdog is not None)

    def ready(self, status: str) -> None:
        """It does from now on what it is there for; STATUS is what `systemctl status` shows."""
        self._status = status
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """Show TEXT, one line; the same as before is not sent again."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Keep the watchdog quiet; to be called at least twice in its time."""
        if self._has_watchdog:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """It was told to end, and does."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        """A manager that does not listen is no reason to stop working."""
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.settimeout(_SEND_S)
                manager.sendto(message.encode(), address)
        except OSError as error:
            log.warning("cannot tell the service manager %r: %s", message, error)
