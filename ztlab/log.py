"""One way to log for the long-running programs: one line per event, UTC, to stderr."""

from __future__ import annotations

import logging
import sys
import time


def setup(program: str, *, verbose: bool = False) -> None:
    """Send the root logger to stderr as "2026-01-31T12:00:00Z LEVEL program.module: message"."""
    formatter = logging.Formatter(
        fmt=f"%(asctime)sZ %(levelname)-7s {program} %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True
    )
