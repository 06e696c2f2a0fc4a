"""Who may run: root, and one agent for each run_dir.

Apart from agent/host.py, and without its imports: once this is clear, the programs begin to load.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from agent import state
from ztlab.errors import HostUnfit, ZtError


def require_root() -> None:
    """HostUnfit for anybody else."""
    if os.geteuid() != 0:
        raise HostUnfit("zt-agent run needs root", hint="use sudo, or its systemd unit")


def lock(run_dir: Path) -> IO[bytes]:
    """The lock of RUN_DIR, held until closed; ZtError where another agent holds it."""
    file = open(state.private_directory(run_dir) / "agent.lock", "ab")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ZtError(
            f"another zt-agent runs on {run_dir}", hint="stop it first, or set another run_dir"
        ) from None
    return file
