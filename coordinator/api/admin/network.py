"""/network, /network-document, /logs: the network as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from coordinator import catalog, clock, document, logs, network, state
from coordinator.api.collection import Document
from coordinator.api.route import Answer, Call, Route
from coordinator.catalog import DocumentBody
from ztlab.model import management
from ztlab.model.codec import field, restricted


@restricted(format="date-time")
def _check_time(text: str) -> None:
    clock.parse_rfc3339(text)


@restricted(minimum=0, maximum=2**63 - 1)
def _check_cursor(cursor: int) -> None:
    if not 0 <= cursor < 2**63:
        raise ValueError(f"want a cursor that was answered, got {cursor}")


@restricted(minimum=1, maximum=logs.MAX_LIMIT)
def _check_limit(limit: int) -> None:
    if not 1 <= limit <= logs.MAX_LIMIT:
        raise ValueError(f"want a number from 1 to {logs.MAX_LIMIT}, got {limit}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """What log records can be looked for by.

    identity  at either end
    since     RFC 3339; records at or after it. until: before it
    after     `next` of an earlier answer; without it, the last `limit` records
    before    `previous` of an earlier answer: the last `limit` records before those
    """

    node: str | None = field(default=None)
    identity: str | None = field(default=None)
    verdict: str | None = field(default=None)
    kind: str | None = field(default=None)
    since: str | None = field(default=None, check=_check_time)
    until: str | None = field(default=None, check=_check_time)
    after: int | None = field(default=None, check=_check_cursor)
    before: int | None = field(default=None, check=_check_cursor)
    limit: int = field(default=logs.DEFAULT_LIMIT, check=_check_limit)

    def __post_init__(self) -> None:
        if self.after is not None and self.before is not None:
            raise ValueError("want `after` or `before`, not both")


def _get_network(call: Call) -> Answer:
    with call.reading() as session:
        return network.summary(session)


def _put_document(session: Session, body: DocumentBody) -> None:
    catalog.put_document(session, body, clock.now())


DOCUMENT = Document(
    path="/network-document",
    noun="identities, groups, resources and policy at once",
    body=DocumentBody,
    read=lambda session: document.of(state.load(session)),
    put=_put_document,
)


def _get_logs(call: Call) -> Answer:
    asked: LogQuery = call.query
    wanted = logs.Search(
        node=asked.node,
        identity=asked.identity,
        verdict=asked.verdict,
        kind=asked.kind,
        since=clock.parse_rfc3339(asked.since) if asked.since is not None else None,
        until=clock.parse_rfc3339(asked.until) if asked.until is not None else None,
        after=asked.after,
        before=asked.before,
        limit=asked.limit,
    )
    with call.reading() as session:
        return logs.search(session, wanted)


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/network",
        view=_get_network,
        summary="Name, pools, revision, and how many nodes have what they should",
        group="network",
        role="viewer",
        answer=management.Network,
    ),
    *DOCUMENT.routes(),
    Route(
        method="GET",
        path="/logs",
        view=_get_logs,
        summary="Log records, newest last",
        group="logs",
        role="viewer",
        query=LogQuery,
        answer=management.LogPage,
    ),
)
