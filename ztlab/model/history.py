"""What the management API answers about the past: audit log and revisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ztlab.model.config import Revision
from ztlab.model.preview import ObjectChange


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One row of the audit log.

    at             RFC 3339 UTC
    actor          "token NAME", "node NAME", "key CLIENT_ID", "setup-key ID", "operator", ...
    revision       the network's, after it
    before, after  the object; None: it was not there, or is not any more
    previous       hash of the row before; zeros for the first
    hash           SHA-256, hexadecimal, of the canonical JSON of all the others
    """

    id: int
    at: str
    actor: str
    action: str
    kind: str
    name: str
    revision: Revision
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    previous: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """The newest row, to be noted where nobody who can change the log can change it."""

    id: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditVerification:
    """The audit log gone through from its first row.

    head    hash of the newest row
    faults  one line for each row that was changed, removed or inserted; the first hundred
    """

    is_intact: bool
    rows: int
    head: str
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionSummary:
    """A revision at which what administrators write became another.

    changes  how many objects it changed
    summary  the first of them: "update rule web-to-api"
    """

    epoch: str
    number: int
    at: str
    actor: str
    changes: int
    summary: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionDocument:
    """What administrators had written at a revision.

    since        the revision at which it became so
    document     as PUT /network-document takes it
    differences  what is not the same in `against`, as a change from this to that; None: not asked
    """

    since: RevisionSummary
    document: Mapping[str, Any]
    differences: tuple[ObjectChange, ...] | None
