"""Who did what, as a running coordinator and its commands put it into the audit log."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from sqlalchemy import select

from coordinator import audit
from coordinator.store.engine import opened
from coordinator.store.models import AuditRow
from tests.control.process import Coordinator, Keys, cli, running
from ztlab.model.identity import client_id


def log_of(here: Coordinator) -> list[dict[str, Any]]:
    """Every row, of a chain that holds."""
    database = here.directory / "state" / "ztlab.db"
    with opened(f"sqlite:///{database}") as store, store.reading() as session:
        assert audit.verify(session).is_intact
        rows = session.scalars(select(AuditRow).order_by(AuditRow.id))
        return [audit.describe(row) for row in rows]


def said(rows: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    return [(row["actor"], row["action"], row["kind"], row["name"]) for row in rows]


def test_a_life_with_a_coordinator_is_in_its_audit_log() -> None:
    with running() as here:
        client, keys = here.enrol("alice", role="client")
        new = Keys()
        client.rotate(
            public_key=keys.public,
            prove=keys.prove,
            new_public_key=new.public,
            new_prove=new.prove,
            wait_s=60,
        )
        client.commit_rotation(new.public)
        with closing(here.admin()) as admin:
            (key,) = admin.setup_keys()
        cli("token", "create", "--name", "ci", "--role", "viewer", at=here.directory)
        cli("backup", str(here.directory / "copy"), at=here.directory)
        here.stop()
        cli("restored", at=here.directory)

        rows = log_of(here)

    owner, operator, joins = "token init", audit.OPERATOR, audit.setup_key(key.id)
    assert [row for row in said(rows) if row[0] != owner] == [
        (operator, "init", "network", "test"),
        (operator, "create", "token", "init"),
        (joins, "use", "setup-key", key.id),
        (joins, "enrol", "node", "alice"),
        (joins, "create", "identity", "alice"),
        (f"key {client_id(keys.public)}", "rotate", "node", "alice"),
        ("node alice", "rotate", "node", "alice"),
        (operator, "create", "token", "ci"),
        (operator, "backup", "network", "copy"),
        (operator, "restored", "network", "test"),
    ]
    committed = rows[[row["actor"] for row in rows].index("node alice")]
    assert committed["before"]["public_key"] == keys.public
    assert committed["after"]["public_key"] == new.public
