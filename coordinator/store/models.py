"""The tables. What a column may hold is said here; what it means, in the domain modules."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy import DateTime as NaiveDateTime
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC instant; SQLite keeps it as naive text, which sorts."""

    impl = NaiveDateTime
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        return datetime

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


# SQLite counts in 64 bits, and up by itself only where a column's type is called INTEGER.
_LARGE = BigInteger().with_variant(Integer(), "sqlite")


def _searched(table: str, *columns: str) -> tuple[Index, ...]:
    """Indexes for coordinator/walk.py: by one of COLUMNS, in the order of the rows' numbers."""
    return tuple(Index(f"search_{table}_{column}", column, "id") for column in columns)


class Base(DeclarativeBase):
    """All tables of the store."""

    type_annotation_map = {
        datetime: UtcDateTime,
        dict[str, Any]: JSON(none_as_null=True),
        list[str]: JSON,
        bytes: LargeBinary,
    }


class NetworkRow(Base):
    """The one row that every change locks: identity of the network, its revision, its policy.

    policy  {"default", "tests", "quotas"} as written; its rules have a table of their own
    """

    __tablename__ = "network"
    id: Mapped[int] = mapped_column(primary_key=True)
    network_id: Mapped[str] = mapped_column(String(36))
    name: Mapped[str] = mapped_column(String(63))
    pools: Mapped[list[str]]
    epoch: Mapped[str] = mapped_column(String(32))
    number: Mapped[int]
    policy: Mapped[dict[str, Any]]


class RuleRow(Base):
    """One rule of the policy.

    position             the order in which rules are shown; it has no other meaning
    source, destination  as in BODY, to find who names whom
    body                 the rule as canonical JSON
    """

    __tablename__ = "rules"
    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    position: Mapped[int] = mapped_column(index=True)
    source: Mapped[str] = mapped_column(Text, index=True)
    destination: Mapped[str] = mapped_column(Text, index=True)
    body: Mapped[str] = mapped_column(Text)


class TagRow(Base):
    """Every tag ever handed out; a retired one stays, so that it is never handed out again."""

    __tablename__ = "tags"
    tag: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(63))
    allocated_at: Mapped[datetime]
    retired_at: Mapped[datetime | None]


class IdentityRow(Base):
    """A principal of the policy."""

    __tablename__ = "identities"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    tag: Mapped[int] = mapped_column(ForeignKey("tags.tag"), unique=True)


class GroupRow(Base):
    """A named set of identities (and resources)."""

    __tablename__ = "groups"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    members: Mapped[list[str]]


class ResourceRow(Base):
    """A named CIDR behind gateways, which are named by node name: they may enrol later.

    priority      of `gateway`
    alternatives  [{"gateway", "priority"}]: who offers it as well
    """

    __tablename__ = "resources"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    tag: Mapped[int] = mapped_column(ForeignKey("tags.tag"), unique=True)
    cidr: Mapped[str] = mapped_column(String(49))
    gateway: Mapped[str] = mapped_column(String(63))
    priority: Mapped[int] = mapped_column(server_default="100")
    alternatives: Mapped[list[dict[str, Any]]] = mapped_column(JSON, server_default="[]")
    via: Mapped[list[str]]


class NodeRow(Base):
    """One enrolled machine; a revoked one stays, for logs and audit.

    wanted_*      the last revision at which its digest changed
    applied_*     what it acknowledged last; applied_error None: it applied it
    setup_key_id  what it enrolled with; None: before that was noted
    authority     SHA-256 (hexadecimal) of the newest TLS authority that it says it trusts
    is_drained    of a gateway: others are preferred to it
    """

    __tablename__ = "nodes"
    __table_args__ = (
        Index(
            "one_live_node_per_name",
            "name",
            unique=True,
            sqlite_where=text("revoked_at IS NULL"),
            postgresql_where=text("revoked_at IS NULL"),
        ),
    )
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(63))
    role: Mapped[str] = mapped_column(String(7))
    identity: Mapped[str] = mapped_column(String(63))
    public_key: Mapped[str] = mapped_column(String(44), unique=True)
    client_id: Mapped[str] = mapped_column(String(26), unique=True)
    endpoint: Mapped[str | None] = mapped_column(String(270))
    enrolled_at: Mapped[datetime]
    last_contact_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    wanted_epoch: Mapped[str] = mapped_column(String(32))
    wanted_number: Mapped[int]
    wanted_digest: Mapped[str] = mapped_column(String(64))
    applied_epoch: Mapped[str | None] = mapped_column(String(32))
    applied_number: Mapped[int | None]
    applied_digest: Mapped[str | None] = mapped_column(String(64))
    applied_error: Mapped[str | None] = mapped_column(Text)
    stream_number: Mapped[int] = mapped_column(server_default="0")
    setup_key_id: Mapped[str | None] = mapped_column(String(36), index=True)
    authority: Mapped[str | None] = mapped_column(String(64))
    is_drained: Mapped[bool] = mapped_column(server_default=false())


class RotationRow(Base):
    """A node that is changing its key: the new one, proved, and when it was announced.

    epoch, number  the revision that announced it: who acknowledged that one knows the key
    """

    __tablename__ = "rotations"
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    public_key: Mapped[str] = mapped_column(String(44), unique=True)
    epoch: Mapped[str] = mapped_column(String(32))
    number: Mapped[int]
    started_at: Mapped[datetime]
    deadline_at: Mapped[datetime]


