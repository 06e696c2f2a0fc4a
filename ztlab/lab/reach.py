"""What the unprivileged coordinator must be able to read, and which directories are in its way.

A project in a 0700 home directory cannot be read by the coordinator's user. The lab never changes a
mode on the host; in the coordinator's own mount namespace it covers the closed directories with
empty ones that hold only the way to the project.
"""

from __future__ import annotations

import importlib.util
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from ztlab.errors import HostUnfit


def program_directories() -> tuple[Path, ...]:
    """Where the coordinator's code is: interpreter, environment, and the packages' own places."""
    roots = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent}
    for package in ("ztlab", "coordinator"):
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations if spec else None) or ():
            roots.add(Path(location).parent)
    return tuple(sorted(roots))


def obstacles(paths: Iterable[Path]) -> tuple[list[str], list[str]]:
    """(cover, uncover) for PATHS, as ztlab.lab.init takes them: which closed directories hide which
    of them. HostUnfit if a path is itself closed: no mount can open that."""
    cover: set[Path] = set()
    uncover: set[Path] = set()
    for path in paths:
        if any(path.is_relative_to(other) for other in uncover):
            continue
        closed = [parent for parent in reversed(path.parents) if not _is_open(parent)]
        if not _is_open(path):
            raise HostUnfit(
                f"{path} is closed to other users, and the coordinator runs as one",
                hint=f"chmod -R o+rX {path}",
            )
        if closed:
            cover.add(closed[0])
            uncover.add(path)
    return [str(p) for p in sorted(cover)], [str(p) for p in sorted(uncover)]


def _is_open(directory: Path) -> bool:
    return bool(directory.stat().st_mode & stat.S_IXOTH)
