"""How the User Mode Linux kernel gets into the cache: not at all, not again, or not by halves."""

from __future__ import annotations

from pathlib import Path

import pytest

from ztlab.errors import HostUnfit, ZtError
from ztlab.vm import build, kernels


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An archive that no package has brought, and that is none."""
    archive = tmp_path / "src" / "linux-source-6.12.0-none.tar.xz"
    archive.parent.mkdir()
    archive.write_bytes(b"no archive\n")
    monkeypatch.setattr(build, "_SOURCES", archive.parent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return archive


@pytest.fixture
def progress() -> list[str]:
    return []


def test_without_sources_it_says_which_packages_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, progress: list[str]
) -> None:
    monkeypatch.setattr(build, "_SOURCES", tmp_path)
    with pytest.raises(HostUnfit) as refused:
        build.build(progress.append)
    assert "linux-source-6.12" in refused.value.hint


def test_without_tools_and_dpkg_it_says_which_and_begins_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: Path, progress: list[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostUnfit, match="bison") as refused:
        build.build(progress.append)
    assert "apt-get install" in refused.value.hint
    assert not kernels.cache_folder().exists()


def test_what_was_built_of_the_same_source_and_configuration_is_not_built_again(
    source: Path, progress: list[str]
) -> None:
    target = kernels.cache_folder() / f"uml-{build._key(source)}" / "linux"
    target.parent.mkdir(parents=True)
    target.write_text("a kernel")
    assert build.build(progress.append) == target
    assert progress == [f"in the cache already: {target}"]


def test_another_source_configuration_or_patch_is_another_kernel(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {build._key(source)}
    with source.open("ab") as file:
        file.write(b"changed")
    keys.add(build._key(source))
    data = build._data
    for other in ("uml.config", "uml.patch"):
        monkeypatch.setattr(
            build, "_data", lambda name, other=other: data(name) + ("#\n" if name == other else "")
        )
        keys.add(build._key(source))
    assert len(keys) == 4


def test_a_build_that_fails_says_where_and_leaves_nothing_in_the_cache(
    source: Path, monkeypatch: pytest.MonkeyPatch, progress: list[str]
) -> None:
    monkeypatch.setattr(build, "_TOOLS", ())  # the first of them fails: the others are not asked
    with pytest.raises(ZtError, match="`tar -xJf"):
        build.build(progress.append)
    assert not list(kernels.cache_folder().iterdir())
