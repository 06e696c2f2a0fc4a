"""/network, /network-document, /logs: the network as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator import catalog, clock, logs, network
from coordinator.api.route import Answer, Call, Reply, Route
from coordinator.catalog import DocumentBody
from ztlab.model import management
from ztlab.model.codec import field


def _check_time(text: str) -> None:
    clock.parse_rfc3339(text)


def _check_cursor(cursor: int) -> None:
    if not 0 <= cursor < 2**63:
        raise ValueError(f"want a cursor that was answered, got {cursor}")


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= logs.MAX_LIMIT:
        raise ValueError(f"want a number from 1 to {logs.MAX_LIMIT}, got {limit}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """What log records can be looked for by.

    identity  at either end
    since     RFC 3339; records at or after it. until: before it
    after     `next` of an earlier answer; without it, the last `limit` records
    """

    node: str | None = field(default=None)
    identity: str | None = field(default=None)
    verdict: str | None = field(default=None)
    kind: str | None = field(default=None)
    since: str | None = field(default=None, check=_check_time)
    until: str | None = field(default=None, check=_check_time)
    after: int | None = field(default=None, check=_check_cursor)
    limit: int = field(default=logs.DEFAULT_LIMIT, check=_check_limit)


def _get_network(call: Call) -> Answer:
    with call.reading() as session:
        return network.summary(session)


def _put_document(call: Call) -> Reply:
    def work(session: object) -> None:
        catalog.put_document(session, call.body, clock.now())  # type: ignore[arg-type]

    return Reply(body=call.change(work))


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
    Route(
        method="PUT",
        path="/network-document",
        view=_put_document,
        summary="Replace identities, groups, resources and policy at once",
        group="network",
        role="editor",
        body=DocumentBody,
        shape="revised",
        refuses=(409,),
    ),
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
