"""A change of the key, held against a real coordinator that also goes away, forgets and refuses."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.keyfiles import KeyFiles, Stage
from agent.keys import NodeKey
from agent.rotation import COMMIT_S, Rotation, RotationStatus
from tests.contract.wire import Follower
from tests.control.process import (
    Coordinator,
    Keys,
    running,
    start,
    wait_until_it_answers,
)
from tests.control.served import until
from tests.control.sessions import new_session, node_settings
from ztlab.client.admin import AdminClient
from ztlab.client.node import NodeClient
from ztlab.errors import ZtError
from ztlab.model.config import NodeConfig, Revision


class Node:
    """An agent without a kernel; `used` is what its interface was given, one after the other."""

    def __init__(self, coordinator: Coordinator, directory: Path) -> None:
        self.coordinator, self.directory = coordinator, directory
        directory.mkdir()
        self.name = f"n{uuid.uuid4().hex[:8]}"
        self.used: list[str] = []
        self.on_use: Callable[[NodeKey], None] = lambda key: None
        with closing(coordinator.admin()) as admin:
            made = admin.create_setup_key(role="mesh", name=self.name)
        (directory / "setup-key").write_text(made.key or "")
        self.restart()
        until(lambda: self.session.status.is_connected, "the session connects")

    def restart(self) -> None:
        """What a new agent makes of what is on disk."""
        self.files = KeyFiles(self.directory)
        settings = node_settings(self.directory, self.coordinator.url, self.name)
        self.session = new_session(settings, self.files.current, apply=self._apply)
        self.rotation = Rotation(self.files, ask=self.session.ask, use=self._use)
        self.session.start()

    def _apply(self, revision: Revision, config: NodeConfig) -> None:
        """All of it, at once."""

    def _use(self, key: NodeKey) -> None:
        self.on_use(key)
        self.used.append(key.public_key)
        self.session.use_key(key)

    def stop(self) -> None:
        self.rotation.stop()
        self.session.stop()

    @property
    def status(self) -> RotationStatus:
        return self.rotation.status

    def ended(self, outcome: str, within_s: float = 20.0) -> RotationStatus:
        until(lambda: self.status.outcome, f"it is {outcome}", within_s)
        assert self.status.outcome == outcome, self.status
        assert self.rotation.ended[outcome] == 1 and self.files.stage is Stage.NONE
        assert [path.name for path in self.directory.glob("*.key")] == ["private.key"]
        return self.status


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    """Each test's own: some of them stop it."""
    with running() as here:
        yield here


@pytest.fixture
def node(coordinator: Coordinator, tmp_path: Path) -> Iterator[Node]:
    node = Node(coordinator, tmp_path / "node")
    yield node
    node.stop()


def test_the_key_is_changed_and_changed_again(node: Node, admin: AdminClient) -> None:
    first = node.files.current.public_key
    node.rotation.start()
    node.rotation.begin(30)
    node.ended("done")
    second = admin.node(node.name).public_key
    assert node.used == [second] and second != first
    node.rotation.begin(30)
    until(lambda: node.rotation.ended["done"] == 2, "the second change")
    third = admin.node(node.name)
    assert node.used == [second, third.public_key]
    assert [key.public_key for key in third.former_keys] == [first, second]
    assert third.former_keys[0].until == third.former_keys[1].since


def test_peers_that_do_not_answer_are_named_and_waited_for(node: Node) -> None:
    peer, _ = node.coordinator.enrol("peer")
    node.rotation.start()
    node.rotation.begin(60)
    until(lambda: node.status.waiting_for == ("peer",), "it is said whom it waits for")
    assert node.used == []
    with pytest.raises(ZtError, match="being changed already"):
        node.rotation.begin(60)
    with closing(Follower(peer)):
        assert node.ended("done").without == ()


def test_after_the_deadline_it_goes_on_without_them_and_says_so(node: Node) -> None:
    node.coordinator.enrol("peer")
    node.rotation.start()
    node.rotation.begin(1)
    assert node.ended("done").without == ("peer",)


