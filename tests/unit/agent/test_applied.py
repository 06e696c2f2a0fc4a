"""Which revisions may follow which, and what is left after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.applied import Applied, LastGood
from ztlab.errors import ZtError
from ztlab.model.config import NodeConfig, Revision, Self


def config(name: str = "me") -> NodeConfig:
    node = Self(node_id="n", name=name, role="client", identity="me", addresses=("10.1.0.1/32",))
    return NodeConfig(version=1, network_id="x", node=node)


def applied(epoch: str, number: int) -> Applied:
    return Applied(revision=Revision(epoch=epoch, number=number), config=config())


@pytest.fixture
def last_good(tmp_path: Path) -> LastGood:
    return LastGood(tmp_path / "config.json")


def test_an_older_number_of_the_same_epoch_is_refused(last_good: LastGood) -> None:
    last_good.store(applied("a", 5))
    with pytest.raises(ZtError, match="revision 4 is older than 5"):
        last_good.check(Revision(epoch="a", number=4))


@pytest.mark.parametrize(("epoch", "number"), [("a", 5), ("a", 6), ("b", 1)])
def test_the_same_a_newer_number_and_a_new_epoch_are_accepted(
    last_good: LastGood, epoch: str, number: int
) -> None:
    last_good.store(applied("a", 5))
    last_good.check(Revision(epoch=epoch, number=number))


def test_a_successor_finds_what_was_applied(last_good: LastGood, tmp_path: Path) -> None:
    last_good.store(applied("a", 5))
    successor = LastGood(tmp_path / "config.json")
    assert successor.current is None, "found is not yet applied"
    assert successor.load() == applied("a", 5)
    assert (tmp_path / "config.json").stat().st_mode & 0o777 == 0o600


def test_a_damaged_file_is_no_configuration(last_good: LastGood, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"revision": {}}')
    assert last_good.load() is None


def test_a_confirmed_revision_is_taken_over_and_a_foreign_digest_is_not(
    last_good: LastGood, tmp_path: Path
) -> None:
    last_good.store(applied("a", 5))
    last_good.confirm(Revision(epoch="a", number=9), config().digest())
    found = LastGood(tmp_path / "config.json").load()
    assert found is not None and found.revision.number == 9
    with pytest.raises(ZtError, match="does not have"):
        last_good.confirm(Revision(epoch="a", number=10), config("other").digest())


def test_what_could_not_be_written_is_not_confirmed_until_it_is(
    last_good: LastGood, tmp_path: Path
) -> None:
    (tmp_path / "config.json").mkdir()  # nothing can be put in its place
    revision = Revision(epoch="a", number=5)
    with pytest.raises(ZtError, match="cannot write"):
        last_good.store(applied("a", 5))
    with pytest.raises(ZtError, match="cannot write"):
        last_good.confirm(revision, config().digest())
    (tmp_path / "config.json").rmdir()
    last_good.confirm(revision, config().digest())
    assert LastGood(tmp_path / "config.json").load() == applied("a", 5)
