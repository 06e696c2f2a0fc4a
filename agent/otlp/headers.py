"""Headers that a collector wants, from a file: a token in them is in no argument list and no log.

A line for each: `Name: value`; empty lines and those that begin with # are for people.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from agent import state
from ztlab.errors import SchemaError

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2, a token
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")  # section 5.5, in ASCII
_OURS = frozenset(
    {"content-type", "content-encoding", "content-length", "transfer-encoding", "host"}
)
_HINT = "write Name: value, each on a line of its own"


class HeadersFile:
    """The headers in PATH, read again when the file is another one; None: there are none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._found: Mapping[str, str] = {}
        self.read()

    def read(self) -> Mapping[str, str]:
        """The headers as they are now.

        SchemaError names the file and each line at fault and never what stands there.
        """
        if self._path is None:
            return self._found
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise SchemaError([f"{self._path}: cannot read it: {error.strerror}"]) from error
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode, status.st_uid)
        if stamp != self._stamp:
            self._found = _parsed(self._path)
            self._stamp = stamp
        return self._found


def _parsed(path: Path) -> Mapping[str, str]:
    found: dict[str, str] = {}
    problems = []
    for number, line in enumerate(state.private_text(path).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            name, value = _header(line)
            if name.lower() in {known.lower() for known in found}:
                raise ValueError("this header is there already")
            found[name] = value
        except ValueError as error:
            problems.append(f"{path}: line {number}: {error}")
    if problems:
        raise SchemaError(problems, hint=_HINT)
    return found


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    value = value.strip(" \t")
    if not (colon and _NAME.fullmatch(name) and _VALUE.fullmatch(value)):
        raise ValueError("want Name: value, in ASCII")
    if name.lower() in _OURS:
        raise ValueError(f"{name.lower()} is not for this file to say")
    return name, value
