"""The management API as typed calls, with an administrator's token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from ztlab.client.transport import SocketFactory, Transport
from ztlab.model import codec
from ztlab.model.config import Revision, Role
from ztlab.model.explanation import Explanation
from ztlab.model.history import AuditEntry, RevisionDocument, RevisionSummary
from ztlab.model.management import (
    ANY_TAG,
    DEFAULT_PRIORITY,
    AdminRole,
    AdminToken,
    Gateway,
    Group,
    Identity,
    LogPage,
    Network,
    NewSetupKey,
    Node,
    NodeConfiguration,
    Offer,
    Resource,
    SetupKey,
)
from ztlab.model.preview import Preview

T = TypeVar("T")
_PAGE = 1000  # the most that one answer carries


MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """An object as it was read, and the entity tag by which it is changed as that."""

    value: T
    etag: str


class AdminClient:
    """The management API at URL. Every method raises Refused (with the status) or Unreachable.

    Whoever changes an object says what it believes to change, by `etag`: that of a Stored, or
    ANY_TAG; None is "it is not there yet". Refused with 412 where it is not so any more.
    """

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

    def document(self) -> Stored[dict[str, Any]]:
        """Identities, groups, resources and policy, as put_document takes them."""
        return self.read("/network-document")

    def put_document(self, document: Mapping[str, Any], *, etag: str) -> Revision:
        """Replace identities, groups, resources and policy in one transaction."""
        return self.put("/network-document", document, etag=etag)

    def nodes(self, **filters: Any) -> tuple[Node, ...]:
        """Every node, revoked ones included, by name. FILTERS: role="mesh", name_prefix="db"."""
        return self._items("/nodes", Node, filters)

    def node(self, name: str) -> Node:
        """One node by name or id."""
        return self.stored(Node, "/nodes", name).value

    def configuration(self, name: str) -> NodeConfiguration:
        """Everything a node should have."""
        found = self.get(_path("/nodes", name) + "/configuration")
        return codec.decode(NodeConfiguration, found, path="configuration")

    def update_node(
        self, name: str, *, new_name: str, identity: str, endpoint: str | None, etag: str
    ) -> Revision:
        """Change a node's name, identity and endpoint."""
        body = {"name": new_name, "identity": identity, "endpoint": endpoint}
        return self.put(_path("/nodes", name), body, etag=etag)

    def revoke_node(self, name: str, *, etag: str = ANY_TAG) -> Revision:
        """Revoke a node: its stream ends at once, and nobody keeps it as a peer."""
        return self.delete(_path("/nodes", name), etag=etag)

    def gateways(self, **filters: Any) -> tuple[Gateway, ...]:
        """The nodes of that role, by name."""
        return self._items("/gateways", Gateway, filters)

    def drain_gateway(self, name: str, *, is_drained: bool, etag: str = ANY_TAG) -> Revision:
        """Prefer other gateways to this one for what they offer as well; or stop doing so."""
        return self.patch(_path("/gateways", name), {"is_drained": is_drained}, etag=etag)

    def create_setup_key(
        self,
        *,
        role: Role,
        name: str | None = None,
        identity: str | None = None,
        group: str | None = None,
        uses: int = 1,
        ttl_s: int = 86400,
    ) -> NewSetupKey:
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
        return codec.decode(NewSetupKey, answer, path="setup_key")

    def setup_keys(self, **filters: Any) -> tuple[SetupKey, ...]:
        """Every setup key, without the keys themselves."""
        return self._items("/setup-keys", SetupKey, filters)

    def delete_setup_key(self, key_id: str, *, etag: str = ANY_TAG) -> None:
        """Withdraw a setup key; nodes that used it stay."""
        self.delete(_path("/setup-keys", key_id), etag=etag)

    def create_token(self, name: str, role: AdminRole) -> str:
        """A new administrator's token, shown this once."""
        return str(self.call("POST", "/tokens", {"name": name, "role": role})["token"])

    def tokens(self, **filters: Any) -> tuple[AdminToken, ...]:
        """Every administrator's token, without the tokens themselves."""
        return self._items("/tokens", AdminToken, filters)

    def delete_token(self, name: str, *, etag: str = ANY_TAG) -> None:
        """That token is worth nothing any more; refused with 409 for the last owner's."""
        self.delete(_path("/tokens", name), etag=etag)

    def identities(self, **filters: Any) -> tuple[Identity, ...]:
        """Every identity, by name."""
        return self._items("/identities", Identity, filters)

    def create_identity(self, name: str) -> Revision:
        """A new identity; its tag is allocated."""
        return _revision(self.call("POST", "/identities", {"name": name}))

    def delete_identity(self, name: str, *, etag: str = ANY_TAG) -> Revision:
        """Refused with 409 while anything refers to it."""
        return self.delete(_path("/identities", name), etag=etag)

    def groups(self, **filters: Any) -> tuple[Group, ...]:
        """Every group, by name."""
        return self._items("/groups", Group, filters)

    def put_group(self, name: str, members: Iterable[str], *, etag: str | None) -> Revision:
        """Create or replace a group."""
        body = {"name": name, "members": list(members)}
        return self.put(_path("/groups", name), body, etag=etag)

    def delete_group(self, name: str, *, etag: str = ANY_TAG) -> Revision:
        """Refused with 409 while a rule names it."""
        return self.delete(_path("/groups", name), etag=etag)

    def resources(self, **filters: Any) -> tuple[Resource, ...]:
        """Every resource, by name."""
        return self._items("/resources", Resource, filters)

    def put_resource(
        self,
        name: str,
        *,
        cidr: str,
        gateway: str,
        priority: int = DEFAULT_PRIORITY,
        alternatives: Iterable[Offer] = (),
        via: Iterable[str] = (),
        etag: str | None,
    ) -> Revision:
        """Create or replace a resource; of its gateways the lowest priority goes first."""
        body = {
            "name": name,
            "cidr": cidr,
            "gateway": gateway,
            "priority": priority,
            "alternatives": codec.encode(list(alternatives)),
            "via": list(via),
        }
        return self.put(_path("/resources", name), body, etag=etag)

    def delete_resource(self, name: str, *, etag: str = ANY_TAG) -> Revision:
        """Refused with 409 while a rule names it."""
        return self.delete(_path("/resources", name), etag=etag)

    def policy(self) -> dict[str, Any]:
        """The policy as written: default, rules, tests, quotas."""
        return self.read("/policy").value

    def put_policy(self, policy: Mapping[str, Any], *, etag: str) -> Revision:
        """Replace the policy; refused with 422 if a name dangles or one of its tests fails."""
        return self.put("/policy", policy, etag=etag)

    def put_rule(self, rule: Mapping[str, Any], *, etag: str | None) -> Revision:
        """Create or replace the rule of that id."""
        return self.put(_path("/policy/rules", str(rule["id"])), rule, etag=etag)

    def delete_rule(self, rule_id: str, *, etag: str = ANY_TAG) -> Revision:
        """Take away one rule; refused with 422 if a test of the policy needs it."""
        return self.delete(_path("/policy/rules", rule_id), etag=etag)

    def logs(
        self,
        *,
        node: str | None = None,
        identity: str | None = None,
        verdict: str | None = None,
        kind: str | None = None,
        since: str | None = None,
        until: str | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> LogPage:
        """Log records, newest last: the last LIMIT, or with AFTER (a cursor) those that follow."""
        query = {
            "node": node,
            "identity": identity,
            "verdict": verdict,
            "kind": kind,
            "since": since,
            "until": until,
            "after": after,
            "limit": limit,
        }
        answer = self._transport.request("GET", "/logs", query=query)
        return LogPage(items=tuple(answer["items"]), next=int(answer["next"]))

    def stored(self, kind: type[T], collection: str, name: str) -> Stored[T]:
        """One object of a collection ("/groups") and its entity tag."""
        found = self.read(_path(collection, name))
        return Stored(codec.decode(kind, found.value, path=name), found.etag)

    def read(self, path: str) -> Stored[dict[str, Any]]:
        """GET PATH below /api/v1, with its entity tag."""
        answer, headers = self._transport.exchange("GET", path)
        return Stored(dict(answer), headers.get("ETag", ""))

    def put(self, path: str, body: Any, *, etag: str | None) -> Revision:
        """Create (etag None) or replace the object at PATH."""
        return self._write("PUT", path, body, _condition(etag))

    def patch(self, path: str, changes: Mapping[str, Any], *, etag: str) -> Revision:
        """Change some fields of the object at PATH (RFC 7396): null takes one away."""
        return self._write("PATCH", path, changes, _condition(etag))

    def rehearse(self, method: str, path: str, body: Any, *, etag: str | None) -> Preview:
        """What METHOD on PATH would change, and for whom; it is refused as that would be."""
        is_patch = method == "PATCH"
        answer, _ = self._transport.exchange(
            method,
            path,
            json.dumps(body).encode() if is_patch else body,
            query={"dry_run": "true"},
            content_type=MERGE_PATCH if is_patch else None,
            headers=_condition(etag),
        )
        return codec.decode(Preview, answer["preview"], path="preview")

    def explain(
        self, source: str, destination: str, *, proto: str = "any", port: int | None = None
    ) -> Explanation:
        """Who may reach whom, on what, and by which rule."""
        query = {"from": source, "to": destination, "proto": proto, "port": port}
        answer = self._transport.request("GET", "/explain", query=query)
        return codec.decode(Explanation, answer, path="explanation")

    def revisions(self, **filters: Any) -> tuple[RevisionSummary, ...]:
        """Every revision at which what administrators write changed, the newest first."""
        return self._items("/revisions", RevisionSummary, filters)

    def revision(self, at: Revision, *, against: str | None = None) -> RevisionDocument:
        """What was written then. AGAINST: "present" or EPOCH/NUMBER, to see what differs."""
        query = {"against": against}
        answer = self._transport.request("GET", _revision_path(at), query=query)
        return codec.decode(RevisionDocument, answer, path="revision")

    def roll_back(self, to: Revision, *, present: Revision | None = None) -> Revision:
        """Write what was written then again; refused with 409 where it does not fit any more.

        present  the revision that goes: refused with 412 if it is not the newest; None: any
        """
        tag = ANY_TAG if present is None else f'"{present.epoch}/{present.number}"'
        return self._write("POST", f"{_revision_path(to)}/rollback", None, _condition(tag))

    def audit(self, **filters: Any) -> tuple[AuditEntry, ...]:
        """Who changed what, the newest first. FILTERS: kind="rule", since="2026-…Z"."""
        return self._items("/audit", AuditEntry, filters)

    def delete(self, path: str, *, etag: str = ANY_TAG) -> Revision:
        """Delete the object at PATH."""
        return self._write("DELETE", path, None, _condition(etag))

    def get(self, path: str) -> Any:
        """GET PATH below /api/v1, as plain data."""
        return self.call("GET", path)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """METHOD PATH below /api/v1, as plain data: for what has no method here."""
        return self._transport.request(method, path, body)

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()

    def _write(self, method: str, path: str, body: Any, condition: Mapping[str, str]) -> Revision:
        is_patch = method == "PATCH"
        answer, _ = self._transport.exchange(
            method,
            path,
            json.dumps(body).encode() if is_patch else body,
            content_type=MERGE_PATCH if is_patch else None,
            headers=condition,
        )
        return _revision(answer)

    def _items(self, path: str, kind: type[T], filters: Mapping[str, Any]) -> tuple[T, ...]:
        """Every page of a collection."""
        items: list[T] = []
        query = {key: _text(value) for key, value in filters.items()} | {"limit": _PAGE}
        while True:
            page = self._transport.request("GET", path, query=query)
            items += (codec.decode(kind, item, path=path[1:]) for item in page["items"])
            if page["next"] is None:
                return tuple(items)
            query["cursor"] = page["next"]


def _path(collection: str, name: str) -> str:
    return f"{collection}/{quote(name, safe='')}"


def _revision_path(revision: Revision) -> str:
    return f"/revisions/{quote(revision.epoch, safe='')}/{revision.number}"


def _condition(etag: str | None) -> dict[str, str]:
    return {"If-None-Match": "*"} if etag is None else {"If-Match": etag}


def _text(value: Any) -> str | int:
    return str(value).lower() if isinstance(value, bool) else value


def _revision(answer: Mapping[str, Any]) -> Revision:
    return codec.decode(Revision, answer["revision"], path="revision")
