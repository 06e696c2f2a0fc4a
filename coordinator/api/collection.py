"""One declaration, up to six routes: list, create, read, replace, patch, delete.

Whoever changes an object holds the network's lock while it compares If-Match with what is there,
so of two who read the same and write, one is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar, get_args, get_type_hints

from sqlalchemy.orm import Session

from coordinator.api.conditions import tag_of
from coordinator.api.route import Answer, Call, DryRunQuery, Reply, Route
from coordinator.errors import Conflict
from coordinator.listing import Listing, PageQuery
from ztlab.errors import NotFound
from ztlab.model import codec
from ztlab.model.management import AdminRole

T = TypeVar("T")
Read = Callable[[Session, str], Answer]
_PAGING = frozenset(spec.name for spec in fields(PageQuery))


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """The objects of one kind.

    path      of the collection, below /api/v1
    noun      of one of them, for sentences
    key       the field that names one, and the path's parameter
    answer    dataclass of one, as it is read
    read      one, as the API shows it; NotFound
    body      dataclass of what is written; None: nobody writes
    put       create or replace, inside a transaction; returns the name that it has then
    create    POST, where that is more than `put` of what was not there
    created   its answer, where that is more than `answer`: a secret that is shown once
    delete    inside a transaction; None: nobody deletes
    observed  keys of the answer that no entity tag covers: they change by themselves
    network   does what it says concern nodes? Then a change raises the revision
    renames   may the body have another name than the path?
    reads, writes  the least role
    """

    path: str
    noun: str
    answer: type
    listing: Listing[Any]
    query: type[PageQuery]
    read: Read
    key: str = "name"
    body: type | None = None
    put: Callable[[Session, Any, str | None], str] | None = None
    create: Callable[[Call], Reply] | None = None
    created: type | None = None
    delete: Callable[[Session, str], None] | None = None
    is_created_by_post: bool = True
    is_created_by_put: bool = True
    observed: frozenset[str] = frozenset()
    is_network: bool = True
    renames: bool = False
    reads: AdminRole = "viewer"
    writes: AdminRole = "editor"

    def routes(self) -> tuple[Route, ...]:
        """Its lines of the API."""
        return (*self._reading(), *self._writing())

    def _reading(self) -> Iterator[Route]:
        nouns = self.path.rpartition("/")[2]
        common: dict[str, Any] = {
            "group": _group(self.path),
            "role": self.reads,
            "answer": self.answer,
        }
        yield Route(
            method="GET",
            path=self.path,
            view=self._list,
            summary=f"The {nouns}, filtered, sorted, in pages",
            query=self.query,
            choices={"sort": self.listing.orders()},
            shape="page",
            **common,
        )
        yield Route(
            method="GET",
            path=self._one,
            view=self._get,
            summary=f"Read {self._noun}",
            tagged=True,
            **common,
        )

    def _writing(self) -> Iterator[Route]:
        common: dict[str, Any] = {
            "group": _group(self.path),
            "role": self.writes,
            "answer": self.answer,
            "shape": "revised",
            "refuses": (409,),
            "tagged": True,
            "query": DryRunQuery,
        }
        if self.body is not None and (self.create or self.is_created_by_post):
            yield Route(
                method="POST",
                path=self.path,
                view=self.create or self._post,
                summary=f"Create {self._noun}",
                body=self.body,
                statuses=(201, 200),
                **{**common, "answer": self.created or self.answer},
            )
        common |= {"path": self._one, "guarded": True}
        if self.body is not None and self.put is not None:
            creates = self.is_created_by_put
            yield Route(
                method="PUT",
                view=self._put,
                summary=f"{'Create or replace' if creates else 'Replace'} {self._noun}",
                body=self.body,
                repeats=() if self.renames else (self.key,),
                statuses=(200, 201) if creates else (200,),
                **common,
            )
            yield Route(
                method="PATCH",
                view=self._patch,
                summary=f"Change {self._noun}",
                patches=self.body,
                **common,
            )
        if self.delete is not None:
            common |= {"answer": None, "tagged": False}
            yield Route(
                method="DELETE", view=self._delete, summary=f"Delete {self._noun}", **common
            )

    @property
    def _one(self) -> str:
        return f"{self.path}/{{{self.key}}}"

    @property
    def _noun(self) -> str:
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    def tag(self, representation: Mapping[str, Any]) -> str:
        """The entity tag of an object."""
        return tag_of(representation, without=self.observed)

    # --- views

    def _list(self, call: Call) -> Answer:
        asked = {
            key: value
            for key, name in codec.keys(self.query).items()
            if name not in _PAGING and (value := getattr(call.query, name)) is not None
        }
        with call.reading() as session:
            return self.listing.page(session, call.query, asked)

    def _get(self, call: Call) -> Reply:
        with call.reading() as session:
            found = self.read(session, call.path[self.key])
        return Reply(body=found, tag=self.tag(found))

    def _post(self, call: Call) -> Reply:
        name = getattr(call.body, self.key)

        def work(session: Session) -> Answer:
            if self._find(session, name) is not None:
                raise Conflict(f"{name!r} is there already")
            return self._written(call, session, call.body, None, None)

        return self._reply(self._change(call, work), 201)

    def _put(self, call: Call) -> Reply:
        name, status = call.path[self.key], 200

        def work(session: Session) -> Answer:
            nonlocal status
            before = (
                self._find(session, name) if self.is_created_by_put else self.read(session, name)
            )
            call.conditions.check(None if before is None else self.tag(before))
            status = 201 if before is None else 200
            return self._written(call, session, call.body, name, before)

        return self._reply(self._change(call, work), status)

    def _patch(self, call: Call) -> Reply:
        name = call.path[self.key]

        def work(session: Session) -> Answer:
            assert self.body is not None
            before = self.read(session, name)
            call.conditions.check(self.tag(before))
            wanted: Any = patched(self.body, before, call.body)
            if not self.renames and getattr(wanted, self.key) != name:
                raise Conflict(f"the {self.key} of {name!r} cannot be changed")
            return self._written(call, session, wanted, name, before)

        return self._reply(self._change(call, work), 200)

    def _delete(self, call: Call) -> Reply:
        name = call.path[self.key]

        def work(session: Session) -> None:
            assert self.delete is not None
            before = self.read(session, name)
            call.conditions.check(self.tag(before))
            self.delete(session, name)
            if not self.is_network:
                call.note(session, self.noun, name, before, None)

        return Reply(body=self._change(call, work))

    # --- helpers

    def _change(self, call: Call, work: Callable[[Session], Answer | None]) -> Answer:
        return call.change(work) if self.is_network else call.write(work)

    def _find(self, session: Session, name: str) -> Answer | None:
        try:
            return self.read(session, name)
        except NotFound:
            return None

    def _written(
        self, call: Call, session: Session, body: Any, name: str | None, before: Answer | None
    ) -> Answer:
        assert self.put is not None
        reached = self.put(session, body, name)
        session.flush()
        after = self.read(session, reached)
        if not self.is_network:
            call.note(session, self.noun, reached, before, after)
        return after

    def _reply(self, answer: Answer, status: int) -> Reply:
        shown = {k: v for k, v in answer.items() if k not in ("revision", "preview")}
        return Reply(body=answer, status=status, tag=self.tag(shown))


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One object that is always there: read, replaced, patched; possibly too large to be echoed.

    put  replace it, inside a transaction
    """

    path: str
    noun: str
    body: type
    read: Callable[[Session], Answer]
    put: Callable[[Session, Any], None]

    def routes(self) -> tuple[Route, ...]:
        """Its lines of the API."""
        common: dict[str, Any] = {"path": self.path, "group": _group(self.path), "tagged": True}
        common["answer"] = self.body
        written = {
            **common,
            "role": "editor",
            "guarded": True,
            "shape": "revised",
            "answer": None,
            "refuses": (409,),
            "query": DryRunQuery,
        }
        return (
            Route(
                method="GET", view=self._get, summary=f"Read {self.noun}", role="viewer", **common
            ),
            Route(
                method="PUT",
                view=self._put,
                summary=f"Replace {self.noun}",
                body=self.body,
                **written,
            ),
            Route(
                method="PATCH",
                view=self._patch,
                summary=f"Change {self.noun}",
                patches=self.body,
                **written,
            ),
        )

    def _get(self, call: Call) -> Reply:
        with call.reading() as session:
            found = self.read(session)
        return Reply(body=found, tag=tag_of(found))

    def _put(self, call: Call) -> Reply:
        return self._change(call, lambda _: call.body)

    def _patch(self, call: Call) -> Reply:
        return self._change(call, lambda before: patched(self.body, before, call.body))

    def _change(self, call: Call, wanted: Callable[[Answer], Any]) -> Reply:
        tag = ""

        def work(session: Session) -> None:
            nonlocal tag
            before = self.read(session)
            call.conditions.check(tag_of(before))
            self.put(session, wanted(before))
            session.flush()
            tag = tag_of(self.read(session))

        return Reply(body=call.change(work), tag=tag)


def _group(path: str) -> str:
    return path.split("/")[1]


def patched(kind: type[T], before: Mapping[str, Any], patch: Any) -> T:
    """What BEFORE, an object as it is read, would be as a KIND after PATCH; SchemaError."""
    hints = get_type_hints(kind)
    known = codec.keys(kind)
    after = merged({key: before[key] for key in known if key in before}, patch)
    if isinstance(after, dict):
        for key, name in known.items():
            if type(None) in get_args(hints[name]):
                after.setdefault(key, None)  # null takes away, and None is what that leaves
    return codec.decode(kind, after)


def merged(target: Any, patch: Any) -> Any:
    """TARGET after the merge patch PATCH (RFC 7396, section 2)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result
