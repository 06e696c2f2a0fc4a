"""Whatever is changed, and in whatever order: what a process knows is what its store says, those
whom a change concerns are those whose configuration it changed, and a look at what changed finds
the faults that a look at everything finds."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import allocation, catalog, clock, network, nodes, rotation, rules, state
from coordinator import validation as validation_module
from coordinator.catalog import GroupBody, IdentityBody, PolicyBody, ResourceBody
from coordinator.distribute import View
from coordinator.errors import Conflict
from coordinator.hub import Hub
from coordinator.network import Made
from coordinator.nodes import NodeBody
from coordinator.rotation import CommitRequest
from coordinator.state import NetworkState
from coordinator.store.engine import Store
from coordinator.store.models import FormerKeyRow, IdentityRow, NodeRow, RotationRow
from tests.unit.coordinator import networks
from ztlab.errors import ZtError
from ztlab.model.identity import client_id
from ztlab.model.policy import PolicyTest, Quota, Rule

ON_BOTH_STORES = True

NOW = clock.now()
Work = Callable[[Session], object]

NAMES = st.sampled_from(["a", "b", "c", "n1", "n2", "g", "r"])
NODES = st.sampled_from([f"n{number}" for number in range(1, 6)])
ENDS = st.sampled_from(["a", "b", "n1", "g", "r", "world", "*", "nobody"])
ROLES = st.sampled_from(["client", "gateway", "mesh"])
RULES = st.builds(
    Rule,
    id=st.sampled_from(["r1", "r2", "r3", "r4"]),
    source=ENDS,
    destination=ENDS,
    action=st.sampled_from(["allow", "deny"]),
)
TESTS = st.builds(
    PolicyTest, source=ENDS, destination=ENDS, expect=st.sampled_from(["allow", "deny"])
)
POLICIES = st.builds(
    PolicyBody,
    default=st.sampled_from(["allow", "deny"]),
    rules=st.lists(RULES, max_size=4, unique_by=lambda rule: rule.id).map(tuple),
    tests=st.lists(TESTS, max_size=2).map(tuple),
    quotas=st.just(()) | st.just((Quota(identity="a", rate="1mbit", burst="10kB"),)),
)


def add_node(session: Session, name: str, role: str, identity: str) -> None:
    if session.get(IdentityRow, identity) is None:
        catalog.put_identity(session, IdentityBody(name=identity), NOW)
    if name in session.scalars(select(NodeRow.name).where(NodeRow.revoked_at.is_(None))):
        raise Conflict("there is one")
    key = next_key(session)
    node = NodeRow(
        id=f"id of {key}",
        name=name,
        role=role,
        identity=identity,
        public_key=key,
        client_id=client_id(key),
        endpoint=None,
        enrolled_at=NOW,
        wanted_epoch="",
        wanted_number=0,
        wanted_digest="",
    )
    session.add(node)
    session.flush()
    allocation.allocate_addresses(session, node.id, NOW)


def start(session: Session) -> None:
    """A node of each role, and two that meet."""
    for node in (
        ("n1", "client", "a"),
        ("n2", "gateway", "b"),
        ("n3", "mesh", "a"),
        ("n4", "mesh", "c"),
    ):
        add_node(session, *node)


def next_key(session: Session) -> str:
    """One that was never used: every key stays in one of these tables."""
    tables = (NodeRow, RotationRow, FormerKeyRow)
    return networks.key(1 + sum(len(session.scalars(select(t)).all()) for t in tables))


def announce(session: Session, name: str) -> None:
    node = nodes.find(session, name)
    if node.revoked_at is not None or session.get(RotationRow, node.id) is not None:
        raise Conflict("not now")
    session.add(
        RotationRow(
            node_id=node.id,
            public_key=next_key(session),
            epoch="e",
            number=0,
            started_at=NOW,
            deadline_at=NOW - timedelta(seconds=1),
        )
    )
    session.flush()


def commit(session: Session, name: str) -> None:
    node = nodes.find(session, name)
    row = session.get(RotationRow, node.id)
    key = row.public_key if row else "none"
    rotation.commit(session, node.id, None, CommitRequest(public_key=key), NOW)


def put_node(session: Session, name: str, to: str, identity: str, port: int) -> None:
    body = NodeBody(name=to, identity=identity, endpoint=f"192.0.2.1:{port}")
    nodes.put(session, name, body)


def put_resource(session: Session, name: str, net: int, gateway: str) -> None:
    via = (f"198.51.100.{net}",)
    cidr = f"192.0.{net}.0/24"
    body = ResourceBody(name=name, cidr=cidr, gateway=gateway, via=via)
    catalog.put_resource(session, body, NOW)


def works(function: Any, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Work]:
    def bound(given: tuple[Any, ...]) -> Work:
        return lambda session: function(session, *given)

    return st.tuples(*arguments).map(bound)


NETS = st.integers(0, 2)
WORKS = st.one_of(
    works(lambda s, n: catalog.put_identity(s, IdentityBody(name=n), NOW), NAMES),
    works(lambda s, n: catalog.delete_identity(s, n, NOW), NAMES),
    works(
        lambda s, n, m: catalog.put_group(s, GroupBody(name=n, members=tuple(m))),
        st.just("g") | NAMES,
        st.lists(NAMES, max_size=3),
    ),
    works(lambda s: catalog.delete_group(s, "g", NOW)),
    works(put_resource, st.sampled_from(["r", "s", "a"]), NETS, NODES),
    works(lambda s, n: catalog.delete_resource(s, n, NOW), st.sampled_from(["r", "s"])),
    works(catalog.put_policy, POLICIES),
    works(rules.put_rule, RULES),
    works(rules.delete_rule, st.sampled_from(["r1", "r2", "r3", "r4"])),
    works(add_node, NODES, ROLES, NAMES),
    works(put_node, NODES, NODES, NAMES, st.integers(1, 3)),
    works(lambda s, n: nodes.revoke(s, n, NOW), NODES),
    works(announce, NODES),
    works(commit, NODES),
)


def digests(where: NetworkState) -> dict[str, str]:
    """What every node is told, looked at anew."""
    view = View.of(where)
    return {node.id: view.config(node.id).digest() for node in where.nodes}


@contextmanager
def opened(template: Path, directory: Path) -> Iterator[Store]:
    copy = shutil.copytree(template, directory / str(uuid.uuid4()))
    store = Store(networks.settings(copy, pools=("10.77.0.0/24", "fd77::/64")).database_url)
    with store.writing() as session:
        network.lock(session).pools = ["10.77.0.0/24", "fd77::/64"]
    try:
        yield store
    finally:
        store.close()
        shutil.rmtree(copy)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The faults of every change that was validated; each was compared with a look at all."""
    found: list[list[str]] = []
    faults = validation_module.faults

    def compared(after: NetworkState, before: NetworkState | None = None) -> list[str]:
        whole = faults(after)
        assert faults(after, before) == whole
        found.append(whole)
        return whole

    monkeypatch.setattr(validation_module, "faults", compared)
    return found


