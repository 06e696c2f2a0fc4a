"""The node's directories: private from birth, and never made so over somebody's head."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agent.state import private_directory
from ztlab.errors import HostUnfit


def test_a_missing_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    made = private_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_an_empty_directory_is_made_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert stat.S_IMODE(private_directory(tmp_path).stat().st_mode) == 0o700


def test_a_used_directory_open_to_others_is_refused_and_left_alone(
    tmp_path: Path,
) -> None:
    shared = tmp_path / "run"
    shared.mkdir()
    shared.chmod(0o755)
    (shared / "somebody.pid").touch()
    with pytest.raises(HostUnfit, match="open to others") as refusal:
        private_directory(shared)
    assert "chmod 0700" in refusal.value.hint
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
