"""What the control plane refuses, beside the shared errors; coordinator/api/problems.py knows their
HTTP statuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ztlab.errors import ZtError

Reason = Literal[
    "unknown_token",
    "expired_token",
    "unknown_setup_key",
    "expired_setup_key",
    "used_setup_key",
    "revoked_setup_key",
    "unknown_challenge",
    "expired_challenge",
    "other_challenge",
    "wrong_proof",
    "unknown_key",
    "former_key",
    "revoked_node",
    "role",
    "malformed",
    "too_many",
]
"""Why somebody was refused; a label of a counter, so there are few, and none is free text."""


class Unauthenticated(ZtError):
    """Nobody we know: no token, an expired one, a wrong proof, a setup key that is refused.

    reason   what exactly it was (coordinator/refusals.py has them): for counters and the audit log,
             never for whoever is refused
    subject  the node or setup key it was about, where that is known
    """

    def __init__(
        self, message: str, *, reason: Reason = "unknown_token", subject: str = "", hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.subject = subject


class Forbidden(ZtError):
    """Somebody we know, who may not do this: a revoked node, a role that is not enough.

    reason, subject  as with Unauthenticated
    """

    def __init__(
        self, message: str, *, reason: Reason = "role", subject: str = "", hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.subject = subject


class TooMany(ZtError):
    """More of this than one place may ask for; it may again after RETRY_AFTER_S seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Conflict(ZtError):
    """It would contradict what is there.

    problems  one line per thing in the way, each "path: message"
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class PreconditionFailed(ZtError):
    """The object is not as the request says that it knows it."""


class PreconditionMissing(ZtError):
    """A change of what exists, which does not say what it believes to change."""
