"""Of two coordinators one is killed under load: nothing is lost, nothing is done twice."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from agent.keys import load_or_make
from tests.control.postgres import Server
from tests.control.process import Coordinator
from tests.control.replicas import kill, replicas
from tests.control.served import until
from tests.control.sessions import new_session, node_settings
from ztlab.client.admin import AdminClient
from ztlab.client.node import EventStream, NodeClient
from ztlab.errors import Refused, Unreachable
from ztlab.model.config import NodeConfig, Revision

pytestmark = pytest.mark.postgres
FAILOVER_S = 2.0


class Agent(threading.Thread):
    """A node as agents are: it holds a stream, acknowledges, and goes on to the next address."""

    def __init__(self, client: NodeClient, others: list[NodeClient], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._clients = itertools.cycle([client, *others])
        self._stop_it = stop
        self.streams: list[tuple[float, NodeClient]] = []
        self.names: set[str] = set()

    def run(self) -> None:
        while not self._stop_it.is_set():
            client = next(self._clients)
            try:
                with client.stream() as stream:
                    self._follow(client, stream)
            except (Unreachable, Refused):
                self._stop_it.wait(0.05)

    def _follow(self, client: NodeClient, stream: EventStream) -> None:
        is_first = True
        for event in stream:
            if is_first:
                self.streams.append((time.monotonic(), client))
                is_first = False
            if event.document is not None:
                self.names = {one["name"] for one in event.document["identities"]}
            if event.revision is not None and event.digest is not None:
                client.ack(revision=event.revision, digest=event.digest)
            if self._stop_it.is_set():
                return


class Writer(threading.Thread):
    """Makes identities, one after the other; whoever answers it may be killed meanwhile."""

    def __init__(self, number: int, admins: list[AdminClient], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._number, self._stop_it = number, stop
        self._admins = itertools.cycle(admins)
        self.acknowledged: list[str] = []
        self.retried = 0

    def run(self) -> None:
        admin = next(self._admins)
        for count in itertools.count():
            if self._stop_it.is_set():
                return
            name = f"w{self._number}-{count}"
            while True:
                try:
                    admin.create_identity(name)
                    break
                except Unreachable:
                    self.retried += 1
                    admin = next(self._admins)
                except Refused as error:
                    # What was not acknowledged may have been done; and is not done again.
                    assert error.status == 409 and self.retried, error
                    break
            self.acknowledged.append(name)


def test_of_two_one_is_killed_under_load_and_nothing_is_lost_or_done_twice(
    postgres_server: Server,
) -> None:
    stop = threading.Event()
    with replicas(postgres_server.url(postgres_server.create())) as (first, second):
        agents = []
        for number in range(8):
            client, _ = first.enrol(f"n{number}", endpoint=None)
            there = second.node(client.token)
            pair = (client, [there]) if number % 2 == 0 else (there, [client])
            agents.append(Agent(*pair, stop))
        writers = [Writer(n, [first.admin(), second.admin()], stop) for n in range(3)]
        for thread in (*agents, *writers):
            thread.start()
        until(lambda: all(len(agent.streams) for agent in agents), "every agent has a stream")
        until(lambda: all(len(w.acknowledged) > 5 for w in writers), "writers write", 30.0)

        killed_at = time.monotonic()
        kill(first)
        until(
            lambda: all(agent.streams[-1][1]._transport.url == second.url for agent in agents),
            "every agent is at the other one",
        )
        moved = [agent.streams[-1][0] - killed_at for agent in agents[::2]]
        before = [len(writer.acknowledged) for writer in writers]
        until(
            lambda: all(len(w.acknowledged) > b + 5 for w, b in zip(writers, before, strict=True)),
            "writers go on",
            30.0,
        )
        stop.set()
        for writer in writers:
            writer.join(20.0)
        with closing(second.admin()) as admin:
            made = Counter(identity.name for identity in admin.identities())
            wanted = admin.network().revision
        names = {name for writer in writers for name in writer.acknowledged}
        assert sum(writer.retried for writer in writers) > 0, "nobody noticed"
        assert names <= made.keys()
        created = created_in_the_audit_log(postgres_server, second)
        assert {name: created[name] for name in names} == dict.fromkeys(names, 1)
        # Each change is one revision: those of the nodes and of the identities, and no other.
        assert wanted.number == sum(created.values())
        print(f"moved within {max(moved):.2f} s, {len(names)} identities")
        assert max(moved) < FAILOVER_S


class Node:
    """An agent's session, which remembers what it applied; URLS in the order it tries them."""

    def __init__(self, directory: Path, admin: AdminClient, urls: tuple[str, ...]) -> None:
        directory.mkdir()
        made = admin.create_setup_key(role="mesh", name=directory.name)
        assert made.key is not None
        (directory / "setup-key").write_text(made.key)
        self.applied: list[tuple[Revision, NodeConfig]] = []
        self.session = new_session(
            node_settings(directory, urls, directory.name),
            load_or_make(directory / "private.key"),
            apply=lambda revision, config: self.applied.append((revision, config)),
            have=lambda: self.applied[-1][1] if self.applied else None,
        )
        self.session.start()

    def is_at(self, url: str) -> bool:
        return self.session.status.is_connected and self.session.url == url

    def knows(self, name: str) -> bool:
        return bool(self.applied) and name in {i.name for i in self.applied[-1][1].identities}


def test_agents_that_know_both_go_on_at_the_other_and_apply_nothing_twice(
    postgres_server: Server, tmp_path: Path
) -> None:
    with replicas(postgres_server.url(postgres_server.create())) as (first, second):
        urls = (first.url, second.url)
        with closing(first.admin()) as admin:
            nodes = [Node(tmp_path / f"n{i}", admin, urls[:: 1 - 2 * (i % 2)]) for i in range(6)]
        try:
            for i, node in enumerate(nodes):
                until(partial(node.is_at, urls[i % 2]), f"n{i} is where it tries first", 30.0)
            killed_at = time.monotonic()
            kill(first)
            until(lambda: all(node.is_at(second.url) for node in nodes), "all are at the other")
            moved = time.monotonic() - killed_at
            with closing(second.admin()) as admin:
                admin.create_identity("afterwards")
            until(lambda: all(node.knows("afterwards") for node in nodes), "they are told there")
        finally:
            for node in nodes:
                node.session.stop()
    for node in nodes:
        numbers = [revision.number for revision, _ in node.applied]
        assert numbers == sorted(set(numbers))
    print(f"all had moved within {moved:.2f} s")
    assert moved < FAILOVER_S


def created_in_the_audit_log(server: Server, coordinator: Coordinator) -> Counter[str]:
    """How often each identity was created."""
    text = (coordinator.directory / "coordinator.toml").read_text()
    database = text.split('database = "')[1].split("?")[0].rpartition("/")[2]
    query = "SELECT name FROM audit WHERE action = 'create' AND kind = 'identity'"
    with server.connect(database) as connection:
        return Counter(name for (name,) in connection.execute(query))
