"""Who was refused, and why: counted, in the audit log, and slowed down.

Secrets have 256 random bits, so nobody finds one by trying. What a wrong one may cost is bounded
nevertheless: one read of the store, and beyond the limit no row, no line of the log, and an answer
that says when to come back. The right secret passes whatever others at the same address do: a
thousand nodes behind one NAT may enrol at once, and no neighbour locks them out.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from coordinator import audit, counters
from coordinator.errors import Reason
from coordinator.limits import Limiter
from coordinator.settings import Limits
from coordinator.store.engine import Store

log = logging.getLogger(__name__)

_ALL = "all"  # the one bucket of what is not told apart
_PER_SOURCE_ROWS = 5  # at once in the audit log, of one source and reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Somebody was refused.

    what     what was asked for: challenge, enrol, token, rotate, node, admin, login
    source   from where (coordinator/limits.py)
    subject  the node, setup key or administrator it was about; empty where nobody knows
    """

    what: str
    reason: Reason
    source: str
    subject: str = ""


class Refusals:
    """What this process refused since it began, and who has to wait.

    counts  by (what, reason)
    """

    def __init__(self, limits: Limits) -> None:
        self.counts: Counter[tuple[str, Reason]] = Counter()
        self._lock = threading.Lock()
        self._failures = Limiter(limits.failures, limits.failures_per_minute)
        self._challenges = Limiter(limits.challenges, limits.challenges_per_minute)
        self._rows = Limiter(limits.audit_rows, limits.audit_rows_per_hour / 60)
        self._rows_of_one = Limiter(_PER_SOURCE_ROWS, 1)
        self._left_out = 0

    def may_challenge(self, source: str, key: str) -> float:
        """May SOURCE have another challenge for KEY (public, so anybody's to ask)? As `take`."""
        return self._challenges.take(f"{source} {key}")

    def failed(self, refusal: Refusal) -> float:
        """Count it. 0.0: within the limit; else for how many seconds the source has to wait."""
        with self._lock:
            self.counts[refusal.what, refusal.reason] += 1
        counters.refused(refusal.what, refusal.reason)
        wait_s = self._failures.take(f"source {refusal.source}")
        if refusal.subject:
            wait_s = max(wait_s, self._failures.take(f"subject {refusal.subject}"))
        if wait_s:
            with self._lock:
                self.counts[refusal.what, "too_many"] += 1
            counters.refused(refusal.what, "too_many")
        return wait_s

    def note(self, store: Store, refusal: Refusal, now: datetime) -> bool:
        """A row in the audit log and a line in the log, unless there are too many of them.

        Those that were left out are counted in the next row. False: it was left out.
        """
        one = f"{refusal.source} {refusal.what} {refusal.reason}"
        if self._rows_of_one.take(one) or self._rows.take(_ALL):
            with self._lock:
                self._left_out += 1
            return False
        with self._lock:
            left_out, self._left_out = self._left_out, 0
        log.warning(
            "refused %s from %s: %s%s",
            refusal.what,
            refusal.source,
            refusal.reason,
            f" ({refusal.subject})" if refusal.subject else "",
        )
        after = {"reason": refusal.reason, "left_out": left_out}
        actor, name = f"source {refusal.source}", refusal.subject or refusal.source
        try:
            with store.writing() as session:
                audit.record(session, actor, "refuse", refusal.what, name, None, after, now)
        except SQLAlchemyError as error:
            # Who is refused gets the refusal: that it cannot be noted is for the operator.
            log.error("a refusal cannot be noted in the audit log: %s", error)
        return True
