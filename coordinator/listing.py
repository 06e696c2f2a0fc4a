"""A page of a collection: filtered, sorted, and continued by a cursor.

Cursors are keyset cursors: they name the last row of a page and not its number, so a page is found
by an index however far it is, and rows that come or go meanwhile shift nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, and_, literal, not_, or_, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from coordinator import clock
from ztlab.errors import SchemaError
from ztlab.model.codec import did_you_mean, field, restricted

Row = TypeVar("Row")
Column = InstrumentedAttribute[Any]
MAX_LIMIT = 1000
DEFAULT_LIMIT = 100


@restricted(minimum=1, maximum=MAX_LIMIT)
def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"want 1 to {MAX_LIMIT}, got {limit}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageQuery:
    """What every list takes. Other fields are filters: equality with the field of that name.

    sort    a field; -field is descending. What has no value comes last
    cursor  `next` of the page before
    """

    sort: str | None = field(default=None)
    limit: int = field(default=DEFAULT_LIMIT, check=_check_limit)
    cursor: str | None = field(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedQuery(PageQuery):
    """Likewise, of what has a name; letter case does not count in a part of a name."""

    name: str | None = field(default=None)
    name_prefix: str | None = field(default=None)
    name_contains: str | None = field(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[Row]):
    """How one table is listed.

    rows      everything in the collection
    key       a column that no two rows share: it breaks ties
    order     what is sorted by else; None: the key
    columns   what may be filtered and sorted by
    filters   what may be filtered by only: yes or no
    matches   filters that are more than equality with the column of their name
    describe  rows as the API shows them, all at once: not one query for each
    """

    rows: Select[Any]
    key: Column
    columns: Mapping[str, Column]
    describe: Callable[[Session, Sequence[Row]], list[dict[str, Any]]]
    order: str | None = None
    filters: Mapping[str, ColumnElement[bool]] = dataclass_field(default_factory=dict)
    matches: Mapping[str, Callable[[Any], ColumnElement[bool]]] = dataclass_field(
        default_factory=dict
    )

    def page(
        self, session: Session, query: PageQuery, filters: Mapping[str, Any]
    ) -> dict[str, Any]:
        """{"items", "next"}; `next` None: this was the last page. SchemaError names a parameter."""
        column, descends = self._order(query.sort)
        wanted = self.rows.where(*self._filters(filters))
        if query.cursor is not None:
            wanted = wanted.where(self._behind(column, descends, query))
        directed = column.desc() if descends else column.asc()
        if _is_nullable(column):
            wanted = wanted.order_by(column.is_(None), directed, self.key.asc())
        else:  # as an index of (column, key) has it, whichever way that is read
            ties = () if column is self.key else (self._directed_key(descends),)
            wanted = wanted.order_by(directed, *ties)
        rows: Sequence[Row] = session.scalars(wanted.limit(query.limit + 1)).all()
        page = rows[: query.limit]
        following = None
        if len(rows) > query.limit:
            following = encode_cursor(
                query.sort, getattr(page[-1], column.key), self._key_of(page[-1])
            )
        return {"items": self.describe(session, page), "next": following}

    def _directed_key(self, descends: bool) -> ColumnElement[Any]:
        return self.key.desc() if descends else self.key.asc()

    def orders(self) -> tuple[str, ...]:
        """What `sort` may be."""
        return tuple(f"{sign}{name}" for name in sorted(self.columns) for sign in ("", "-"))

    def _key_of(self, row: Row) -> Any:
        return getattr(row, self.key.key)

    def _order(self, sort: str | None) -> tuple[Column, bool]:
        if sort is None:
            return (self.key if self.order is None else self.columns[self.order]), False
        name = sort.removeprefix("-")
        if name not in self.columns:
            known = ", ".join(sorted(self.columns))
            hint = did_you_mean(name, self.columns)
            raise SchemaError([f"sort: want one of {known}, got {name[:60]!r}{hint}"])
        return self.columns[name], sort.startswith("-")

    def _filters(self, filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
        found = []
        for name, value in filters.items():
            if name.endswith("_prefix"):
                column = self.columns[name.removesuffix("_prefix")]
                found.append(column.istartswith(value, autoescape=True))
            elif name.endswith("_contains"):
                column = self.columns[name.removesuffix("_contains")]
                found.append(column.icontains(value, autoescape=True))
            elif name in self.matches:
                found.append(self.matches[name](value))
            elif name in self.filters:
                found.append(self.filters[name] if value else not_(self.filters[name]))
            else:
                found.append(self.columns[name] == value)
        return found

    def _behind(self, column: Column, descends: bool, query: PageQuery) -> ColumnElement[bool]:
        """Is a row behind the one that the cursor names?"""
        value, key = self.decoded(column, query)
        if not _is_nullable(column):
            place = tuple_(column, self.key)
            last = tuple_(literal(value, column.type), literal(key, self.key.type))
            found: ColumnElement[bool] = place < last if descends else place > last
            if column is self.key:
                found = self.key < key if descends else self.key > key
            return found
        tie = and_(column.is_(None) if value is None else column == value, self.key > key)
        if value is None:
            return tie
        further = column < value if descends else column > value
        return or_(further, tie, column.is_(None))

    def decoded(self, column: Column, query: PageQuery) -> tuple[Any, Any]:
        """The sorted-by value and the key in the cursor."""
        try:
            raw = base64.urlsafe_b64decode((query.cursor or "").encode("ascii"))
            data = json.loads(raw)
            sort, value, key = data
            if sort != query.sort:
                raise ValueError
            return _typed(column, value), _typed(self.key, key)
        except (ValueError, TypeError, RecursionError, binascii.Error):
            raise SchemaError(["cursor: want `next` of a page in the same order"]) from None


def _is_nullable(column: Column) -> bool:
    return bool(column.property.columns[0].nullable)


def _typed(column: Column, value: Any) -> Any:
    """VALUE of a cursor as what COLUMN holds; ValueError for what it cannot hold."""
    kind = column.type.python_type
    if value is None and _is_nullable(column):
        return None
    if kind is datetime and isinstance(value, str):
        return clock.parse_rfc3339(value)
    if type(value) is not kind or (kind is int and not -(2**63) <= value < 2**63):
        raise ValueError(f"want a {kind.__name__}")
    return value


def encode_cursor(sort: str | None, value: Any, key: Any) -> str:
    """Of the page behind the row with that KEY, whose sorted-by field is VALUE."""
    data = [sort, *(clock.rfc3339(v) if isinstance(v, datetime) else v for v in (value, key))]
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode("ascii")
