"""Only a sound backup of this network is put back; a restore that fails changes nothing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from coordinator import backup
from coordinator.settings import Settings
from coordinator.setup import initialise
from tests.unit.coordinator import networks
from ztlab.errors import ZtError


def test_a_backup_overwrites_nothing(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ZtError, match="is there already"):
        backup.backup(settings, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"
    assert backup.backup(settings, tmp_path / "free") > 0
    assert {path.name for path in tmp_path.iterdir()} == {"state", "there", "free"}


def good(settings: Settings, path: Path) -> Path:
    backup.backup(settings, path)
    return path


def damaged(settings: Settings, path: Path) -> Path:
    good(settings, path)
    content = bytearray(path.read_bytes())
    content[8192:] = os.urandom(len(content) - 8192)
    path.write_bytes(content)
    return path


def newer(settings: Settings, path: Path) -> Path:
    good(settings, path)
    with closing(sqlite3.connect(path)) as store, store:
        store.execute("UPDATE alembic_version SET version_num = '9999'")
    return path


def text(_: Settings, path: Path) -> Path:
    path.write_text("no database")
    return path


def foreign(settings: Settings, path: Path) -> Path:
    other = networks.settings(settings.directory.parent / "other", network="other")
    initialise(other)
    backup.backup(other, path)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (good, None),
        (damaged, "is damaged|cannot read"),
        (newer, "cannot be brought to migration"),
        (text, "is no backup of a store"),
        (foreign, "is of network other"),
    ],
)
def test_only_a_sound_backup_of_this_network_is_put_back(
    settings: Settings, tmp_path: Path, make: object, said: str | None
) -> None:
    assert callable(make)
    source = make(settings, tmp_path / "backup")
    store = settings.database_file
    assert store is not None
    before = store.read_bytes()
    files = set(store.parent.iterdir())
    if said is None:
        assert backup.restore(settings, source).aside is not None
        assert store.read_bytes() != before
        return
    with pytest.raises(ZtError, match=said):
        backup.restore(settings, source)
    assert store.read_bytes() == before
    assert {path for path in store.parent.iterdir()} - files <= {store.parent / "running.lock"}


def test_a_log_of_the_old_store_is_not_read_into_the_new_one(
    settings: Settings, tmp_path: Path
) -> None:
    source = good(settings, tmp_path / "backup")
    store = settings.database_file
    assert store is not None
    store.write_bytes(b"damaged")
    log = store.with_name("ztlab.db-wal")
    log.write_bytes(b"left behind")
    done = backup.restore(settings, source)
    assert done.aside is not None and done.aside.read_bytes() == b"damaged"
    assert not log.exists()
    assert done.aside.with_name(done.aside.name + "-wal").read_bytes() == b"left behind"


def test_a_restore_that_ends_half_way_leaves_the_old_store_whole(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed last is only in the log beside the store, as after a kill -9."""
    source = good(settings, tmp_path / "backup")
    store = settings.database_file
    assert store is not None
    files = [store, store.with_name(store.name + "-wal")]
    with closing(sqlite3.connect(store)) as live:
        live.execute("CREATE TABLE last (word TEXT)")
        live.execute("INSERT INTO last VALUES ('kept')")
        live.commit()
        kept = [file.read_bytes() for file in files]
    for file, content in zip(files, kept, strict=True):
        file.write_bytes(content)

    def ended(_from: Path, _to: Path) -> None:
        raise OSError("it ends here")

    with monkeypatch.context() as patch, pytest.raises(ZtError, match="it ends here"):
        patch.setattr(os, "replace", ended)
        backup.restore(settings, source)
    with closing(sqlite3.connect(f"{store.as_uri()}?immutable=1", uri=True)) as old:
        assert old.execute("SELECT word FROM last").fetchall() == [("kept",)]
    aside = backup.restore(settings, source).aside
    assert aside is not None
    with closing(sqlite3.connect(aside)) as old:
        assert old.execute("SELECT word FROM last").fetchall() == [("kept",)]


def test_postgresql_is_left_to_its_own_tools(tmp_path: Path) -> None:
    shared = networks.settings(tmp_path, database="postgresql+psycopg://zt@h/n")
    with pytest.raises(ZtError) as caught:
        backup.backup(shared, tmp_path / "x")
    assert "pg_dump" in caught.value.hint
