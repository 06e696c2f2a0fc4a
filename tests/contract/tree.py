"""The project's own files, as the contract tests see them: a fresh clone's, nothing built."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ztlab", "agent", "coordinator")
_BUILT = frozenset({".git", ".venv", "build", "dist", "__pycache__"})


def files(*suffixes: str, under: str = ".") -> Iterator[Path]:
    """Every file of the project whose name ends with one of SUFFIXES (all, if there is none)."""
    for folder, folders, names in os.walk(ROOT / under):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _BUILT and not name.endswith(("_cache", ".egg-info", ".hypothesis"))
        )
        for name in sorted(names):
            if not suffixes or name.endswith(suffixes):
                yield Path(folder, name)


def sources() -> Iterator[Path]:
    """Every Python module of the three programs."""
    for package in PACKAGES:
        yield from files(".py", under=package)


def shown(path: Path) -> str:
    """PATH as people write it: relative to the project."""
    return path.relative_to(ROOT).as_posix()