@pytest.mark.parametrize("stage", [Stage.PREPARED, Stage.SWITCHED])
def test_a_successor_goes_on_where_its_predecessor_was_cut_off(
    node: Node, admin: AdminClient, stage: Stage
) -> None:
    new = node.files.prepare()
    if stage is Stage.SWITCHED:
        announce(node, new)
        node.files.switch()
    node.stop()
    node.restart()
    node.rotation.start()
    node.ended("done")
    assert admin.node(node.name).public_key == new.public_key


def announce(node: Node, new: NodeKey) -> None:
    old = node.files.current

    def call(client: NodeClient) -> object:
        return client.rotate(
            public_key=old.public_key,
            prove=old.prove,
            new_public_key=new.public_key,
            new_prove=new.prove,
            wait_s=1,
        )

    node.session.ask(call)


def test_a_key_that_the_coordinator_refuses_is_given_up(node: Node, admin: AdminClient) -> None:
    new = node.files.prepare()
    taken = Keys()
    taken.public, taken.prove = new.public_key, new.prove  # type: ignore[method-assign]
    node.coordinator.enrol("taken", keys=taken)
    node.rotation.start()
    assert "some node's already" in (node.ended("undone").error or "")
    assert node.used == []


def test_an_interface_that_does_not_take_the_key_gets_the_old_one_back(
    node: Node, admin: AdminClient
) -> None:
    old = node.files.current.public_key

    def refuse(key: NodeKey) -> None:
        if key.public_key != old:
            raise ZtError("the interface is gone")

    node.on_use = refuse
    node.rotation.start()
    node.rotation.begin(30)
    assert node.ended("undone").error == "the interface is gone"
    assert node.used == [old]
    found = admin.node(node.name)
    assert found.public_key == old and found.rotation is None and not found.former_keys


def test_a_coordinator_that_forgot_about_it_is_given_its_way(
    node: Node, admin: AdminClient
) -> None:
    old = node.files.current.public_key

    def forget(key: NodeKey) -> None:
        if key.public_key != old:
            node.session.ask(lambda client: client.cancel_rotation())

    node.on_use = forget
    node.rotation.start()
    node.rotation.begin(30)
    assert "no rotation to this key" in (node.ended("undone").error or "")
    assert node.used[-1] == old == admin.node(node.name).public_key


def test_a_coordinator_lost_at_the_switch_puts_the_old_key_back_and_is_tried_again(
    node: Node, coordinator: Coordinator, admin: AdminClient
) -> None:
    old = node.files.current.public_key
    new: list[str] = []

    def lose(key: NodeKey) -> None:
        if not new:
            new.append(key.public_key)
            coordinator.stop()

    node.on_use = lose
    node.rotation.start()
    node.rotation.begin(30)
    until(lambda: node.used == [*new, old], "the old key is back", COMMIT_S + 5)
    until(lambda: bool(node.status.error), "what was wrong is told", 5)
    assert node.status.stage == "prepared"
    coordinator.process = start(coordinator.directory)
    wait_until_it_answers(coordinator)
    node.ended("done", 40)
    assert node.used == [*new, old, *new] and admin.node(node.name).public_key == new[0]


def test_a_commit_whose_answer_was_lost_is_found_out(
    node: Node, coordinator: Coordinator, admin: AdminClient
) -> None:
    old = node.files.current
    new = node.files.prepare()
    announce(node, new)
    node.session.ask(lambda client: client.commit_rotation(new.public_key))
    node.stop()
    node.restart()  # with the old key in use: it has gone back
    assert node.files.current.public_key == old.public_key
    node.rotation.start()
    node.ended("done")
    assert node.used == [new.public_key] == [admin.node(node.name).public_key]


def test_a_coordinator_that_hangs_holds_nothing_up_for_ever(
    node: Node, coordinator: Coordinator, admin: AdminClient
) -> None:
    node.rotation.start()
    pid = coordinator.worker_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        node.rotation.begin(30)
        assert node.status.stage == "prepared"
    finally:
        os.kill(pid, signal.SIGCONT)
    node.ended("done", 40)


def test_the_wait_is_bounded(node: Node) -> None:
    for wait_s in (0, 3601):
        with pytest.raises(ZtError, match="1 to 3600"):
            node.rotation.begin(wait_s)
    assert node.files.stage is Stage.NONE
