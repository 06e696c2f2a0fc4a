"""What stands between an unprivileged coordinator and its code."""

from __future__ import annotations

from pathlib import Path

import pytest

from ztlab.errors import HostUnfit
from ztlab.lab.init import unescape_mount_path
from ztlab.lab.reach import obstacles, program_directories


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """/…/home (0755) /closed (0700) /project (0755)"""
    path = tmp_path / "home" / "closed" / "project"
    path.mkdir(parents=True, mode=0o755)
    path.parent.chmod(0o700)
    return path


def test_a_closed_ancestor_is_covered_and_the_way_below_it_kept(home: Path) -> None:
    cover, uncover = obstacles([home, home / ".venv"])
    assert uncover == [str(home)]
    assert len(cover) == 1
    assert str(home).startswith(cover[0])


def test_where_everything_is_open_nothing_is_covered() -> None:
    assert obstacles([Path("/usr"), Path("/usr/lib")]) == ([], [])


def test_a_project_that_is_closed_itself_is_refused_with_the_way_out(home: Path) -> None:
    home.chmod(0o700)
    with pytest.raises(HostUnfit) as caught:
        obstacles([home])
    assert f"chmod -R o+rX {home}" in caught.value.hint


def test_the_packages_and_the_interpreter_are_among_what_must_be_read() -> None:
    import coordinator
    import ztlab

    for package in (ztlab, coordinator):
        assert Path(package.__path__[0]).parent in program_directories()


def test_a_blank_in_a_mount_point_is_read_back() -> None:
    assert unescape_mount_path("/run/netns/a\\040b\\134c") == "/run/netns/a b\\c"
