"""The management API as typed calls, with an administrator's token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from ztlab.client.keys import FormerKey, KeyChange
from ztlab.client.transport import SocketFactory, Transport
from ztlab.model import codec
from ztlab.model.codec import field
from ztlab.model.config import Revision, Role

T = TypeVar("T")


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
class Resource:
    """A named CIDR behind a gateway."""

    name: str
    tag: int
    cidr: str
    gateway: str
    via: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupKey:
    """A setup key; KEY itself is there only in the answer that made it.

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
    key: str | None = field(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """Log records, newest last, as docs/PROTOCOL.md's Event; NEXT is the cursor for `after`."""

    items: tuple[Mapping[str, Any], ...]
    next: int


class AdminClient:
    """The management API at URL. Every method raises Refused (with the status) or Unreachable."""

    def __init__(
        self,
        url: str,
        authority_pem: str,
        token: str,
        socket_factory: SocketFactory | None = None,
    ) -> None:
        self._transport = Transport(url, authority_pem, token, socket_factory=socket_factory)

    def network(self) -> Network:
        """Name, pools, revision, and whether every node has acknowledged what it should have."""
        return codec.decode(Network, self.get("/network"), path="network")

    def put_document(self, document: Mapping[str, Any]) -> Revision:
        """Replace identities, groups, resources and policy in one transaction."""
        return _revision(self.call("PUT", "/network-document", document))

    def nodes(self) -> tuple[Node, ...]:
        """Every node, revoked ones included, by name."""
        return self._items("/nodes", Node)

    def node(self, name: str) -> Node:
        """One node by name or id."""
        return codec.decode(Node, self.get(f"/nodes/{quote(name, safe='')}"), path="node")

    def update_node(
        self, name: str, *, new_name: str, identity: str, endpoint: str | None
    ) -> Revision:
        """Change a node's name, identity and endpoint."""
        body = {"name": new_name, "identity": identity, "endpoint": endpoint}
        return _revision(self.call("PUT", f"/nodes/{quote(name, safe='')}", body))

    def revoke_node(self, name: str) -> Revision:
        """Revoke a node: its stream ends at once, and nobody keeps it as a peer."""
        return _revision(self.call("DELETE", f"/nodes/{quote(name, safe='')}"))

    def create_setup_key(
        self,
        *,
        role: Role,
        name: str | None = None,
        identity: str | None = None,
        group: str | None = None,
        uses: int = 1,
        ttl_s: int = 86400,
    ) -> SetupKey:
        """A new setup key, whose `key` is shown this once."""
        body = {
            "name": name,
            "role": role,
            "identity": identity,
            "group": group,
            "uses": uses,
            "ttl_s": ttl_s,
        }
        answer = dict(self.call("POST", "/setup-keys", body))
        answer.pop("revision", None)
        return codec.decode(SetupKey, answer, path="setup_key")

    def setup_keys(self) -> tuple[SetupKey, ...]:
        """Every setup key, without the keys themselves."""
        return self._items("/setup-keys", SetupKey)

    def delete_setup_key(self, key_id: str) -> None:
        """Withdraw a setup key; nodes that used it stay."""
        self.call("DELETE", f"/setup-keys/{quote(key_id, safe='')}")

    def identities(self) -> tuple[Identity, ...]:
        """Every identity, by name."""
        return self._items("/identities", Identity)

    def create_identity(self, name: str) -> Revision:
        """A new identity; its tag is allocated."""
        return _revision(self.call("POST", "/identities", {"name": name}))

    def delete_identity(self, name: str) -> Revision:
        """Refused with 409 while anything refers to it."""
        return _revision(self.call("DELETE", f"/identities/{quote(name, safe='')}"))

    def groups(self) -> tuple[Group, ...]:
        """Every group, by name."""
        return self._items("/groups", Group)

    def put_group(self, name: str, members: Iterable[str]) -> Revision:
        """Create or replace a group."""
        body = {"name": name, "members": list(members)}
        return _revision(self.call("PUT", f"/groups/{quote(name, safe='')}", body))

    def delete_group(self, name: str) -> Revision:
        """Refused with 409 while a rule names it."""
        return _revision(self.call("DELETE", f"/groups/{quote(name, safe='')}"))

    def resources(self) -> tuple[Resource, ...]:
        """Every resource, by name."""
        return self._items("/resources", Resource)

    def put_resource(
        self, name: str, *, cidr: str, gateway: str, via: Iterable[str] = ()
    ) -> Revision:
        """Create or replace a resource."""
        body = {"name": name, "cidr": cidr, "gateway": gateway, "via": list(via)}
        return _revision(self.call("PUT", f"/resources/{quote(name, safe='')}", body))

    def delete_resource(self, name: str) -> Revision:
        """Refused with 409 while a rule names it."""
        return _revision(self.call("DELETE", f"/resources/{quote(name, safe='')}"))

    def policy(self) -> dict[str, Any]:
        """The policy as written: default, rules, tests."""
        document = dict(self.get("/policy"))
        document.pop("revision", None)
        return document

    def put_policy(self, policy: Mapping[str, Any]) -> Revision:
        """Replace the policy; refused with 422 if a name dangles or one of its tests fails."""
        return _revision(self.call("PUT", "/policy", policy))

    def logs(
        self,
        *,
        node: str | None = None,
        identity: str | None = None,
        verdict: str | None = None,
        since: str | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> LogPage:
        """Log records, newest last: the last LIMIT, or with AFTER (a cursor) those that follow."""
        query = {
            "node": node,
            "identity": identity,
            "verdict": verdict,
            "since": since,
            "after": after,
            "limit": limit,
        }
        answer = self._transport.request("GET", "/logs", query=query)
        return LogPage(items=tuple(answer["items"]), next=int(answer["next"]))

    def get(self, path: str) -> Any:
        """GET PATH below /api/v1, as plain data."""
        return self.call("GET", path)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """METHOD PATH below /api/v1, as plain data: for what has no method here."""
        return self._transport.request(method, path, body)

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()

    def _items(self, path: str, kind: type[T]) -> tuple[T, ...]:
        items = self.get(path)["items"]
        return tuple(codec.decode(kind, item, path=path[1:]) for item in items)


def _revision(answer: Mapping[str, Any]) -> Revision:
    return codec.decode(Revision, answer["revision"], path="revision")