class FormerKeyRow(Base):
    """A key that a node had once: no longer good for anything, and never for another node."""

    __tablename__ = "former_keys"
    public_key: Mapped[str] = mapped_column(String(44), primary_key=True)
    client_id: Mapped[str] = mapped_column(String(26), unique=True)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"), index=True)
    since: Mapped[datetime]
    until: Mapped[datetime]


class AddressRow(Base):
    """A tunnel address, held by a node or resting after its release.

    pool  position in the network's list of pools
    """

    __tablename__ = "addresses"
    address: Mapped[str] = mapped_column(String(45), primary_key=True)
    pool: Mapped[int]
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"), index=True)
    released_at: Mapped[datetime | None]


class SetupKeyRow(Base):
    """A setup key: hashed, counted, expiring.

    group       what the node's own identity joins; None: nothing
    authority   SHA-256 (hexadecimal) of the TLS authority that it pins
    revoked_at  since then it is kept only to say why it is refused
    """

    __tablename__ = "setup_keys"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    name: Mapped[str | None] = mapped_column(String(63))
    role: Mapped[str] = mapped_column(String(7))
    identity: Mapped[str | None] = mapped_column(String(63))
    uses: Mapped[int]
    uses_left: Mapped[int]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    group: Mapped[str | None] = mapped_column(String(63))
    authority: Mapped[str | None] = mapped_column(String(64))
    revoked_at: Mapped[datetime | None]


class ChallengeRow(Base):
    """One half of a proof of possession; deleted at first use.

    nonce         the one-time X25519 pair is derived from it, with a key that is not in the store
    setup_key_id  for purpose enrol: the setup key it was asked with
    """

    __tablename__ = "challenges"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    purpose: Mapped[str] = mapped_column(String(6))
    public_key: Mapped[str] = mapped_column(String(44), index=True)
    nonce: Mapped[bytes]
    setup_key_id: Mapped[str | None] = mapped_column(String(36))
    expires_at: Mapped[datetime] = mapped_column(index=True)


class NodeTokenRow(Base):
    """A node's bearer token, hashed."""

    __tablename__ = "node_tokens"
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"), index=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class AdminTokenRow(Base):
    """An administrator's bearer token, hashed. role: viewer, editor or owner."""

    __tablename__ = "admin_tokens"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    role: Mapped[str] = mapped_column(String(6))
    created_at: Mapped[datetime]


class SessionRow(Base):
    """An administrator at a browser: the cookie, hashed, and the token it was opened with.

    csrf  what each of its forms must bring
    """

    __tablename__ = "sessions"
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    token_name: Mapped[str] = mapped_column(
        String(63), ForeignKey("admin_tokens.name", ondelete="CASCADE")
    )
    csrf: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class AuditRow(Base):
    """One change, for ever: rows are only added, and each names the hash of the one before.

    actor          an administrator's token ("token NAME"), or a node ("node NAME"), or "operator"
    kind, name     of the object
    epoch, number  the network's revision after it
    before, after  the object as the API shows it; None: it was not there, or is not any more
    previous       hash of the row before; zeros for the first
    hash           SHA-256 over the canonical JSON of all the others
    """

    __tablename__ = "audit"
    __table_args__ = _searched("audit", "at", "actor", "action", "kind", "name")
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(80))
    action: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(270))
    epoch: Mapped[str] = mapped_column(String(32))
    number: Mapped[int]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    previous: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64), unique=True)


class RevisionRow(Base):
    """A revision at which what administrators write (the document) became another.

    id       rises with each; numbers do not, across epochs
    changes  how many objects it changed
    summary  the first of them, for people: "update rule web-to-api"
    undo     what leads back to the document before (coordinator/revisions.py): JSON, through zlib
    """

    __tablename__ = "revisions"
    __table_args__ = (UniqueConstraint("epoch", "number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[str] = mapped_column(String(32))
    number: Mapped[int]
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(80))
    changes: Mapped[int]
    summary: Mapped[list[str]]
    undo: Mapped[bytes]


class LogBatchRow(Base):
    """A batch of log events that was stored: its id makes the second delivery harmless."""

    __tablename__ = "log_batches"
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"), primary_key=True)
    batch_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    stored: Mapped[int]
    received_at: Mapped[datetime]


class LogEventRow(Base):
    """One log record; `event` is what the node sent, the columns are what is searched by."""

    __tablename__ = "log_events"
    __table_args__ = _searched(
        "log_events",
        *("node", "node_id", "verdict", "kind", "source_identity", "destination_identity"),
    )
    id: Mapped[int] = mapped_column(_LARGE, primary_key=True)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"))
    node: Mapped[str] = mapped_column(String(63))
    at: Mapped[datetime]
    received_at: Mapped[datetime]
    verdict: Mapped[str] = mapped_column(String(32))
    source_identity: Mapped[str | None] = mapped_column(String(63))
    destination_identity: Mapped[str | None] = mapped_column(String(63))
    event: Mapped[dict[str, Any]]
    kind: Mapped[str] = mapped_column(String(8), server_default="")


class SpanRow(Base):
    """Instants between which the rows of one span of a table lie (coordinator/spans.py).

    of      "log" or "audit"
    number  of the span: the rows' ids, divided
    """

    __tablename__ = "spans"
    of: Mapped[str] = mapped_column(String(8), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    earliest: Mapped[datetime]
    latest: Mapped[datetime]
