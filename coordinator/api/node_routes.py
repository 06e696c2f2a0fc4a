"""What nodes call, described; served by coordinator/api/node.py and rotation.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coordinator.api.route import Route
from coordinator.authority import TrustedBody
from coordinator.enrolment import ChallengeRequest, EnrolRequest, TokenRequest
from coordinator.nodes import Ack
from coordinator.rotation import CommitRequest, RotateRequest
from ztlab.model import logbatch
from ztlab.model.codec import field
from ztlab.model.keys import KeyChange


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Who this is.

    authority  PEM of the TLS authority; whoever has a setup key compares its hash
    """

    status: Literal["ok"]
    authority: str
    network_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What a proof of possession answers; keys and nonce in base64."""

    challenge_id: str
    ephemeral_key: str
    nonce: str
    network_id: str
    expires_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeToken:
    """A token for the node's own requests."""

    node_id: str
    token: str
    token_expires_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled(NodeToken):
    """Likewise, for a node that just joined."""

    network_id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How many events of a batch are stored."""

    stored: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorities:
    """PEM of each authority that a node shall trust; the newest is the last."""

    authorities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The key that is the node's now."""

    public_key: str
    client_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamQuery:
    """What the node has, and can.

    digest  of the configuration that it has
    delta   "1": it can make the next one out of that and a delta
    """

    digest: str | None = field(default=None)
    delta: str | None = field(default=None)


_HEALTH = Route(
    method="GET",
    path="/health",
    view=None,
    summary="Is it there, and whose certificate has it",
    group="health",
    role="anybody",
    answer=Health,
)
_JOINING = (
    Route(
        method="POST",
        path="/node/challenge",
        view=None,
        summary="The first half of a proof of possession; to enrol, with a setup key",
        group="node",
        role="proof",
        body=ChallengeRequest,
        answer=Challenge,
        statuses=(201,),
        refuses=(401, 429),
    ),
    Route(
        method="POST",
        path="/node/enrol",
        view=None,
        summary="Join, with a setup key and a proof",
        group="node",
        role="setup key",
        body=EnrolRequest,
        answer=Enrolled,
        statuses=(201,),
        refuses=(409, 429),
    ),
    Route(
        method="POST",
        path="/node/token",
        view=None,
        summary="The next token, by proof",
        group="node",
        role="proof",
        body=TokenRequest,
        answer=NodeToken,
        refuses=(401, 429),
    ),
    Route(
        method="POST",
        path="/node/rotate",
        view=None,
        summary="Announce another key, with a proof of each",
        group="node",
        role="proof",
        body=RotateRequest,
        answer=KeyChange,
        refuses=(401, 409, 429),
    ),
)
_RUNNING = (
    Route(
        method="GET",
        path="/node/stream",
        view=None,
        summary="The node's configuration, now and whenever it is another; held open",
        group="node",
        role="node",
        query=StreamQuery,
        stream="text/event-stream",
    ),
    Route(
        method="POST",
        path="/node/authorities",
        view=None,
        summary="Say which TLS authorities the node trusts; learn which it shall trust",
        group="node",
        role="node",
        body=TrustedBody,
        answer=Authorities,
    ),
    Route(
        method="POST",
        path="/node/ack",
        view=None,
        summary="What the node applied, or why not",
        group="node",
        role="node",
        body=Ack,
        statuses=(204,),
    ),
    Route(
        method="POST",
        path="/node/logs",
        view=None,
        summary="A batch of log records, packed as docs/PROTOCOL.md says",
        group="node",
        role="node",
        media=logbatch.CONTENT_TYPE,
        answer=Stored,
    ),
    Route(
        method="GET",
        path="/node/rotation",
        view=None,
        summary="How far the change of key is",
        group="node",
        role="node",
        answer=KeyChange,
        refuses=(404,),
    ),
    Route(
        method="POST",
        path="/node/rotation/commit",
        view=None,
        summary="The node uses the new key now",
        group="node",
        role="node",
        body=CommitRequest,
        answer=Committed,
        refuses=(409,),
    ),
    Route(
        method="DELETE",
        path="/node/rotation",
        view=None,
        summary="Forget the announced key",
        group="node",
        role="node",
        statuses=(204,),
    ),
)
ROUTES: tuple[Route, ...] = (_HEALTH, *_JOINING, *_RUNNING)
