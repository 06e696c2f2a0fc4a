"""A store put back from a backup begins a new epoch, or nodes would refuse what it says."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from agent.applied import Applied, LastGood
from coordinator import network
from coordinator.hub import Hub
from coordinator.store.engine import opened
from coordinator.store.models import NodeRow
from tests.control.process import Coordinator, cli, running
from ztlab.errors import ZtError
from ztlab.model.config import NodeConfig, Revision

POLICY = {"default": "deny", "rules": [], "tests": []}


def wanted(here: Coordinator) -> tuple[Revision, NodeConfig]:
    """What the store of a stopped coordinator wants of its one node."""
    database = here.directory / "state" / "ztlab.db"
    with opened(f"sqlite:///{database}") as store, store.reading() as session:
        (node,) = session.scalars(select(NodeRow))
        config = network.config_of(session, Hub(), node.id)
        assert config is not None
        return network.wanted(node).revision, config


def test_a_node_takes_an_older_state_once_the_store_was_told_that_it_was_restored(
    tmp_path: Path,
) -> None:
    with running() as here:
        here.enrol("a")
        database, backup = here.directory / "state" / "ztlab.db", tmp_path / "backup"
        with closing(sqlite3.connect(database)) as live, closing(sqlite3.connect(backup)) as copy:
            live.backup(copy)
        admin = here.admin()
        admin.put_policy({**POLICY, "default": "allow"}, etag="*")
        admin.close()
        here.stop()
        node = LastGood(tmp_path / "config.json")
        revision, config = wanted(here)
        node.store(Applied(revision=revision, config=config), on_disk=False)

        shutil.copyfile(backup, database)
        older, config = wanted(here)
        with pytest.raises(ZtError, match="is older than"):
            node.check(older)
        said = cli("restored", at=here.directory).stdout

        now, same = wanted(here)
        assert said == f"epoch {now.epoch}\n" and now.epoch != revision.epoch
        assert same == config
        node.check(now)  # raises where the node refuses it
