"""A network of thousands, written into a store at once: enrolment is measured by itself."""

from __future__ import annotations

import base64
import secrets
import uuid
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address

from sqlalchemy import insert
from sqlalchemy.orm import Session

from coordinator import clock, network, rules
from coordinator.catalog import PolicyBody
from coordinator.secrets import digest
from coordinator.store.engine import Store
from coordinator.store.models import AddressRow, IdentityRow, NodeRow, NodeTokenRow, TagRow
from ztlab.model.config import Role
from ztlab.model.identity import TAG_FIRST, client_id
from ztlab.model.policy import Rule

POOLS = ("10.64.0.0/12", "fd77::/64")
TOKEN_TTL = timedelta(hours=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededNode:
    """A node that is enrolled.

    token  its bearer token, good for hours
    """

    id: str
    name: str
    role: Role
    token: str


def public_key() -> str:
    """One that is valid, of nobody: what is measured never makes a handshake."""
    return base64.b64encode(secrets.token_bytes(31) + b"\x01").decode()


def seed(store: Store, roles: dict[Role, int], rule_count: int) -> list[SeededNode]:
    """Put so many nodes of each role, each with its identity, and so many rules into STORE."""
    nodes = [
        SeededNode(
            id=str(uuid.uuid4()), name=f"{role}{i}", role=role, token=secrets.token_urlsafe(32)
        )
        for role, count in roles.items()
        for i in range(count)
    ]
    with store.writing() as session:
        _insert(session, nodes)
        rules.put_rules(session, policy([node.name for node in nodes], rule_count).rules)
    network.reconcile(store)
    return nodes


def policy(names: list[str], count: int) -> PolicyBody:
    """COUNT rules, each between two of NAMES, on a port of its own."""
    made = (
        Rule(
            id=f"r{i}",
            source=names[i % len(names)],
            destination=names[(i * 7 + 1 + i // len(names)) % len(names)],
            proto="tcp",
            ports=(1024 + i % 60000,),
            action="deny" if i % 10 == 9 else "allow",
        )
        for i in range(count)
    )
    return PolicyBody(rules=tuple(made))


def _insert(session: Session, nodes: list[SeededNode]) -> None:
    now = clock.now()
    tags = [
        {"tag": TAG_FIRST + i, "name": node.name, "allocated_at": now}
        for i, node in enumerate(nodes)
    ]
    session.execute(insert(TagRow), tags)
    session.execute(insert(IdentityRow), [{"name": tag["name"], "tag": tag["tag"]} for tag in tags])
    session.execute(insert(NodeRow), [_row(i, node) for i, node in enumerate(nodes)])
    first = [ip_address(pool.partition("/")[0]) for pool in POOLS]
    held = [
        {"address": str(base + 1 + i), "pool": at, "node_id": node.id}
        for i, node in enumerate(nodes)
        for at, base in enumerate(first)
    ]
    session.execute(insert(AddressRow), held)
    tokens = [
        {"hash": digest(node.token), "node_id": node.id, "expires_at": now + TOKEN_TTL}
        for node in nodes
    ]
    session.execute(insert(NodeTokenRow), tokens)


def _row(number: int, node: SeededNode) -> dict[str, object]:
    key = public_key()
    is_client = node.role == "client"
    return {
        "id": node.id,
        "name": node.name,
        "role": node.role,
        "identity": node.name,
        "public_key": key,
        "client_id": client_id(key),
        "endpoint": None if is_client else f"198.18.{number // 250}.{number % 250 + 1}:51820",
        "enrolled_at": clock.now(),
        "wanted_epoch": "",
        "wanted_number": 0,
        "wanted_digest": "",
    }
