"""/policy: the document as a whole, its rules one by one, its other parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import catalog, rules
from coordinator.api.collection import Collection, Document
from coordinator.api.route import Route
from coordinator.catalog import DefaultBody, PolicyBody, QuotasBody, TestsBody
from coordinator.listing import Listing, PageQuery
from coordinator.store.models import NetworkRow, RuleRow
from ztlab.model.codec import field
from ztlab.model.policy import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleQuery(PageQuery):
    """What rules can be looked for by; else they come in the order of writing."""

    id: str | None = field(default=None)
    id_prefix: str | None = field(default=None)
    id_contains: str | None = field(default=None)
    source: str | None = field(default=None, key="from")
    destination: str | None = field(default=None, key="to")


def _put_rule(session: Session, rule: Rule, _: str | None) -> str:
    return str(rules.put_rule(session, rule)["id"])


def _part(name: str) -> Callable[[Session], dict[str, Any]]:
    """Reads one part of the policy; what was never written has its default."""

    def read(session: Session) -> dict[str, Any]:
        written = session.scalars(select(NetworkRow)).one().policy
        return {name: written.get(name, [])}

    return read


RULES = Collection(
    path="/policy/rules",
    noun="rule",
    key="id",
    answer=Rule,
    listing=Listing(
        rows=select(RuleRow),
        key=RuleRow.id,
        order="position",
        columns={
            "id": RuleRow.id,
            "position": RuleRow.position,
            "from": RuleRow.source,
            "to": RuleRow.destination,
        },
        describe=lambda _, rows: [json.loads(row.body) for row in rows],
    ),
    query=RuleQuery,
    read=rules.get_rule,
    body=Rule,
    put=_put_rule,
    delete=rules.delete_rule,
)
POLICY = Document(
    path="/policy",
    noun="the policy",
    body=PolicyBody,
    read=rules.policy,
    put=catalog.put_policy,
)
DEFAULT = Document(
    path="/policy/default",
    noun="what happens where no rule matches",
    body=DefaultBody,
    read=_part("default"),
    put=catalog.put_part,
)
TESTS = Document(
    path="/policy/tests",
    noun="the claims that policy must keep",
    body=TestsBody,
    read=_part("tests"),
    put=catalog.put_part,
)
QUOTAS = Document(
    path="/policy/quotas",
    noun="the quotas",
    body=QuotasBody,
    read=_part("quotas"),
    put=catalog.put_part,
)
ROUTES: tuple[Route, ...] = (
    *POLICY.routes(),
    *RULES.routes(),
    *DEFAULT.routes(),
    *TESTS.routes(),
    *QUOTAS.routes(),
)
