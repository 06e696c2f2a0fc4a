"""What the management API answers, as values: docs/PROTOCOL.md's tables, one class each.

The coordinator derives its OpenAPI document from these, and `ztlab.client.admin` decodes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ztlab.model.codec import field, restricted
from ztlab.model.config import NodeConfig, Revision, Role
from ztlab.model.keys import FormerKey, KeyChange
from ztlab.model.policy import check_name

ANY_TAG = "*"  # an entity tag: whatever is there
AdminRole = Literal["viewer", "editor", "owner"]
DEFAULT_PRIORITY = 100  # of a resource's `gateway`, where nothing is said
MAX_PRIORITY = 65535


@restricted(minimum=0, maximum=MAX_PRIORITY)
def check_priority(priority: int) -> None:
    """ValueError unless PRIORITY may be a gateway's."""
    if not 0 <= priority <= MAX_PRIORITY:
        raise ValueError(f"want a priority from 0 to {MAX_PRIORITY}, got {priority}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The state a node should be in: the last revision at which its digest changed."""

    revision: Revision
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a node acknowledged last; error is None where it applied it."""

    revision: Revision
    digest: str
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One enrolled node. Timestamps are RFC 3339 UTC.

    addresses    tunnel addresses, /32 and /128
    setup_key    id of the one it enrolled with; None: before that was noted
    applied      None: it never acknowledged anything
    rotation     None: it is not changing its key
    former_keys  the oldest first
    """

    id: str
    name: str
    role: Role
    identity: str
    addresses: tuple[str, ...]
    public_key: str
    client_id: str
    setup_key: str | None
    endpoint: str | None
    enrolled_at: str
    last_contact_at: str | None
    revoked_at: str | None
    wanted: Wanted
    applied: Applied | None
    has_converged: bool
    rotation: KeyChange | None = None
    former_keys: tuple[FormerKey, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfiguration:
    """What a node should have, whole."""

    revision: Revision
    digest: str
    config: NodeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A node of that role, as whoever connects through it sees it.

    is_drained  another gateway is preferred to it, whatever the priorities
    resources   names of what it offers, in use or not
    clients     how many nodes have a tunnel to it
    """

    id: str
    name: str
    endpoint: str | None
    public_key: str
    client_id: str
    is_drained: bool
    resources: tuple[str, ...]
    clients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCount:
    """Unrevoked nodes, and how many of them have converged."""

    total: int
    converged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The network as a whole."""

    network_id: str
    name: str
    pools: tuple[str, ...]
    revision: Revision
    has_converged: bool
    nodes: NodeCount


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A principal and its tag."""

    name: str
    tag: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A named set of identities."""

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A gateway that offers a resource as well; of all its gateways the lowest priority wins."""

    gateway: str = field(check=check_name)
    priority: int = field(check=check_priority)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A named CIDR behind one gateway or several.

    priority      of `gateway`: the lowest of all that offer it wins
    alternatives  the other gateways that offer it
    in_use        the gateway that clients reach it through; None: none that offers it is enrolled
    """

    name: str
    tag: int
    cidr: str
    gateway: str
    priority: int
    alternatives: tuple[Offer, ...]
    via: tuple[str, ...]
    in_use: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminToken:
    """An administrator's token, without the token."""

    name: str
    role: AdminRole
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAdminToken(AdminToken):
    """Likewise with the token, which is shown this once."""

    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedAdminToken(AdminToken):
    """Likewise; of a dry run null: there is none."""

    token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupKey:
    """A setup key, without the key.

    name      the node name it is bound to; None: any
    identity  the identity it gives; None: one of the node's own
    group     what that one joins; None: nothing
    uses      how often it could be used when made; uses_left: how often still
    """

    id: str
    name: str | None
    role: Role
    identity: str | None
    group: str | None
    uses: int
    uses_left: int
    created_at: str
    expires_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSetupKey(SetupKey):
    """Likewise with the key, which is shown this once."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedSetupKey(SetupKey):
    """Likewise; of a dry run null: there is none, nor one of that id."""

    key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """Log records, newest last, as docs/PROTOCOL.md's Event, and the cursors of both ends.

    next      for `after`
    previous  for `before`; None: nothing lies before
    """

    items: tuple[Mapping[str, Any], ...]
    next: int
    previous: int | None = None
