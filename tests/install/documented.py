"""The blocks of docs/INSTALL.md, run as an operator would: what is documented is what is tried."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

HERE = Path("/root/install")  # on the machine


def block(title: str) -> str:
    """The block whose fence is "```LANGUAGE TITLE"."""
    text = (HERE / "INSTALL.md").read_text()
    found = re.findall(rf"(?ms)^```\w+ {re.escape(title)}\n(.*?)^```$", text)
    assert len(found) == 1, f"docs/INSTALL.md has {len(found)} blocks called {title}"
    return str(found[0])


def run(title: str, folder: Path = HERE, **variables: str) -> str:
    """What the block TITLE prints, run in FOLDER with VARIABLES set; AssertionError if it fails."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block(title)],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{title}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def command(*words: str, check: bool = True) -> str:
    """What a command prints; AssertionError with all it said if it fails."""
    done = subprocess.run(words, capture_output=True, text=True)
    said = f"{done.stdout}{done.stderr}"
    assert done.returncode == 0 or not check, f"{words}: {done.returncode}\n{said}"
    return done.stdout
