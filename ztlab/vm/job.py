"""A command as the guest reads it: a shell script, with its directory and its environment."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OUT = "/run/out"  # where the guest sees the directory for results
STATE = "/var/lib/ztlab-guest"  # labs of the guest's own: those of the host do not run in it

# What of the caller's environment a command may depend on: where programs are, how they talk, and
# what was said to this project and to pytest. Nothing else crosses over.
KEPT = frozenset(
    "CI COLUMNS HOME LANG LC_ALL NO_COLOR PATH PYTEST_ADDOPTS SOURCE_DATE_EPOCH TERM TZ VIRTUAL_ENV"
    " LOGNAME USER".split()
)
KEPT_PREFIXES = ("ZT_", "ZTLAB_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a guest runs.

    argv         the command; looked up in the environment's PATH
    cwd          where it runs; the same path as on the host
    environment  all of it
    out          a directory of the host that the guest may write, seen there as /run/out
    is_merged    standard error goes where standard output goes, in order
    """

    argv: Sequence[str]
    cwd: Path
    environment: Mapping[str, str]
    out: Path | None = None
    is_merged: bool = False

    def script(self) -> bytes:
        """The job as a shell script; 126 if its directory is not there."""
        assignments = " ".join(
            f"{name}={shlex.quote(value)}" for name, value in sorted(self.environment.items())
        )
        command = " ".join(shlex.quote(word) for word in self.argv)
        text = (
            f"mkdir -p {STATE}\n"
            f"cd {shlex.quote(str(self.cwd))} || exit 126\n"
            f"exec env -i {assignments} {command}\n"
        )
        return os.fsencode(text)

    def settings(self, engine: str) -> bytes:
        """What guest-init must know, as shell assignments."""
        out = shlex.quote(str(self.out)) if self.out else "''"
        return os.fsencode(f"ENGINE={engine}\nMERGE={int(self.is_merged)}\nOUT={out}\n")


def environment(
    ours: Mapping[str, str], *, engine: str, time_scale: float, more: Mapping[str, str]
) -> dict[str, str]:
    """The guest's environment: what is kept of OURS, what says that this is a guest, and MORE.

    engine      in ZTLAB_VM
    time_scale  in ZTLAB_TIME_SCALE, unless the caller has chosen one himself
    """
    kept = {k: v for k, v in ours.items() if k in KEPT or k.startswith(KEPT_PREFIXES)}
    defaults = {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM": "dumb",
        "ZTLAB_TIME_SCALE": f"{time_scale:g}",
    }
    # Output is a pipe there, and should come as it is made.
    fixed = {"PYTHONUNBUFFERED": "1", "ZTLAB_STATE_DIR": STATE, "ZTLAB_VM": engine}
    return {**defaults, **kept, **fixed, **more}