def test_what_is_known_is_what_is_stored_and_whom_it_concerns_is_told(
    template: Path, tmp_path: Path, looked: list[list[str]]
) -> None:
    done = refused = alone = 0

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.lists(WORKS, min_size=4, max_size=16))
    def claim(sequence: list[Work]) -> None:
        nonlocal done, refused, alone
        with opened(template, tmp_path) as store:
            hub = Hub()
            network.change(store, hub, start)
            for work in sequence:
                before = stored(store)
                try:
                    made = made_by(store, hub, work)
                except ZtError:
                    refused += 1
                    assert stored(store) == before
                    continue
                after = stored(store)
                known = hub.memory.known
                assert known is not None and known.network == after
                told, tells = digests(before), digests(after)
                changed = {who for who in told | tells if told.get(who) != tells.get(who)}
                assert made.concerned == changed
                assert {who: w.digest for who, w in known.wanted.items()} == tells
                assert known.revision == revision(store)
                done += 1
                alone += len(changed) < len(tells)

    claim()
    # The generator must not have lost its grip: changes were made, some refused, few concern all.
    assert done > 60 and refused > 20 and alone > 30
    assert any(looked) and not all(looked)


def made_by(store: Store, hub: Hub, work: Work) -> Made[object]:
    """As network.change, but for its answer."""
    made: list[Made[object]] = []

    def kept(session: Session) -> object:
        return work(session)

    with pytest.MonkeyPatch.context() as patch:
        attempt = network.attempt

        def remembered(*given: Any) -> Made[object]:
            made.append(attempt(*given))
            return made[0]

        patch.setattr(network, "attempt", remembered)
        network.change(store, hub, kept)
    return made[0]


