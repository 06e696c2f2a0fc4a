"""A backup is made beside a running service, and what is put back is followed by every node."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from tests.control.process import (
    PROGRAM,
    Coordinator,
    cli,
    running,
    start,
    wait_until_it_answers,
)
from ztlab.client.node import NodeClient
from ztlab.model.config import NodeConfig, Revision


def followed(client: NodeClient) -> tuple[Revision, NodeConfig]:
    """What the node is told first, acknowledged."""
    with client.stream() as stream:
        event = next(event for event in stream if event.kind == "config")
    assert event.revision is not None and event.digest is not None
    client.ack(revision=event.revision, digest=event.digest)
    return event.revision, event.config()


def refusal(here: Coordinator, *arguments: str) -> str:
    command = [str(PROGRAM), *arguments, "--config", str(here.directory / "coordinator.toml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return str(done.stderr)


def test_a_backup_is_put_back_and_every_node_follows(tmp_path: Path) -> None:
    copy = tmp_path / "store.bak"
    with running() as here:
        client, _ = here.enrol("a")
        with closing(here.admin()) as admin:
            admin.create_identity("before")
            cli("backup", str(copy), at=here.directory)
            admin.create_identity("after")
        assert copy.stat().st_mode & 0o777 == 0o600
        revision, config = followed(client)
        assert {"before", "after"} <= {one.name for one in config.identities}
        assert "a coordinator runs" in refusal(here, "restore", str(copy))
        owner = (here.directory / "state/ztlab.db").stat()
        here.stop()

        said = cli("restore", str(copy), at=here.directory).stdout

        store = here.directory / "state/ztlab.db"
        found = store.stat()
        assert (found.st_uid, found.st_gid) == (owner.st_uid, owner.st_gid)
        assert found.st_mode & 0o777 == 0o600
        (aside,) = store.parent.glob("ztlab.db.before-*Z")
        assert str(aside) in said
        with closing(sqlite3.connect(aside)) as old:
            names = {name for (name,) in old.execute("SELECT name FROM identities")}
        assert "after" in names
        here.process = start(here.directory)
        wait_until_it_answers(here)
        now, config = followed(client)
        assert now.epoch != revision.epoch and now.epoch in said
        assert {one.name for one in config.identities} & {"before", "after"} == {"before"}
        with closing(here.admin()) as admin:
            assert admin.network().has_converged
        here.stop()
