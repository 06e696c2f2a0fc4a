"""The session, held against a real coordinator process over real TLS."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.applied import Applied, LastGood
from agent.keys import load_or_make
from agent.session import (
    Session,
)
from tests.contract.wire import EVENT
from tests.control.process import Coordinator, running, start, wait_until_it_answers
from tests.control.served import until
from tests.control.sessions import new_session, node_settings
from tests.unit.batches import packed
from ztlab.client.admin import AdminClient
from ztlab.errors import Refused, ZtError
from ztlab.model import proof
from ztlab.model.config import NodeConfig, Revision


class Node:
    """A session with everything around it but the datapath: it applies by remembering."""

    def __init__(self, directory: Path, url: str, name: str) -> None:
        self.directory, self.name = directory, name
        directory.mkdir(exist_ok=True)
        self.setup_key_file = directory / "setup-key"
        self.settings = node_settings(directory, url, name)
        self.last_good = LastGood(directory / "config.json")
        self.confirmed: list[Revision] = []
        self.refuses: str | None = None
        self.session = self.new_session()

    def new_session(self) -> Session:
        return new_session(
            self.settings,
            load_or_make(self.directory / "private.key"),
            apply=self.apply,
            confirm=self.confirm,
            have=lambda: self.last_good.current.config if self.last_good.current else None,
        )

    def apply(self, revision: Revision, config: NodeConfig) -> None:
        if self.refuses:
            raise ZtError(self.refuses)
        self.last_good.check(revision)
        self.last_good.store(Applied(revision=revision, config=config))

    def confirm(self, revision: Revision, digest: str) -> None:
        self.last_good.confirm(revision, digest)
        self.confirmed.append(revision)

    def start(self) -> None:
        self.session.start()

    def restart(self) -> None:
        self.session.stop()
        self.session = self.new_session()
        self.session.start()


@pytest.fixture
def node(coordinator: Coordinator, tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "state", coordinator.url, f"n{uuid.uuid4().hex[:8]}")
    yield node
    node.session.stop()


def hand_out_key(admin: AdminClient, node: Node, **options: Any) -> None:
    made = admin.create_setup_key(role="mesh", name=node.name, **options)
    assert made.key is not None
    node.setup_key_file.write_text(made.key + "\n")


def joined(admin: AdminClient, node: Node) -> None:
    hand_out_key(admin, node)
    node.start()
    until(lambda: has_converged(admin, node), "it converges")


def has_converged(admin: AdminClient, node: Node) -> bool:
    try:
        return admin.node(node.name).has_converged
    except Refused:
        return False


def test_it_waits_for_its_setup_key_then_enrols_applies_and_acknowledges(
    admin: AdminClient, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    node.start()
    until(lambda: "waiting for a setup key" in caplog.text, "it says what it waits for")
    assert not node.session.status.is_enrolled

    hand_out_key(admin, node)

    until(lambda: has_converged(admin, node), "it converges")
    known = admin.node(node.name)
    assert known.public_key == load_or_make(node.directory / "private.key").public_key
    assert known.applied is not None and known.applied.error is None
    assert node.last_good.current is not None
    assert node.last_good.current.config.node.node_id == known.id == node.session.status.node_id
    assert node.session.status.is_connected
    assert caplog.text.count("waiting for a setup key") == 1
    for file in ("session.json", "authority.pem", "private.key", "config.json"):
        assert (node.directory / file).stat().st_mode & 0o777 == 0o600, file


def test_why_a_configuration_was_not_applied_reaches_the_coordinator(
    admin: AdminClient, node: Node
) -> None:
    node.refuses = "the tag 70000 of api does not fit"
    hand_out_key(admin, node)
    node.start()

    def error() -> str | None:
        try:
            applied = admin.node(node.name).applied
        except Refused:
            return None
        return applied.error if applied else None

    until(lambda: error() == node.refuses, "the reason arrives")
    assert not has_converged(admin, node)


def has_some(admin: AdminClient, node: Node, count: int = 8) -> None:
    """NODE has joined a network that is large beside one change."""
    for _ in range(count):
        admin.create_identity(f"i{uuid.uuid4().hex[:8]}")
    joined(admin, node)


def current(node: Node) -> NodeConfig:
    assert node.last_good.current is not None
    return node.last_good.current.config


def changed(admin: AdminClient) -> str:
    name = f"late{uuid.uuid4().hex[:8]}"
    admin.create_identity(name)
    return name


def knows(node: Node, name: str) -> bool:
    return name in {identity.name for identity in current(node).identities}


def test_a_change_comes_as_a_delta_and_leads_to_what_the_coordinator_wants(
    admin: AdminClient, node: Node
) -> None:
    has_some(admin, node)
    assert node.session.status.deltas_applied == 0

    name = changed(admin)

    until(lambda: knows(node, name) and has_converged(admin, node), "it converges again")
    assert node.session.status.deltas_applied == 1
    assert node.session.status.deltas_refused == 0
    assert current(node).digest() == admin.node(node.name).wanted.digest
    kept = LastGood(node.directory / "config.json").load()
    assert kept is not None and kept.config == current(node)  # the whole of it, on the disk


def test_a_delta_for_what_the_node_does_not_have_makes_it_ask_for_the_whole(
    admin: AdminClient, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    has_some(admin, node)
    node.session._held = replace(current(node), identities=())

    name = changed(admin)

    until(lambda: knows(node, name) and has_converged(admin, node), "it converges all the same")
    status = node.session.status
    assert (status.deltas_applied, status.deltas_refused) == (0, 1)
    assert "asking for the whole configuration: base: want " in caplog.text

    name = changed(admin)  # control: the next one is for what it has
    until(lambda: knows(node, name) and has_converged(admin, node), "it converges again")
    status = node.session.status
    assert (status.deltas_applied, status.deltas_refused) == (1, 1)


def test_a_delta_that_is_not_applied_is_the_base_of_the_next_one_and_the_last_good_one_stays(
    admin: AdminClient, node: Node
) -> None:
    has_some(admin, node)
    before = current(node)
    node.refuses = "identities[3].tag: 70000 does not fit"

    first = changed(admin)

    def error() -> str | None:
        applied = admin.node(node.name).applied
        return applied.error if applied else None

    until(lambda: error() == node.refuses, "the reason and the path arrive")
    assert current(node) == before
    node.refuses = None
    second = changed(admin)
    until(lambda: has_converged(admin, node) and knows(node, second), "it converges again")
    assert knows(node, first)
    assert node.session.status.deltas_applied == 2
    assert node.session.status.deltas_refused == 0


def test_a_restart_needs_no_setup_key_and_what_it_has_is_not_sent_again(
    admin: AdminClient, node: Node
) -> None:
    joined(admin, node)
    node.setup_key_file.unlink()
    before = node.last_good.current

    node.restart()

    until(lambda: node.confirmed, "the coordinator says that this is current")
    assert node.last_good.current == before


def test_an_enrolment_whose_answer_was_lost_is_recovered_by_proof(
    admin: AdminClient, node: Node
) -> None:
    joined(admin, node)
    node.session.stop()
    (node.directory / "session.json").unlink()  # as if the answer had never come; the key is used

    node.restart()

    until(lambda: node.session.status.is_connected, "it is back")
    assert node.session.status.node_id == admin.node(node.name).id
    name = changed(admin)
    until(lambda: knows(node, name) and has_converged(admin, node), "it takes what comes next")


def test_a_damaged_session_file_is_recovered_without_a_setup_key(
    admin: AdminClient, node: Node
) -> None:
    joined(admin, node)
    node.session.stop()
    (node.directory / "session.json").write_text("{half")
    node.setup_key_file.unlink()

    node.restart()

    until(lambda: node.session.status.is_connected, "it is back")
    name = changed(admin)
    until(lambda: knows(node, name) and has_converged(admin, node), "it takes what comes next")
    node.restart()
    name = changed(admin)
    until(lambda: knows(node, name) and has_converged(admin, node), "and so after a restart")


def test_an_authority_that_the_setup_key_does_not_pin_is_not_spoken_to(
    admin: AdminClient, node: Node
) -> None:
    forged = proof.format_setup_key(bytes(32), bytes(range(32)))
    node.setup_key_file.write_text(forged)
    node.start()
    until(lambda: "not the pinned one" in (node.session.status.last_error or ""), "a refusal")
    assert not node.session.status.is_enrolled
    assert not (node.directory / "authority.pem").exists()

    hand_out_key(admin, node)  # the right key, at last
    until(lambda: has_converged(admin, node), "it converges")


def test_log_batches_are_pushed_and_stored_even_of_packets_nobody_could_parse(
    admin: AdminClient, node: Node
) -> None:
    joined(admin, node)
    nobodys = {"source": "::", "destination": "::", "source_tag": 0, "destination_tag": 0}
    node.session.push_logs(packed({**EVENT, **nobodys, "verdict": "malformed"}))
    stored = admin.logs(node=node.name).items
    assert [item["verdict"] for item in stored] == ["malformed"]


def test_a_token_that_the_coordinator_forgot_is_renewed_under_way(
    admin: AdminClient, node: Node
) -> None:
    joined(admin, node)
    client = node.session._client
    assert client is not None
    client.token = "stale"
    node.session.push_logs(packed(EVENT))
    assert client.token not in (None, "stale")


def test_a_revoked_node_keeps_what_it_has_and_says_why_it_is_alone(
    admin: AdminClient, node: Node
) -> None:
    joined(admin, node)
    before = node.last_good.current
    admin.revoke_node(node.name)
    until(lambda: node.session.status.last_error, "it notices")
    assert not node.session.status.is_connected
    assert node.last_good.current == before


def test_a_token_that_runs_out_is_renewed_and_the_session_goes_on(tmp_path: Path) -> None:
    with running(token_ttl_s=10) as coordinator:
        admin = coordinator.admin()
        node = Node(tmp_path / "state", coordinator.url, "short")
        try:
            joined(admin, node)
            client = node.session._client
            assert client is not None
            first = client.token
            until(lambda: client.token != first, "a new token", within_s=20)
            until(lambda: node.session.status.is_connected, "it is connected")
            node.session.push_logs(packed(EVENT))
        finally:
            node.session.stop()
            admin.close()


def test_losing_the_coordinator_changes_nothing_and_it_is_found_again(tmp_path: Path) -> None:
    with running() as coordinator:
        admin = coordinator.admin()
        node = Node(tmp_path / "state", coordinator.url, "lonely")
        try:
            joined(admin, node)
            before = node.last_good.current
            coordinator.stop()
            until(lambda: not node.session.status.is_connected, "the loss is noticed")
            until(lambda: node.session.status.last_error, "and told")
            assert node.session.status.is_enrolled
            assert node.last_good.current == before

            coordinator.process = start(coordinator.directory)
            try:
                wait_until_it_answers(coordinator)
                until(lambda: node.session.status.is_connected, "it is back", within_s=20)
                admin.create_identity("late")
            finally:
                coordinator.stop()
        finally:
            node.session.stop()
            admin.close()
