"""What the control plane refuses, beside the shared errors; coordinator/api/problems.py knows their
HTTP statuses."""

from __future__ import annotations

from collections.abc import Sequence

from ztlab.errors import ZtError


class Unauthenticated(ZtError):
    """Nobody we know: no token, an expired one, a wrong proof, a setup key that is refused."""


class Forbidden(ZtError):
    """Somebody we know, who may not do this: a revoked node, a role that is not enough."""


class Conflict(ZtError):
    """It would contradict what is there.

    problems  one line per thing in the way, each "path: message"
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
