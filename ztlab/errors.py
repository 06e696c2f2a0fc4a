"""The errors an operator can act on.

ZtError                 what broke, then what to try; exit code 1
├── SchemaError         a file or a message is not what it should be; carries the path inside it
├── Refused             the other side understood and said no (carries the HTTP status, if any)
├── Unreachable         the other side did not answer
├── NotFound            no lab, node, process or object of that name
├── DeadlineExceeded    a state that was waited for did not come
└── HostUnfit           this machine cannot run it: not root, no kernel feature, a package missing;
                        exit code 3

A bug is not a ZtError and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class ZtError(Exception):
    """A failure the operator can act on: what broke, then what to try. Bugs are not ZtErrors."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class SchemaError(ZtError):
    """A value does not fit its schema.

    problems  one line per fault, each already naming its path ("nodes.bob.listen[0]: want …")
    """

    def __init__(self, problems: Sequence[str], *, hint: str = "") -> None:
        super().__init__("\n".join(problems), hint=hint)
        self.problems = tuple(problems)


class Refused(ZtError):
    """The other side understood the request and said no.

    status         the HTTP status; None where the refusal did not come over HTTP
    retry_after_s  not sooner than so many seconds from now (RFC 9110, Retry-After); 0: it said none
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: int = 0,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.status, self.retry_after_s = status, retry_after_s


class Unreachable(ZtError):
    """The other side did not answer: no route, no listener, a broken stream."""


class NotFound(ZtError):
    """Nothing of that name is there."""


class DeadlineExceeded(ZtError):
    """A state that was waited for did not come in time: which one, and what was seen instead."""


class HostUnfit(ZtError):
    """This machine cannot run it; the hint says what is missing and how to get it."""

    exit_code = 3
