"""Every revision can be read back as it was, and gone back to."""

from __future__ import annotations

import json
import random
import zlib
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select

from coordinator import audit, catalog, clock, document, network, nodes, revisions, rollback, state
from coordinator.api.context import Service
from coordinator.catalog import DocumentBody, GroupBody, IdentityBody, PolicyBody, ResourceBody
from coordinator.document import Document
from coordinator.errors import Conflict
from coordinator.store.models import AuditRow, RevisionRow
from tests.unit.coordinator.test_network import add_node
from ztlab.errors import NotFound
from ztlab.model import codec
from ztlab.model.config import Revision
from ztlab.model.management import Offer

ON_BOTH_STORES = True
NOW = clock.now()
BY = audit.token("alice")


def present(service: Service) -> Document:
    with service.store.reading() as session:
        return document.of(state.load(session))


def at(service: Service, revision: Revision) -> Document:
    with service.store.reading() as session:
        return revisions.document_at(session, revision.epoch, revision.number)


def kept(service: Service) -> int:
    with service.store.reading() as session:
        return session.scalar(select(func.count()).select_from(RevisionRow)) or 0


def change(service: Service, work: Any) -> Revision:
    return network.change(service.store, service.hub, lambda s: work(s) and None, BY)[1]


def back(service: Service, revision: Revision) -> Revision:
    return change(
        service, lambda s: rollback.roll_back(s, revision.epoch, revision.number, BY, NOW)
    )


def rule(number: int, chance: random.Random) -> dict[str, Any]:
    return {
        "id": f"r{number}",
        "from": chance.choice(("web", "db", "*", "world")),
        "to": chance.choice(("web", "db", "*")),
        "action": chance.choice(("allow", "deny")),
        "proto": "tcp",
        "ports": [chance.randrange(65536)],
    }


def random_document(chance: random.Random) -> Document:
    """Names come and go, rules are added in the midst, taken away, changed, put in order anew."""
    rules = [rule(n, chance) for n in range(12) if chance.random() < 0.6]
    if chance.random() < 0.3:
        chance.shuffle(rules)
    more = [f"i{n}" for n in range(6) if chance.random() < 0.5]
    resources = [
        {
            "name": f"net{n}",
            "cidr": f"192.0.{n}.0/24",
            "gateway": "n1",
            "priority": chance.randrange(3),
            "alternatives": [{"gateway": "n2", "priority": 9}][: chance.randrange(2)],
            "via": [],
        }
        for n in range(4)
        if chance.random() < 0.5
    ]
    return {
        "identities": ["web", "db", *more],
        "groups": {f"g{n}": more[: chance.randrange(6)] for n in range(chance.randrange(3))},
        "resources": resources,
        "policy": {
            "default": chance.choice(("allow", "deny")),
            "rules": rules,
            "tests": [],
            "quotas": [{"identity": "web", "rate": "1mbit", "burst": "9kB"}][: chance.randrange(2)],
        },
    }


def test_whatever_was_changed_each_revision_is_read_back_as_it_was(service: Service) -> None:
    chance = random.Random(7)
    add_node(service, 1, "gateway")
    add_node(service, 2, "gateway")
    seen: dict[int, Document] = {}
    revision = None
    for step in range(40):
        body = codec.decode(DocumentBody, random_document(chance))
        revision = change(service, lambda s, b=body: catalog.put_document(s, b, NOW))
        if step % 7 == 3:
            revision = change(service, lambda s: nodes.find(s, "n1").__setattr__("endpoint", None))
        seen[revision.number] = present(service)

    assert len(seen) > 30 and revision is not None
    for number, then in seen.items():
        assert at(service, Revision(epoch=revision.epoch, number=number)) == then
    first = at(service, Revision(epoch=revision.epoch, number=0))
    assert first["identities"] == [] and first["policy"]["rules"] == []


def add(name: str) -> Any:
    return lambda s: catalog.put_identity(s, IdentityBody(name=name), NOW)


def test_a_revision_at_which_only_nodes_changed_is_that_before(service: Service) -> None:
    add_node(service, 1, "mesh")
    rows, before = kept(service), present(service)

    revision = change(service, lambda s: nodes.find(s, "n1").__setattr__("endpoint", "h.test:1"))

    assert kept(service) == rows and at(service, revision) == before


