"""zt-agent run: one agent as a process, from its settings to the signal that ends it."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from agent import exclusive, settings
from agent.loading import Loading
from ztlab.errors import ZtError
from ztlab.notify import Notifier


def serve(
    config_path: Path, *, standalone_path: Path | None = None, remove_on_exit: bool = False
) -> None:
    """Run the agent until SIGTERM or SIGINT; ZtError where it cannot start.

    SIGHUP reads the preshared keys again. What is in force stays in force when it ends, unless
    REMOVE_ON_EXIT.
    """
    notifier = Notifier.from_environment()
    loaded = settings.load(config_path)
    exclusive.require_root()
    if standalone_path is None and loaded.coordinator is None:
        raise ZtError(
            f"{config_path} names no [coordinator]",
            hint="add one, or give the whole state with --standalone FILE",
        )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to read again
    with exclusive.lock(loaded.run_path), Loading(loaded) as programs:
        from agent.daemon import Agent  # half of all that there is to import, while they load

        agent = Agent(loaded, standalone_path, notifier, programs)
        signal.signal(signal.SIGHUP, lambda *_: agent.reload_soon())
        try:
            agent.start(stop)
            stop.wait()
        finally:
            notifier.stopping()
            programs.wait()
            agent.stop(remove=remove_on_exit)
