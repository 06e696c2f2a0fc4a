"""What one line of the API is: who asks for what, with which body, and what is answered.

A module under coordinator/api declares its lines as `ROUTES: tuple[Route, ...]`, and
coordinator/api/table.py lists the modules. From there a line is served (`view`), authorized
(`role`), decoded (`query`, `body`, `patches`) and described in the OpenAPI document; a contract
test holds that nothing is served which is not described, and the other way round.

A view gets a Call and returns a Reply, or plain data for a 200. It reads in `call.reading()` and
writes in `call.change(work)`, which is the one way to change what nodes are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy.orm import Session

from coordinator import audit, clock, network, preview
from coordinator.api.conditions import Conditions
from coordinator.api.context import Service, revised
from ztlab.model import codec
from ztlab.model.management import AdminRole

Answer = dict[str, Any]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
# Beside administrators: a node with its token; somebody with a setup key; with a proof of
# possession; anybody.
Caller = AdminRole | Literal["node", "setup key", "proof", "anybody"]
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"  # RFC 7396


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunQuery:
    """dry_run: answer what would change, and for whom, in `preview`; and change nothing."""

    dry_run: bool = codec.field(default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, authorized and decoded.

    actor       the name of the administrator's token
    path        the parameters in the path
    query       an instance of the route's `query`
    body        an instance of the route's `body`; of a PATCH, the patch as plain data
    conditions  If-Match and If-None-Match
    """

    service: Service
    actor: str
    path: Mapping[str, str]
    query: Any
    body: Any
    conditions: Conditions

    @property
    def is_dry_run(self) -> bool:
        return isinstance(self.query, DryRunQuery) and self.query.dry_run

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session over one consistent snapshot."""
        with self.service.store.reading() as session:
            yield session

    def change(self, work: Callable[[Session], Answer | None]) -> Answer:
        """Do WORK in the one transaction that changes the network; its answer and the revision.

        In a dry run that is taken back, and `preview` says what it would have done.
        """
        here, by = self.service, audit.token(self.actor)
        if self.is_dry_run:
            answer, revision, found = preview.rehearse(here.store, here.hub, work, by)
            return {**revised(revision, answer), "preview": codec.encode(found)}
        answer, revision = network.change(here.store, here.hub, work, by)
        return revised(revision, answer)

    def write(self, work: Callable[[Session], Answer | None]) -> Answer:
        """Likewise for what is no part of the network, and raises no revision.

        What it does to which object, it says to the audit log itself: `note`. A dry run likewise;
        what WORK answers then holds no secret, since it would open nothing.
        """
        if self.is_dry_run:
            answer, revision, found = preview.rehearse_write(self.service.store, work)
            return {**revised(revision, answer), "preview": codec.encode(found)}
        with self.service.store.writing() as session:
            answer = work(session)
            return revised(network.revision(session), answer)

    def note(
        self, session: Session, kind: str, name: str, before: Answer | None, after: Answer | None
    ) -> None:
        """Tell the audit log of an object that is no part of the network; None: it is not there."""
        action = "create" if before is None else "delete" if after is None else "update"
        by = audit.token(self.actor)
        audit.record(session, by, action, kind, name, before, after, clock.now())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a view answers; body None: nothing, with 204.

    tag      the entity tag of the object, without its quotes; None: it has none
    content  what is answered instead of a body, of the route's media type `stream`
    headers  others; `Cache-Control` is no-store unless they say otherwise
    """

    body: Answer | None = None
    status: int = 200
    tag: str | None = None
    content: bytes | None = None
    headers: Mapping[str, str] | None = None


View = Callable[[Call], Reply | Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One line of the API.

    path      below /api/v1, parameters in braces: /groups/{name}
    view      None: served by a blueprint of its own, and only described here
    role      the least role, or who else asks
    query     dataclass of the query parameters; None: there are none
    body      dataclass of the JSON body; None: there is none
    patches   PATCH: the dataclass that the patched object must be
    repeats   path parameters that the body may repeat, and must not contradict
    choices   what a query parameter may be, where its class does not say it
    media     media type of a body that is no JSON
    answer    dataclass of the answer; None: nothing, or with `shape` nothing else
    shape     revised: with the revision that the write made; page: items and `next`
    statuses  of success, the usual one first
    stream    media type of an answer that is no JSON
    tagged    the answer carries an ETag; `guarded`: If-Match is required of who changes it
    refuses   statuses of refusal that do not follow from the rest
    """

    method: Method
    path: str
    view: View | None
    summary: str
    group: str
    role: Caller
    query: type | None = None
    body: type | None = None
    patches: type | None = None
    repeats: tuple[str, ...] = ()
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    media: str | None = None
    answer: type | None = None
    shape: Literal["plain", "revised", "page"] = "plain"
    statuses: tuple[int, ...] = (200,)
    stream: str | None = None
    tagged: bool = False
    guarded: bool = False
    refuses: tuple[int, ...] = ()

    @property
    def operation(self) -> str:
        """A name of its own: `put_groups_name`."""
        return "_".join([self.method.lower(), *_words(self.path)]).replace(".", "_")

    @property
    def rule(self) -> str:
        """The path as Werkzeug spells it."""
        return self.path.replace("{", "<").replace("}", ">")


def _words(path: str) -> list[str]:
    return [part.strip("{}").replace("-", "_") for part in path.strip("/").split("/")]
