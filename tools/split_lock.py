"""Write each program's own lock file from requirements.lock: what its extra needs, and no more.

    python3 tools/split_lock.py

Debian 12's pip takes hashes only from requirements, not from constraints, so a node cannot install
one extra by the whole lock; and it need not have the others' packages.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = {
    "agent": ROOT / "agent" / "deploy" / "agent.lock",
    "coordinator": ROOT / "coordinator" / "deploy" / "coordinator.lock",
}


def plain(name: str) -> str:
    """A distribution's name as package servers compare it: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(extra: str) -> list[str]:
    """What pyproject.toml asks for with EXTRA, as it is written there, the common ones included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


def declared(extra: str) -> set[str]:
    """The distributions that pyproject.toml names for EXTRA, the common ones included."""
    return {plain(re.split(r"[^\w.-]", text)[0]) for text in requirements(extra)}


def entries(lock: str) -> dict[str, str]:
    """Name to entry (version, hashes, and because of whom it is there), in the lock's order."""
    found = re.finditer(r"(?m)^([\w.-]+)==\S+.*\n(?: +.*\n)*", lock)
    return {plain(entry[1]): entry[0] for entry in found}


def because_of(entry: str) -> set[str]:
    """Who needs it: uv's `# via` comment."""
    words = entry.partition("# via")[2].replace("(pyproject.toml)", " ").replace("#", " ").split()
    return {plain(word) for word in words}


def subset(lock: str, names: set[str]) -> str:
    """The entries of LOCK for NAMES and for what these need in turn; KeyError for one without."""
    there = entries(lock)
    wanted = {name: there[name] for name in names}
    while True:
        needed = {n: e for n, e in there.items() if because_of(e) & wanted.keys()}
        if needed.keys() <= wanted.keys():
            return "".join(entry for name, entry in there.items() if name in wanted)
        wanted |= needed


def content(extra: str) -> str:
    """What the lock file of EXTRA must say."""
    lock = (ROOT / "requirements.lock").read_text()
    head = f"# Written by 'make lock': the part of requirements.lock that ztlab[{extra}] needs.\n"
    return head + subset(lock, declared(extra))


if __name__ == "__main__":
    for extra, path in LOCKS.items():
        path.write_text(content(extra))
