"""Temporary folders that go away even if the program that made them is killed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Whoever is still writing there has lost its starter too, and ends at any moment.
_REMOVE = 'read -r _; for _ in 1 2 3 4 5; do rm -rf -- "$1" && exit; sleep 0.2; done'


@contextmanager
def passing_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder in PARENT, else in $TMPDIR; gone when the block ends, however that happens.

    A shell in a session of its own waits for the end of a pipe whose other end is ours alone, which
    the kernel closes if nobody else does, and then removes the folder.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        remover = subprocess.Popen(
            ["/bin/sh", "-c", _REMOVE, "sh", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for us, and so is a signal to our group
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    with remover:  # closes its input, then waits for its end
        yield folder