def stored(store: Store) -> NetworkState:
    with store.reading() as session:
        return state.load(session)


def revision(store: Store) -> Any:
    with store.reading() as session:
        return network.revision(session)


def test_another_processs_commit_is_noticed_and_wakes_whom_it_concerns(
    template: Path, tmp_path: Path
) -> None:
    with opened(template, tmp_path) as store:
        here, there = Hub(), Hub()
        network.change(store, here, start)
        network.refresh(store, there)
        ids = {node.name: node.id for node in stored(store).nodes}
        with there.subscription(ids["n1"]) as client, there.subscription(ids["n3"]) as mesh:
            body = IdentityBody(name="news")
            network.change(store, here, lambda s: catalog.put_identity(s, body, NOW))
            assert not mesh.wait(0)
            network.refresh(store, there)
            assert mesh.wait(0) and not client.wait(0)
            # A change of its own begins with the other's.
            body = IdentityBody(name="more")
            network.change(store, there, lambda s: catalog.put_identity(s, body, NOW))
        assert here.memory.known != there.memory.known
        known = there.memory.known
        assert known is not None and known.network == stored(store)


def test_a_rehearsal_changes_nothing(template: Path, tmp_path: Path) -> None:
    with opened(template, tmp_path) as store:
        hub = Hub()
        network.change(store, hub, start)
        before, known = stored(store), hub.memory.known
        body = IdentityBody(name="news")
        with store.writing() as session:
            made = network.attempt(
                session, hub, lambda s: catalog.put_identity(s, body, NOW) and None
            )
            session.rollback()
        assert len(made.concerned) == 3 and "news" in made.after.network.identities
        assert stored(store) == before and hub.memory.known is known


def test_what_stays_is_shared(template: Path, tmp_path: Path) -> None:
    with opened(template, tmp_path) as store:
        hub = Hub()
        network.change(store, hub, start)
        ids = {node.name: node.id for node in stored(store).nodes}
        known = hub.memory.known
        assert known is not None
        body = IdentityBody(name="news")
        network.change(store, hub, lambda s: catalog.put_identity(s, body, NOW))
        after = hub.memory.known
        assert after is not None
        old, new = (one.view.config(ids["n3"]) for one in (known, after))
        assert old != new and old.peers[0] is new.peers[0] and old.policy is new.policy
        assert after.view.config(ids["n4"]).policy is new.policy
        assert after.view.config(ids["n1"]) is known.view.config(ids["n1"])


def test_an_older_snapshot_does_not_take_the_place_of_a_newer_one(
    template: Path, tmp_path: Path
) -> None:
    with opened(template, tmp_path) as store:
        hub = Hub()
        network.change(store, hub, start)
        older = hub.memory.known
        assert older is not None
        body = IdentityBody(name="news")
        network.change(store, hub, lambda s: catalog.put_identity(s, body, NOW))
        newer = hub.memory.known
        hub.memory.publish(older)
        assert hub.memory.known is newer
        other = replace(older, revision=replace(older.revision, epoch="restored"))
        hub.memory.publish(other)
        assert hub.memory.known is other
