"""Identities, groups, resources and policy: what administrators write.

These functions refuse what only they can see (an object in use, a gateway nobody heard of); what
must hold of the network as a whole is validation.faults, run by network.change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import allocation, references, rules, state
from coordinator.errors import Conflict
from coordinator.network import lock
from coordinator.store.models import GroupRow, IdentityRow, NodeRow, ResourceRow
from coordinator.validation import check_free_name, router_prefix
from ztlab.errors import NotFound, SchemaError
from ztlab.model import codec, management
from ztlab.model.codec import did_you_mean, field
from ztlab.model.policy import Action, Policy, PolicyTest, Quota, Rule, check_name


def _check_cidr(text: str) -> None:
    try:
        canonical = str(ip_network(text, strict=True))
    except ValueError as error:
        raise ValueError(f"want an IP prefix, got {text!r} ({error})") from None
    if canonical != text:
        raise ValueError(f"want {canonical}, the canonical form, got {text!r}")


def _check_routers(routers: tuple[str, ...]) -> None:
    for router in routers:
        router_prefix(router)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityBody:
    """An identity as it is written; its tag is allocated."""

    name: str = field(check=check_free_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupBody:
    """A group as it is written."""

    name: str = field(check=check_free_name)
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceBody:
    """A resource as it is written; its tag is allocated.

    priority      of `gateway`, against those of the alternatives: the lowest goes first
    alternatives  other gateways that offer it
    via           addresses of routers, with or without /32 or /128
    """

    name: str = field(check=check_free_name)
    cidr: str = field(check=_check_cidr)
    gateway: str = field(check=check_name)
    priority: int = field(default=management.DEFAULT_PRIORITY, check=management.check_priority)
    alternatives: tuple[management.Offer, ...] = field(default=())
    via: tuple[str, ...] = field(default=(), check=_check_routers)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBody:
    """The policy as it is written: groups are a collection of their own."""

    default: Action = field(default="deny")
    rules: tuple[Rule, ...] = field(default=())
    tests: tuple[PolicyTest, ...] = field(default=())
    quotas: tuple[Quota, ...] = field(default=())

    def __post_init__(self) -> None:
        # What the model refuses is refused here already, where the path is the writer's own.
        Policy(default=self.default, rules=self.rules, tests=self.tests, quotas=self.quotas)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultBody:
    """What happens to a packet that no rule matches."""

    default: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class TestsBody:
    """The claims that the policy must keep."""

    tests: tuple[PolicyTest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotasBody:
    """How much may come from whom."""

    quotas: tuple[Quota, ...]

    def __post_init__(self) -> None:
        Policy(quotas=self.quotas)  # as in PolicyBody


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentBody:
    """All of it, in one transaction.

    identities  names, or {"name"} objects
    groups      name to members
    """

    identities: tuple[str | IdentityBody, ...] = field(default=())
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resources: tuple[ResourceBody, ...] = field(default=())
    policy: PolicyBody = field(default_factory=PolicyBody)


def put_identity(session: Session, body: IdentityBody, now: datetime) -> IdentityRow:
    """The identity of that name, made if it is not there."""
    row = session.get(IdentityRow, body.name)
    if row is None:
        tag = allocation.allocate_tag(session, body.name, now)
        row = IdentityRow(name=body.name, tag=tag)
        session.add(row)
    return row


def delete_identity(session: Session, name: str, now: datetime) -> None:
    """Conflict, saying what refers to it, while anything does."""
    row = identity(session, name)
    _refuse_if_used(f"identity {name}", references.to_identity(session, name, now))
    session.delete(row)
    session.flush()
    allocation.retire_tag(session, row.tag, now)


def put_group(session: Session, body: GroupBody) -> GroupRow:
    """Create or replace."""
    row = session.get(GroupRow, body.name)
    if row is None:
        row = GroupRow(name=body.name)
        session.add(row)
    row.members = list(dict.fromkeys(body.members))
    return row


def delete_group(session: Session, name: str, now: datetime) -> None:
    """Conflict, saying what refers to it, while a rule or a setup key does."""
    row = group(session, name)
    _refuse_if_used(f"group {name}", references.to_group(session, name, now))
    session.delete(row)


def put_resource(session: Session, body: ResourceBody, now: datetime) -> ResourceRow:
    """Create or replace; its tag stays."""
    row = session.get(ResourceRow, body.name)
    _check_gateways(session, row, body, now)
    if row is None:
        row = ResourceRow(name=body.name, tag=allocation.allocate_tag(session, body.name, now))
        session.add(row)
    row.cidr, row.gateway, row.priority = body.cidr, body.gateway, body.priority
    row.alternatives = codec.encode(body.alternatives)
    row.via = list(dict.fromkeys(router_prefix(via) for via in body.via))
    return row


def _check_gateways(
    session: Session, row: ResourceRow | None, body: ResourceBody, now: datetime
) -> None:
    """SchemaError for a gateway nobody heard of; one that was there may be revoked by now."""
    there = set() if row is None else {row.gateway, *(one["gateway"] for one in row.alternatives)}
    named = [("gateway", body.gateway)]
    named += [(f"alternatives[{i}].gateway", x.gateway) for i, x in enumerate(body.alternatives)]
    if all(name in there for _, name in named):
        return
    known = references.gateways(session, now) | there
    faults = [
        f"{path}: no gateway is called {name!r}{did_you_mean(name, known)}"
        for path, name in named
        if name not in known
    ]
    if faults:
        raise SchemaError(faults)


def delete_resource(session: Session, name: str, now: datetime) -> None:
    """Conflict while policy or a group names it."""
    row = resource(session, name)
    used = [*references.in_groups(session, name), *references.in_policy(session, name)]
    _refuse_if_used(f"resource {name}", used)
    session.delete(row)
    session.flush()
    allocation.retire_tag(session, row.tag, now)


def put_policy(session: Session, body: PolicyBody) -> None:
    """Replace the policy."""
    written = codec.encode(body)
    del written["rules"]
    lock(session).policy = written
    rules.put_rules(session, body.rules)


def put_part(session: Session, body: DefaultBody | TestsBody | QuotasBody) -> None:
    """Replace one part of the policy."""
    row = lock(session)
    row.policy = {**row.policy, **codec.encode(body)}


def put_document(session: Session, body: DocumentBody, now: datetime) -> None:
    """Replace everything. Identities that nodes have, or that setup keys give, stay, named in the
    document or not. Conflict where a setup key joins a group that is not in it."""
    wanted = [IdentityBody(name=i) if isinstance(i, str) else i for i in body.identities]
    _check_document_names(body, wanted)
    held = set(session.scalars(select(NodeRow.identity).where(NodeRow.revoked_at.is_(None))))
    keep = held | references.given_identities(session, now) | {one.name for one in wanted}
    for row in session.scalars(select(IdentityRow)).all():
        if row.name not in keep:
            session.delete(row)
            allocation.retire_tag(session, row.tag, now)
    groups = session.scalars(select(GroupRow)).all()
    for gone in groups:
        if gone.name not in body.groups:
            used = references.keys_of_group(session, gone.name, now)
            _refuse_if_used(f"group {gone.name}", used)
            session.delete(gone)
    listed = {resource.name for resource in body.resources}
    for old in session.scalars(select(ResourceRow)).all():
        if old.name not in listed:
            session.delete(old)
            allocation.retire_tag(session, old.tag, now)
    session.flush()
    for new in wanted:
        put_identity(session, new, now)
    for name, members in body.groups.items():
        put_group(session, GroupBody(name=name, members=members))
    for i, one in enumerate(body.resources):
        try:
            put_resource(session, one, now)
        except SchemaError as error:
            raise SchemaError([f"resources[{i}].{line}" for line in error.problems]) from None
    put_policy(session, body.policy)


def _check_document_names(body: DocumentBody, identities: list[IdentityBody]) -> None:
    """What the codec cannot see: keys of a mapping, names as bare texts, one name twice."""
    found = []
    lists = {
        "identities": [identity.name for identity in identities],
        "groups": list(body.groups),
        "resources": [resource.name for resource in body.resources],
    }
    for kind, names in lists.items():
        seen: set[str] = set()
        for i, name in enumerate(names):
            path = f"groups.{name}" if kind == "groups" else f"{kind}[{i}]"
            try:
                check_free_name(name)
            except ValueError as error:
                found.append(f"{path}: {error}")
            if name in seen:
                found.append(f"{path}: {name!r} is there twice")
            seen.add(name)
    if found:
        raise SchemaError(found)


def identity(session: Session, name: str) -> IdentityRow:
    """NotFound if there is none."""
    row = session.get(IdentityRow, name)
    if row is None:
        raise _not_found("identity", name, session.scalars(select(IdentityRow.name)).all())
    return row


def group(session: Session, name: str) -> GroupRow:
    """NotFound if there is none."""
    row = session.get(GroupRow, name)
    if row is None:
        raise _not_found("group", name, session.scalars(select(GroupRow.name)).all())
    return row


def resource(session: Session, name: str) -> ResourceRow:
    """NotFound if there is none."""
    row = session.get(ResourceRow, name)
    if row is None:
        raise _not_found("resource", name, session.scalars(select(ResourceRow.name)).all())
    return row


def describe(row: IdentityRow | GroupRow) -> dict[str, Any]:
    """As docs/PROTOCOL.md shows it."""
    if isinstance(row, IdentityRow):
        return {"name": row.name, "tag": row.tag}
    return {"name": row.name, "members": list(row.members)}


def describe_resources(session: Session, rows: Sequence[ResourceRow]) -> list[dict[str, Any]]:
    """ROWS as docs/PROTOCOL.md shows them."""
    live = select(NodeRow.name, NodeRow.is_drained)
    live = live.where(NodeRow.role == "gateway", NodeRow.revoked_at.is_(None))
    gateways = {name: drained for name, drained in session.execute(live)}
    return [
        {
            "name": row.name,
            "tag": row.tag,
            "cidr": row.cidr,
            "gateway": row.gateway,
            "priority": row.priority,
            "alternatives": [dict(offer) for offer in row.alternatives],
            "via": list(row.via),
            "in_use": state.in_use(state.resource_of(row).gateways, gateways),
        }
        for row in rows
    ]


def _not_found(kind: str, name: str, known: Any) -> NotFound:
    return NotFound(f"no {kind} is called {name!r}{did_you_mean(name, known)}")


def _refuse_if_used(what: str, used: list[str]) -> None:
    if used:
        raise Conflict(f"{what} is in use", used)
