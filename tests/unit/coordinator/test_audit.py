"""The audit log: a row for each change, in its transaction; and nobody touches a row unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from coordinator import audit, clock, network
from coordinator.api.context import Service
from coordinator.counters import REGISTRY
from coordinator.store.models import AuditRow
from tests.unit.coordinator.test_network import add_identity

ON_BOTH_STORES = True

NOW = clock.now()
UNGUARD = {
    "sqlite": ("DROP TRIGGER audit_is_not_updated", "DROP TRIGGER audit_is_not_deleted"),
    "postgresql": ("DROP TRIGGER audit_is_append_only ON audit",),
}


def note(service: Service, name: str, after: dict[str, Any] | None = None) -> None:
    with service.store.writing() as session:
        audit.record(
            session, "token alice", "create", "group", name, None, after or {"name": name}, NOW
        )


def rows(service: Service) -> list[dict[str, Any]]:
    with service.store.reading() as session:
        found = session.scalars(select(AuditRow).order_by(AuditRow.id))
        return [audit.describe(row) for row in found]


def verified(service: Service, expect: str | None = None) -> audit.Verification:
    with service.store.reading() as session:
        return audit.verify(session, expect=expect)


def behind_its_back(service: Service, statement: str) -> None:
    """STATEMENT on the table, by somebody who may drop its triggers."""
    with service.store.writing() as session:
        for unguard in UNGUARD[service.store.engine.dialect.name]:
            session.execute(text(unguard))
        session.execute(text(statement))


@pytest.fixture
def four(service: Service) -> Service:
    for name in ("a", "b", "c", "d"):
        note(service, name)
    return service


def test_each_row_names_the_hash_of_the_one_before(four: Service) -> None:
    log = rows(four)

    assert [row["name"] for row in log[-4:]] == ["a", "b", "c", "d"]
    assert [row["previous"] for row in log] == [audit.START, *(row["hash"] for row in log[:-1])]
    assert all(
        row["hash"] == audit.row_hash({k: v for k, v in row.items() if k != "hash"}) for row in log
    )
    found = verified(four, expect=log[-2]["hash"])
    assert found.is_intact and (found.rows, found.head) == (len(log), log[-1]["hash"])
    with four.store.reading() as session:
        assert audit.head(session) == {"id": log[-1]["id"], "hash": log[-1]["hash"]}


def test_a_row_carries_the_revision_that_its_transaction_made(service: Service) -> None:
    def work(session: Session) -> None:
        audit.record(session, "token alice", "test", "x", "before", None, {}, NOW)
        network.lock(session).number = 41

    with service.store.writing() as session:
        work(session)

    assert rows(service)[-1]["revision"]["number"] == 41


def test_what_is_not_committed_is_not_in_the_log(service: Service) -> None:
    note(service, "kept")
    before = rows(service)

    with pytest.raises(RuntimeError), service.store.writing() as session:
        audit.record(session, "token alice", "create", "group", "lost", None, {}, NOW)
        raise RuntimeError

    assert rows(service) == before


def test_what_changes_nothing_leaves_no_row(service: Service) -> None:
    note(service, "kept")
    before = rows(service)
    with service.store.writing() as session:
        audit.record(session, "token a", "update", "group", "g", {"x": [1]}, {"x": [1]}, NOW)

    assert rows(service) == before


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit"])
def test_the_store_refuses_to_change_or_delete_rows(four: Service, statement: str) -> None:
    before = rows(four)

    with pytest.raises(DBAPIError, match="append-only"), four.store.writing() as session:
        session.execute(text(statement))

    assert rows(four) == before and before


def forged(session: Session) -> None:
    session.execute(
        text(
            "INSERT INTO audit SELECT id + 1, at, actor, action, kind, 'forged', epoch, number, "
            "before, after, previous, CASE substr(hash, 1, 1) WHEN 'f' THEN 'e' ELSE 'f' END || "
            "substr(hash, 2) FROM audit ORDER BY id DESC LIMIT 1"
        )
    )


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE audit SET actor = 'mallory' WHERE name = 'b'", "row {b}: was changed"),
        ("UPDATE audit SET after = '{{}}' WHERE name = 'b'", "row {b}: was changed"),
        ("UPDATE audit SET at = '2020-01-01 00:00:00.000000' WHERE name = 'b'", "row {b}: was"),
        ("DELETE FROM audit WHERE name = 'b'", "row {b} is missing"),
        ("DELETE FROM audit WHERE name IN ('b', 'c')", "rows {b} to {c} are missing"),
        ("UPDATE audit SET id = id + 100 WHERE name = 'd'", "rows {d} to"),
    ],
)
def test_a_row_that_was_changed_or_removed_is_named(
    four: Service, statement: str, fault: str
) -> None:
    ids = {row["name"]: row["id"] for row in rows(four)}
    assert verified(four).is_intact

    behind_its_back(four, statement.format(**ids))

    found = verified(four)
    assert any(line.startswith(fault.format(**ids)) for line in found.faults), found.faults


def test_a_row_whose_hash_was_computed_again_does_not_fit_the_next(four: Service) -> None:
    b = next(row for row in rows(four) if row["name"] == "b")
    content = {k: v for k, v in b.items() if k != "hash"} | {"actor": "mallory"}
    behind_its_back(
        four,
        f"UPDATE audit SET actor = 'mallory', hash = '{audit.row_hash(content)}' "
        f"WHERE id = {b['id']}",
    )

    (fault,) = verified(four).faults
    assert fault.startswith(f"row {b['id'] + 1}: does not follow row {b['id']}")


def test_an_inserted_row_is_named(four: Service) -> None:
    last = rows(four)[-1]["id"]
    with four.store.writing() as session:
        forged(session)

    assert any(line.startswith(f"row {last + 1}: ") for line in verified(four).faults)


def test_what_was_cut_off_at_the_end_is_missed_by_who_noted_the_hash(four: Service) -> None:
    noted = rows(four)[-1]["hash"]
    behind_its_back(four, "DELETE FROM audit WHERE name IN ('c', 'd')")

    assert verified(four).is_intact  # the chain alone cannot tell
    (fault,) = verified(four, expect=noted).faults
    assert noted in fault


def test_a_secret_is_not_taken_into_the_log(service: Service) -> None:
    with pytest.raises(ValueError, match="key must not stand"), service.store.writing() as session:
        audit.record(session, "token a", "create", "setup-key", "1", None, {"key": "zts_"}, NOW)


def test_writers_at_once_make_one_chain(service: Service, at_once: Callable[..., None]) -> None:
    at_once(lambda number: note(service, f"w{number}"), 8)

    assert verified(service).is_intact
    assert {f"w{n}" for n in range(8)} <= {row["name"] for row in rows(service)}
    add_identity(service, "after")  # and the network goes on


def test_a_change_of_the_network_leaves_a_row_for_each_object(service: Service) -> None:
    before = len(rows(service))
    revision = add_identity(service, "web")
    (row,) = rows(service)[before:]

    assert (row["actor"], row["action"], row["kind"], row["name"]) == (
        audit.OPERATOR,
        "create",
        "identity",
        "web",
    )
    assert row["before"] is None and row["after"] == {"name": "web", "tag": 2}
    assert row["revision"] == {"epoch": revision.epoch, "number": revision.number}

    add_identity(service, "web")  # changes nothing
    assert len(rows(service)) == before + 1


def test_the_newest_hash_is_in_the_metrics(service: Service) -> None:
    note(service, "a")
    newest = rows(service)[-1]

    assert REGISTRY.get_sample_value("zt_coordinator_audit_rows") == newest["id"]
    labels = {"hash": newest["hash"]}
    assert REGISTRY.get_sample_value("zt_coordinator_audit_head_info", labels) == 1
    note(service, "b")
    assert REGISTRY.get_sample_value("zt_coordinator_audit_head_info", labels) is None
