"""Between which instants the rows of a table lie, for each SIZE of its numbers in a row.

Rows are numbered as they are stored, and an event that waited at a node is stored late: numbers
rise with time nearly, and not quite. A search by time reads here, a few bytes for thousands of
rows, which numbers it can leave out. What a span says may be too wide and is never too narrow.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from coordinator.store.models import SpanRow

SIZE = 4096
LOG, AUDIT = "log", "audit"


def note(session: Session, of: str, numbers: range, earliest: datetime, latest: datetime) -> None:
    """Rows with these NUMBERS are stored in SESSION's transaction, between EARLIEST and LATEST."""
    for number in range(numbers[0] // SIZE, numbers[-1] // SIZE + 1):
        span = session.get(SpanRow, (of, number))
        if span is None:
            session.add(SpanRow(of=of, number=number, earliest=earliest, latest=latest))
        else:
            span.earliest = min(span.earliest, earliest)
            span.latest = max(span.latest, latest)


def forget(session: Session, of: str, before: int) -> None:
    """Of spans that lie wholly before the row with the number BEFORE: nothing is there any more."""
    session.execute(delete(SpanRow).where(SpanRow.of == of, SpanRow.number < before // SIZE))


def between(
    session: Session, of: str, since: datetime | None, until: datetime | None
) -> list[tuple[int, int]]:
    """(first, last) numbers, rising, outside of which no row is at or after SINCE and before
    UNTIL."""
    wanted = select(SpanRow.number).where(SpanRow.of == of).order_by(SpanRow.number)
    if since is not None:
        wanted = wanted.where(SpanRow.latest >= since)
    if until is not None:
        wanted = wanted.where(SpanRow.earliest < until)
    found: list[tuple[int, int]] = []
    for number in session.scalars(wanted):
        first, last = number * SIZE, (number + 1) * SIZE - 1
        if found and found[-1][1] + 1 == first:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found
