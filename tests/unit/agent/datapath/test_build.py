from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.datapath import build, sources
from tests.contract.tree import ROOT
from ztlab.errors import HostUnfit, ZtError


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The C files, elsewhere, as what is built from."""
    copy = tmp_path / "copy"
    shutil.copytree(sources.SOURCES, copy)
    monkeypatch.setattr(build, "SOURCES", copy)
    monkeypatch.setattr(build, "digest", lambda: sources.digest(copy))
    return copy


def test_the_digest_changes_with_the_bytes_and_the_name_of_any_source(tmp_path: Path) -> None:
    shutil.copytree(sources.SOURCES, tmp_path / "bpf")
    seen = {sources.digest(tmp_path / "bpf")}
    assert seen == {sources.digest()}
    append(tmp_path / "bpf/zt_abi.h", " ")
    seen.add(sources.digest(tmp_path / "bpf"))
    (tmp_path / "bpf/zt_abi.h").rename(tmp_path / "bpf/zt_abj.h")
    seen.add(sources.digest(tmp_path / "bpf"))
    assert len(seen) == 3
    (tmp_path / "bpf/notes.txt").write_text("not compiled")
    assert sources.digest(tmp_path / "bpf") in seen


def test_without_sources_there_is_no_digest(tmp_path: Path) -> None:
    assert sources.digest(tmp_path) is None


def test_an_object_carries_its_sources_digest_and_says_it_beside_itself(tmp_path: Path) -> None:
    built = tmp_path / "out.o"
    build.build(built)
    digest = sources.digest()
    assert digest is not None and digest.encode() in built.read_bytes()
    assert sources.stated(built) == digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.o", "out.sha256"]


def test_the_object_is_the_same_wherever_it_is_built(tmp_path: Path, copied: Path) -> None:
    here, there = tmp_path / "here.o", tmp_path / "there.o"
    build.build(there)
    command = [sys.executable, "-m", "agent.datapath.build", "--output", str(here)]
    subprocess.run(command, check=True, cwd=ROOT)
    assert here.read_bytes() == there.read_bytes()


def test_an_object_is_current_until_a_source_changes(tmp_path: Path, copied: Path) -> None:
    built = tmp_path / "out.o"
    assert not build.is_current(built)
    build.build(built)
    assert build.is_current(built)
    append(copied / "zt_wg.c", "\n")
    assert not build.is_current(built)
    build.build(built)
    assert build.is_current(built)


def test_half_a_build_is_not_current(tmp_path: Path) -> None:
    built = tmp_path / "out.o"
    build.build(built)
    built.write_bytes(built.read_bytes()[:1000])
    assert not build.is_current(built)
    build.build(built)
    sources.statement_of(built).unlink()
    assert not build.is_current(built)


def test_without_a_compiler_it_says_which_package_has_one(tmp_path: Path) -> None:
    with pytest.raises(HostUnfit, match="no-such-clang: No such file") as caught:
        build.build(tmp_path / "out.o", clang="no-such-clang")
    assert "apt-get install clang" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_source_that_does_not_compile_is_told_with_the_compilers_words(
    tmp_path: Path, copied: Path
) -> None:
    append(copied / "zt_wg.c", "int broken(void) { return nothing; }\n")
    with pytest.raises(ZtError, match="undeclared identifier 'nothing'") as caught:
        build.build(tmp_path / "out.o")
    assert not isinstance(caught.value, HostUnfit)
    assert not (tmp_path / "out.o").exists()


def test_a_missing_header_is_a_matter_of_packages(tmp_path: Path, copied: Path) -> None:
    append(copied / "zt_wg.c", "#include <bpf/no_such_header.h>\n")
    with pytest.raises(HostUnfit, match="no_such_header.h") as caught:
        build.build(tmp_path / "out.o")
    assert "libbpf-dev" in caught.value.hint


def test_the_build_needs_nothing_but_the_standard_library() -> None:
    """A wheel is built where nothing else is installed."""
    command = [sys.executable, "-S", "-m", "agent.datapath.build", "--help"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
