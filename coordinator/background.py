"""What a running coordinator does beside answering: each is a thread, and so a greenlet."""

from __future__ import annotations

from coordinator.hub import Hub
from coordinator.listener import Listener
from coordinator.store.engine import Store


class Background:
    """Started with the service, closed with it."""

    def __init__(self, store: Store, hub: Hub) -> None:
        self._listener = Listener(store, hub) if store.is_shared else None

    def start(self) -> None:
        """Begin; returns at once."""
        if self._listener is not None:
            self._listener.start()

    def close(self) -> None:
        """Let them end."""
        if self._listener is not None:
            self._listener.close()
