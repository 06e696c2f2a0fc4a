"""Rows in the order of their numbers, filtered, without ever looking at more than a bounded number.

Each filter has an index of (column, number). Two filters together have none: the rows of the one
that has fewest are looked at, MOST of them, and whoever asked is told how far that reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = TypeVar("Row")
Column = InstrumentedAttribute[Any]
Range = tuple[int, int]
MOST = 10_000  # tens of milliseconds, in which nobody else is answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One of the columns, each of which has an index of (column, number), is VALUE."""

    columns: tuple[Column, ...]
    value: str

    def unindexed(self) -> ColumnElement[bool]:
        """Likewise, of rows that something else found: written so that no index serves it."""
        return or_(*(column.concat("") == self.value for column in self.columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked(Generic[Row]):
    """What was found, in the order of the walk.

    reached  number of the last row that was looked at; None: all were
    """

    rows: list[Row]
    reached: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk(Generic[Row]):
    """One search.

    table     what is searched
    key       its number
    terms     all of which must hold
    rest      what else must hold
    descends  the highest number comes first
    """

    table: type[Row]
    key: Column
    terms: Sequence[Term]
    rest: Sequence[ColumnElement[bool]]
    descends: bool

    def through(self, session: Session, ranges: Sequence[Range], limit: int) -> Walked[Row]:
        """The first LIMIT rows whose number is in one of RANGES, (first, last), which rise."""
        found: list[Row] = []
        left = MOST
        for first, last in reversed(ranges) if self.descends else ranges:
            if left <= 0:
                return Walked(rows=found, reached=last + 1 if self.descends else first - 1)
            driver, edge = self._driver(session, (first, last))
            reach = (first, last)
            if edge is not None:
                reach = (edge, last) if self.descends else (first, edge)
            found += self._rows(session, driver, reach, limit - len(found))
            if len(found) == limit:
                return Walked(rows=found, reached=getattr(found[-1], self.key.key))
            if edge is not None:
                return Walked(rows=found, reached=edge)
            left -= last - first + 1
        return Walked(rows=found, reached=None)

    def _driver(self, session: Session, among: Range) -> tuple[Term | None, int | None]:
        """The term whose rows are looked at, and how far; None: all rows, and all the way."""
        if len(self.terms) <= 1 and not self.rest:
            return (self.terms[0] if self.terms else None), None  # what is looked at is found
        best: tuple[Term | None, int | None] | None = None
        for term in self.terms or (None,):
            edge = self._edge(session, term, among)
            if edge is None:
                return term, None
            if best is None or best[1] is None or self._is_further(edge, best[1]):
                best = term, edge
        assert best is not None
        return best

    def _edge(self, session: Session, term: Term | None, among: Range) -> int | None:
        """Number of the last of the MOST rows of TERM that come first; None: there are fewer."""
        first, last = among
        if term is None:  # hardly any number is missing
            if last - first < MOST:
                return None
            return last - MOST + 1 if self.descends else first + MOST - 1
        there: list[int] = []
        for column in term.columns:
            wanted = select(self.key).where(self.key >= first, self.key <= last)
            wanted = wanted.where(column == term.value).order_by(self._order())
            there += session.scalars(wanted.offset(MOST - 1).limit(1))
        if not there:
            return None
        return max(there) if self.descends else min(there)

    def _rows(self, session: Session, driver: Term | None, among: Range, limit: int) -> list[Row]:
        others = [term.unindexed() for term in self.terms if term is not driver]
        found: dict[int, Row] = {}
        for column in driver.columns if driver is not None else (None,):
            wanted = select(self.table).where(self.key >= among[0], self.key <= among[1])
            if column is not None and driver is not None:
                wanted = wanted.where(column == driver.value)
            wanted = wanted.where(*others, *self.rest).order_by(self._order()).limit(limit)
            found |= {getattr(row, self.key.key): row for row in session.scalars(wanted)}
        return [found[number] for number in sorted(found, reverse=self.descends)[:limit]]

    def _order(self) -> ColumnElement[Any]:
        return self.key.desc() if self.descends else self.key.asc()

    def _is_further(self, edge: int, other: int) -> bool:
        return edge < other if self.descends else edge > other


def clipped(ranges: Sequence[Range], first: int, last: int) -> list[Range]:
    """What of RANGES is between FIRST and LAST."""
    cut = ((max(a, first), min(b, last)) for a, b in ranges)
    return [(a, b) for a, b in cut if a <= b]
