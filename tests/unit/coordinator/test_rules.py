"""A rule is written by itself, and all of them at once; a store of before keeps what it had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text
from sqlalchemy.orm import Session

from coordinator import catalog, clock, network, references, rules
from coordinator.api.context import Service
from coordinator.catalog import IdentityBody, PolicyBody
from coordinator.store import migrate
from coordinator.store.engine import Store
from ztlab.errors import NotFound, SchemaError
from ztlab.model import codec
from ztlab.model.policy import Action, Rule

ON_BOTH_STORES = True


def rule(rule_id: str, action: Action = "allow", source: str = "a") -> Rule:
    return Rule(id=rule_id, source=source, destination="*", action=action, proto="tcp", ports=(80,))


def written(service: Service) -> list[tuple[str, str]]:
    with service.store.reading() as session:
        return [(entry["id"], entry["action"]) for entry in rules.list_rules(session)]


def put_policy(service: Service, *wanted: Rule) -> None:
    def work(session: Session) -> None:
        catalog.put_identity(session, IdentityBody(name="a"), clock.now())
        catalog.put_policy(session, PolicyBody(rules=wanted))

    network.change(service.store, service.hub, work)


def test_a_policy_replaces_every_rule_and_keeps_its_order(service: Service) -> None:
    put_policy(service, rule("z"), rule("b"), rule("m"))
    assert written(service) == [("z", "allow"), ("b", "allow"), ("m", "allow")]
    put_policy(service, rule("new"), rule("m", "deny"), rule("z"))
    assert written(service) == [("new", "allow"), ("m", "deny"), ("z", "allow")]
    put_policy(service)
    assert written(service) == []


def test_one_rule_is_put_in_its_place_or_at_the_end_and_the_others_stay(service: Service) -> None:
    put_policy(service, rule("z"), rule("b"))

    def work(session: Session) -> None:
        rules.put_rule(session, rule("z", "deny"))
        rules.put_rule(session, rule("c"))
        rules.put_rule(session, rule("a"))

    network.change(service.store, service.hub, work)
    assert written(service) == [("z", "deny"), ("b", "allow"), ("c", "allow"), ("a", "allow")]
    with service.store.reading() as session:
        assert rules.get_rule(session, "z") == codec.encode(rule("z", "deny"))


def test_one_rule_is_deleted_and_one_that_is_not_there_is_not_found(service: Service) -> None:
    put_policy(service, rule("first"), rule("second"))
    network.change(service.store, service.hub, lambda s: rules.delete_rule(s, "first"))
    assert written(service) == [("second", "allow")]
    with pytest.raises(NotFound, match='did you mean "second"'):
        network.change(service.store, service.hub, lambda s: rules.delete_rule(s, "secund"))


def test_a_rule_that_names_nobody_is_refused_and_not_written(service: Service) -> None:
    put_policy(service, rule("first"))
    stray = rule("stray", source="nobody")
    with pytest.raises(SchemaError) as caught:
        network.change(service.store, service.hub, lambda s: rules.put_rule(s, stray))
    assert caught.value.problems == ("policy.rules[1].from: nobody is called 'nobody'",)
    assert written(service) == [("first", "allow")]


def test_what_a_rule_names_is_found_at_its_place(service: Service) -> None:
    put_policy(service, rule("any", source="*"), rule("first"), rule("second"))
    with service.store.reading() as session:
        assert references.in_policy(session, "a") == [
            "policy.rules[1].from: names 'a'",
            "policy.rules[2].from: names 'a'",
        ]
        assert references.in_policy(session, "b") == []


def test_rules_of_an_older_store_move_into_their_table_and_back(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'older.db'}")
    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    entries = [codec.encode(rule("b")), codec.encode(rule("a", "deny"))]
    policy = {"default": "deny", "rules": entries, "tests": [], "quotas": []}
    with store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        connection.execute(
            text(
                "INSERT INTO network (id, network_id, name, pools, epoch, number, policy) "
                "VALUES (1, 'n', 'n', '[]', 'e', 1, :policy)"
            ),
            {"policy": json.dumps(policy)},
        )
        command.upgrade(config, "head")
    with store.writing() as session:
        assert rules.policy(session) == policy
        rules.put_rules(session, (rule("b"), rule("a", "deny")))
        assert not session.dirty and not session.new
    with store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
        assert json.loads(connection.scalar(text("SELECT policy FROM network"))) == policy
    store.close()
