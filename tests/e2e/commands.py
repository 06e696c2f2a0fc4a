"""`ztlab` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ztlab.lab.pace import scaled

ZTLAB = str(Path(sys.executable).parent / "ztlab")


def ztlab(
    *words: str, timeout_s: float = 120.0, **options: Any
) -> subprocess.CompletedProcess[str]:
    """`ztlab WORDS...` to its end, whatever its exit code."""
    return subprocess.run(
        [ZTLAB, *words],
        capture_output=True,
        text=True,
        timeout=scaled(timeout_s),
        stdin=subprocess.DEVNULL,
        **options,
    )


def shown(*words: str) -> Any:
    """What `ztlab WORDS... --json` prints, decoded; it must succeed."""
    done = ztlab(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
