"""Whatever write a crash comes after, the key in use is on disk, and the change can be ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import state
from agent.keyfiles import KeyFiles, Stage
from ztlab.errors import ZtError


class Crash(BaseException):
    """Nothing after it is carried out."""


def crash_after(monkeypatch: pytest.MonkeyPatch, writes: int, work: Callable[[], object]) -> bool:
    """WORK, cut off after so many changes of the directory; False: it had no more than that."""
    left = [writes]

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def one(*arguments: Any) -> Any:
            if left[0] == 0:
                raise Crash
            left[0] -= 1
            return change(*arguments)

        return one

    with monkeypatch.context() as patched:
        patched.setattr(state, "write", counted(state.write))
        patched.setattr(state, "remove", counted(state.remove))
        try:
            work()
        except Crash:
            return True
        return False


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_change_goes_through_its_stages_and_leaves_one_private_file(tmp_path: Path) -> None:
    files = KeyFiles(tmp_path)
    old = files.current.public_key
    assert files.stage is Stage.NONE
    new = files.prepare().public_key
    assert (files.stage, names(tmp_path)) == (Stage.PREPARED, ["next.key", "private.key"])
    assert files.switch().public_key == new
    assert (files.stage, names(tmp_path)) == (Stage.SWITCHED, ["former.key", "private.key"])
    assert files.public_keys == {old, new}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    files.settle()
    assert (files.stage, names(tmp_path)) == (Stage.NONE, ["private.key"])
    assert KeyFiles(tmp_path).current.public_key == new


def test_it_can_be_taken_back_before_the_switch_and_after(tmp_path: Path) -> None:
    files = KeyFiles(tmp_path)
    old = files.current.public_key
    new = files.prepare().public_key
    files.switch()
    assert files.go_back().public_key == old
    assert files.stage is Stage.PREPARED and files.next is not None
    assert files.next.public_key == new
    files.abandon()
    assert (files.stage, names(tmp_path)) == (Stage.NONE, ["private.key"])
    assert KeyFiles(tmp_path).current.public_key == old


@pytest.mark.parametrize("writes", range(8))
@pytest.mark.parametrize("way", ["there", "back"])
def test_after_a_crash_at_any_write_both_keys_are_there_until_one_is_done_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, writes: int
) -> None:
    first = KeyFiles(tmp_path)
    old = first.current.public_key
    new = first.prepare().public_key
    if way == "back":
        first.switch()
        crash_after(monkeypatch, writes, lambda: first.go_back())
    else:
        crash_after(monkeypatch, writes, lambda: first.switch())

    found = KeyFiles(tmp_path)
    assert found.public_keys == {old, new}  # an interface with either is ours
    if found.stage is Stage.PREPARED:
        assert (found.current.public_key, found.next and found.next.public_key) == (old, new)
        found.switch()
    assert found.stage is Stage.SWITCHED
    assert (found.current.public_key, found.former and found.former.public_key) == (new, old)
    found.settle()
    assert names(tmp_path) == ["private.key"]
    assert KeyFiles(tmp_path).current.public_key == new


@pytest.mark.parametrize("writes", range(3))
def test_a_crash_while_it_starts_again_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    first = KeyFiles(tmp_path)
    new = first.prepare().public_key
    assert crash_after(monkeypatch, 2, first.switch)  # private.key is new, next.key still there
    assert names(tmp_path) == ["former.key", "next.key", "private.key"]
    crash_after(monkeypatch, writes, lambda: KeyFiles(tmp_path))
    found = KeyFiles(tmp_path)
    assert found.stage is Stage.SWITCHED
    assert found.current.public_key == new


def test_a_crash_before_anything_is_written_leaves_nothing_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = KeyFiles(tmp_path)
    assert crash_after(monkeypatch, 0, first.prepare)
    found = KeyFiles(tmp_path)
    assert (found.stage, found.current.public_key) == (Stage.NONE, first.current.public_key)


def test_a_damaged_key_is_an_error_and_is_not_replaced(tmp_path: Path) -> None:
    KeyFiles(tmp_path).prepare()
    (tmp_path / "next.key").write_text("?\n")
    with pytest.raises(ZtError, match=r"next\.key holds no WireGuard private key"):
        KeyFiles(tmp_path)
    assert (tmp_path / "next.key").read_text() == "?\n"
