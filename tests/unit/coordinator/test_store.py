"""Migrations lead to the models; a stale store is refused; both stores keep the same promises."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from coordinator import clock, logs, state
from coordinator.api.context import Service
from coordinator.settings import Settings
from coordinator.store import migrate
from coordinator.store.engine import Store, opened
from coordinator.store.models import AdminTokenRow, Base, ResourceRow
from tests.control.postgres import Server
from tests.unit.coordinator.test_network import add_node
from ztlab.errors import ZtError

ON_BOTH_STORES = True
NOW = clock.now()


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'empty.db'}")


def test_the_migrations_lead_to_the_models(service: Service) -> None:
    with service.store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_newest_migration_is_the_one_that_run_asks_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.HEAD]


def test_a_store_goes_up_and_down_again(empty: Store) -> None:
    from alembic import command

    migrate.upgrade(empty.engine)
    migrate.check(empty.engine)
    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    with empty.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with pytest.raises(ZtError, match="at migration none"):
        migrate.check(empty.engine)
    empty.close()


def test_a_resource_of_an_older_store_keeps_its_gateway_up_and_down(empty: Store) -> None:
    from alembic import command

    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    tag = "INSERT INTO tags (tag, name, allocated_at) VALUES (:t, :n, '2026-01-01 00:00:00')"
    one = "INSERT INTO resources (name, tag, cidr, gateway, via) VALUES (:n, :t, :c, 'gw', '[]')"
    older = [{"n": "lan", "t": 2, "c": "192.0.2.0/24"}, {"n": "six", "t": 3, "c": "2001:db8::/32"}]
    shown = text("SELECT name, gateway FROM resources ORDER BY name")
    with empty.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0006")
        for row in older:
            connection.execute(text(tag), row)
            connection.execute(text(one), row)
        command.upgrade(config, "head")
    with empty.writing() as session:
        lan, six = (state.resource_of(session.get_one(ResourceRow, n)) for n in ("lan", "six"))
        assert lan.gateways == six.gateways == ("gw",)
        assert (lan.priority, lan.alternatives) == (100, ())
        offer = {"gateway": "gw2", "priority": 1}
        session.get_one(ResourceRow, "lan").alternatives = [offer]
    with empty.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0006")
        assert [tuple(row) for row in connection.execute(shown)] == [("lan", "gw"), ("six", "gw")]
    empty.close()


def test_events_of_an_older_store_are_found_by_kind_and_time(service: Service) -> None:
    from alembic import command

    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    add_node(service, 1, "mesh")
    one = text(
        "INSERT INTO log_events (node_id, node, at, received_at, verdict, event) VALUES "
        "('node-1', 'n1', :at, :at, 'allowed', :event)"
    )
    with service.store.writing() as session:
        connection = session.connection()
        config.attributes["connection"] = connection
        command.downgrade(config, "0007")
        for day, kind in ((1, "flow"), (2, "packet"), (3, "flow")):
            at = f"2026-01-0{day} 00:00:00.000000"
            connection.execute(one, {"at": at, "event": json.dumps({"kind": kind, "day": day})})
        command.upgrade(config, "head")
    since = datetime(2026, 1, 2, tzinfo=UTC)
    with service.store.reading() as session:
        for wanted, days in (
            (logs.Search(kind="flow"), [1, 3]),
            (logs.Search(since=since), [2, 3]),
            (logs.Search(kind="packet", until=since), []),
        ):
            assert [event["day"] for event in logs.search(session, wanted)["items"]] == days


def test_an_empty_store_is_refused_with_a_hint(empty: Store) -> None:
    with pytest.raises(ZtError) as caught:
        migrate.check(empty.engine)
    assert "zt-coordinator init" in caught.value.hint
    empty.close()


def test_a_commit_is_on_the_disk_and_foreign_keys_hold(service: Service, dialect: str) -> None:
    if dialect == "postgresql":
        with service.store.writing() as session:
            assert session.scalar(text("SHOW synchronous_commit")) == "on"
        return
    with service.store.reading() as session:
        found = [session.scalar(text(f"PRAGMA {p}")) for p in ("journal_mode", "synchronous")]
        assert found == ["wal", 2]
        assert session.scalar(text("PRAGMA foreign_keys")) == 1


def test_writers_queue_and_lose_nothing(service: Service) -> None:
    def raise_by_one() -> None:
        for _ in range(20):
            with service.store.writing() as session:
                number = session.scalar(text("SELECT number FROM network"))
                session.execute(text("UPDATE network SET number = :n"), {"n": number + 1})

    writers = [threading.Thread(target=raise_by_one) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with service.store.reading() as session:
        assert session.scalar(text("SELECT number FROM network")) == 80


def test_a_reader_sees_one_snapshot(service: Service) -> None:
    query = text("SELECT number FROM network")
    with service.store.reading() as reader:
        before = reader.scalar(query)
        with service.store.writing() as writer:
            writer.execute(text("UPDATE network SET number = number + 1"))
        assert reader.scalar(query) == before


def test_what_fails_is_not_written(service: Service) -> None:
    with pytest.raises(RuntimeError), service.store.writing() as session:
        session.execute(text("UPDATE network SET number = 99"))
        raise RuntimeError
    with service.store.reading() as session:
        assert session.scalar(text("SELECT number FROM network")) == 0


@pytest.mark.parametrize("content", [b"no database " * 100, None])
def test_a_store_that_cannot_be_used_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / ("file.db" if content else "absent/file.db")
    if content:
        path.write_bytes(content)
    with pytest.raises(ZtError, match=f"cannot use the store at sqlite:///{path}"):
        with opened(f"sqlite:///{path}") as store:
            migrate.upgrade(store.engine)


def test_a_store_of_a_newer_program_is_left_alone(service: Service) -> None:
    with service.store.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ZtError, match="9999"):
        migrate.upgrade(service.store.engine)
    assert migrate.current(service.store.engine) == "9999"


def test_texts_are_in_the_order_of_their_bytes(service: Service) -> None:
    names = ["B", "a-b", "a", "aa", "é", "z"]
    with service.store.writing() as session:
        for number, name in enumerate(names):
            row = {"name": name, "hash": bytes([number]), "role": "viewer", "created_at": NOW}
            session.execute(insert(AdminTokenRow).values(row))
        found = session.scalars(select(AdminTokenRow.name).order_by(AdminTokenRow.name))
        assert [name for name in found if name in names] == sorted(names)


@pytest.mark.postgres
def test_a_database_that_sorts_by_a_language_is_refused(postgres_server: Server) -> None:
    options = ("LOCALE_PROVIDER icu", "ICU_LOCALE 'en-US'", "LOCALE 'C'", "ENCODING 'UTF8'")
    name = postgres_server.create("template0", *options)
    with opened(postgres_server.url(name)) as store:
        with pytest.raises(ZtError, match="sorts by a language") as caught:
            migrate.upgrade(store.engine)
        assert "--locale=C" in caught.value.hint
        assert migrate.current(store.engine) is None


@pytest.mark.postgres
def test_two_replicas_that_are_initialised_at_once_make_one_store(
    postgres_server: Server, at_once: Callable[..., None]
) -> None:
    url = postgres_server.url(postgres_server.create())

    def upgrade(_: int) -> None:
        with opened(url) as store:
            migrate.upgrade(store.engine)
            migrate.check(store.engine)

    at_once(upgrade, 4)


def test_writers_wait_for_each_other_and_readers_for_nobody(
    service: Service, settings: Settings
) -> None:
    other = Store(settings.database_url)
    order: list[str] = []

    def write() -> None:
        with other.writing() as session:
            assert session.scalar(text("SELECT number FROM network")) == 7
            order.append("second")

    with service.store.writing() as session:
        session.execute(text("UPDATE network SET number = 7"))
        second = threading.Thread(target=write)
        second.start()
        with other.reading() as reader:
            assert reader.scalar(text("SELECT number FROM network")) != 7
        second.join(0.2)
        order.append("first")
    second.join()
    other.close()
    assert order == ["first", "second"]


def test_a_failed_statement_is_told_without_what_it_carried(service: Service) -> None:
    with pytest.raises(IntegrityError) as caught, service.store.writing() as session:
        for _ in range(2):
            values = {"name": "a secret", "hash": b"x", "role": "viewer", "created_at": NOW}
            session.execute(insert(AdminTokenRow).values(values))
    assert "a secret" not in str(caught.value)