def test_a_rollback_is_a_new_revision_with_the_old_document(service: Service) -> None:
    then = change(service, add("web"))
    old = present(service)
    later = change(service, lambda s: catalog.delete_identity(s, "web", NOW))
    change(service, lambda s: catalog.put_policy(s, PolicyBody(default="allow")))
    assert present(service) != old  # control: there is something to go back over

    now = back(service, then)

    assert present(service) == old == at(service, now)
    assert now.number == later.number + 2
    assert at(service, later) != old  # nothing of what was between is lost
    with service.store.reading() as session:
        row = session.scalars(select(AuditRow).where(AuditRow.action == "rollback")).one()
        assert (row.actor, row.name) == (BY, f"{then.epoch}/{then.number}")
        assert audit.verify(session).is_intact
    assert back(service, now) == now  # again: nothing


def test_a_resource_of_before_there_were_priorities_is_read_back_with_the_usual_one(
    service: Service,
) -> None:
    add_node(service, 1, "gateway")
    add_node(service, 2, "gateway")
    body = ResourceBody(name="lan", cidr="192.0.2.0/24", gateway="n1")
    then = change(service, lambda s: catalog.put_resource(s, body, NOW))
    old = present(service)
    more = replace(body, alternatives=(Offer(gateway="n2", priority=1),))
    revision = change(service, lambda s: catalog.put_resource(s, more, NOW))
    with service.store.writing() as session:
        key = {"epoch": revision.epoch, "number": revision.number}
        row = session.scalars(select(RevisionRow).filter_by(**key)).one()
        ((kind, name, was, place),) = json.loads(zlib.decompress(row.undo))
        assert was.pop("priority") == 100 and was.pop("alternatives") == []
        # As the program wrote it that knew of none.
        row.undo = zlib.compress(codec.canonical([[kind, name, was, place]]))

    assert at(service, then) == old
    back(service, then)
    assert present(service) == old


def test_a_rollback_that_does_not_fit_any_more_says_why_and_does_nothing(service: Service) -> None:
    add_node(service, 1, "gateway")
    body = ResourceBody(name="lan", cidr="192.0.2.0/24", gateway="n1")
    then = change(service, lambda s: catalog.put_resource(s, body, NOW))
    change(service, lambda s: catalog.delete_resource(s, "lan", NOW))
    change(service, lambda s: nodes.revoke(s, "n1", NOW))
    before = present(service)

    with pytest.raises(Conflict) as caught:
        back(service, then)

    assert "resources[0].gateway: no gateway is called 'n1'" in caught.value.problems[0]
    assert present(service) == before


def test_what_is_not_known_is_not_found(service: Service) -> None:
    now = change(service, add("web"))
    for epoch, number in ((now.epoch, now.number + 1), ("0" * 32, 0)):
        with pytest.raises(NotFound):
            at(service, Revision(epoch=epoch, number=number))


def test_the_oldest_are_forgotten_and_the_newest_still_read(service: Service) -> None:
    made = [(change(service, add(f"i{n}")), present(service)) for n in range(8)]
    with service.store.writing() as session:
        assert revisions.prune(session, 3) == 6  # with the one of `init`

    for revision, then in made[-3:]:
        assert at(service, revision) == then
    with pytest.raises(NotFound, match="not kept any more"):
        at(service, made[-4][0])


def test_revisions_of_an_epoch_that_is_over_are_read_as_well(service: Service) -> None:
    old = change(service, add("web"))
    then = present(service)
    with service.store.writing() as session:
        network.begin_epoch(session)
        session.flush()
        revisions.begin(session, audit.OPERATOR, NOW)
    new = change(service, lambda s: catalog.delete_identity(s, "web", NOW))

    assert new.epoch != old.epoch
    assert at(service, old) == then == at(service, Revision(epoch=new.epoch, number=1))
    assert at(service, new)["identities"] == []


def test_one_change_among_ten_thousand_rules_keeps_little(service: Service) -> None:
    rules = [rule(n, random.Random(n)) for n in range(10_000)]
    for one in rules:
        one["from"] = one["to"] = "*"
    body = codec.decode(PolicyBody, {"rules": rules})
    change(service, lambda s: catalog.put_policy(s, body))

    group = GroupBody(name="g", members=())
    change(service, lambda s: catalog.put_group(s, group))

    with service.store.reading() as session:
        newest = select(RevisionRow).order_by(RevisionRow.id.desc()).limit(1)
        assert len(session.scalars(newest).one().undo) < 200
