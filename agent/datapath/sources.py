"""The C sources of the programs, the object compiled from them ahead of time, and which goes with
which: the object carries the SHA-256 of its sources, and a small file beside it says it too."""

from __future__ import annotations

import hashlib
from pathlib import Path

SOURCES = Path(__file__).with_name("bpf")
OBJECT = Path(__file__).with_name("zt_wg.o")
MAIN = "zt_wg.c"


def digest(folder: Path | None = None) -> str | None:
    """SHA-256 in hexadecimal over the names, lengths and bytes of every C file in FOLDER (SOURCES),
    sorted by name; None where there is none."""
    files = sorted(path for path in (folder or SOURCES).glob("*") if path.suffix in (".c", ".h"))
    if not files:
        return None
    result = hashlib.sha256()
    for path in files:
        data = path.read_bytes()
        result.update(f"{path.name}\0{len(data)}\0".encode() + data)
    return result.hexdigest()


def statement_of(built: Path) -> Path:
    """The file beside the object BUILT that says of which sources it is."""
    return built.with_suffix(".sha256")


def stated(built: Path) -> str | None:
    """What that file says; None where it is not there."""
    try:
        return statement_of(built).read_text(encoding="ascii").strip()
    except OSError:
        return None
