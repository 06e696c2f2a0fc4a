"""Two loaders, one source: what they make is the same; what cannot be loaded says why."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent import abi
from agent.cli import main
from agent.datapath import build, libbpf_loader, maps, sources
from agent.datapath.datapath import Datapath
from agent.datapath.libbpf import possible_cpus
from agent.datapath.limits import Limits
from agent.datapath.loaded import Wanted
from agent.datapath.marks import MarkLayout
from agent.datapath.rings import NAME
from tests.kernel import packets as p
from tests.kernel import testrun
from tests.kernel.conftest import LOADERS, MARKS
from ztlab.errors import HostUnfit, ZtError
from ztlab.lab import host
from ztlab.model.verdict import AuthzMode, Hook

pytestmark = [pytest.mark.root, pytest.mark.bpf]

# Type, no key, no value, bytes, no flags: of the ring of each CPU.
RINGBUF = (27, 0, 0, 8192, 0)
SMALL = Limits(ids=16, nets=32, policy=64, pairs=8, flows=1024, stats=128, ring_pages=2)
Edit = Callable[[str, str, str], None]


def load(loader: str) -> Datapath:
    return Datapath.load(marks=MARKS, limits=SMALL, loader=loader)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped object and its statement, as what the agent finds."""
    built = tmp_path / "zt_wg.o"
    shutil.copy(sources.OBJECT, built)
    shutil.copy(sources.statement_of(sources.OBJECT), sources.statement_of(built))
    monkeypatch.setattr(sources, "OBJECT", built)
    return built


@pytest.fixture
def edited(elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """edited(FILE, OLD, NEW): the agent finds an object that hides that its sources differ."""
    digest = sources.digest()
    assert digest is not None
    copy = tmp_path / "bpf"
    shutil.copytree(sources.SOURCES, copy)
    monkeypatch.setattr(build, "SOURCES", copy)

    def edit(name: str, old: str, new: str) -> None:
        text = (copy / name).read_text()
        assert text.count(old) == 1
        (copy / name).write_text(text.replace(old, new))
        build._compile("clang", digest, elsewhere)

    return edit


def shapes(loader: str) -> dict[str, tuple[int, ...]]:
    """Type, sizes, entries and flags of every map, as the kernel knows them."""
    datapath = load(loader)
    found: dict[str, tuple[int, ...]] = {}
    for name, fd in datapath._loaded.maps.items():
        info = maps._MapInfo()
        maps._object_info(fd, info)
        sized = info.key_size, info.value_size, info.max_entries
        found[name] = (info.type, *sized, info.map_flags)
    datapath.close()
    return found


def test_both_loaders_make_the_same_maps_in_the_sizes_asked_for() -> None:
    libbpf, bcc = shapes("libbpf"), shapes("bcc")
    assert libbpf == bcc
    rings = {f"{NAME}{cpu}": RINGBUF for cpu in range(possible_cpus())}
    assert set(libbpf) == {*abi.MAPS, abi.RINGS, *rings}
    assert {name: libbpf[name] for name in rings} == rings
    entries = {name: shape[3] for name, shape in libbpf.items()}
    wanted = {"zt_ids": 16, "zt_nets": 32, "zt_policy": 128, "zt_pairs": 16, "zt_flows": 1024}
    assert entries.items() >= {**wanted, "zt_stats": 128, "zt_events": len(rings)}.items()


@pytest.mark.parametrize("mask", [0xFF002000, 0x0000FF80, 0x7FFF8000])
def test_the_mark_is_where_the_settings_put_it(loader: str, mask: int) -> None:
    marks = MarkLayout.from_mask(mask)
    datapath = Datapath.load(marks=marks, limits=SMALL, l3_offset=testrun.ETHERNET, loader=loader)
    datapath.set_authz_mode(AuthzMode.OBSERVE)
    outcome = testrun.run(
        datapath.programs[Hook.INGRESS], p.udp(p.WEB, p.API, 1, 2), mark=0xFFFFFFFF
    )
    datapath.close()
    assert outcome.mark == 0xFFFFFFFF & ~mask | marks.judged  # a tag of 0: nobody's


def test_auto_takes_the_shipped_object() -> None:
    datapath = load("auto")
    assert (datapath.loader, datapath.loader_reason) == ("libbpf", "auto: the shipped object")
    datapath.close()


def test_with_the_shipped_object_bcc_is_never_imported() -> None:
    code = (
        "import sys; from tests.kernel.test_loaders import load; load('auto').close();"
        "print([name for name in sys.modules if name.split('.')[0] == 'bcc'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_stale_object_is_refused_and_auto_goes_by_it(elsewhere: Path) -> None:
    digest = sources.digest()
    assert digest is not None
    older = digest[::-1]
    elsewhere.write_bytes(elsewhere.read_bytes().replace(digest.encode(), older.encode()))
    with pytest.raises(ZtError, match=f"stale: .* sources {older[:12]}, .* say {digest[:12]}"):
        load("libbpf")
    datapath = load("auto")
    assert datapath.loader == "bcc" and "is stale" in datapath.loader_reason
    datapath.close()


def test_an_object_older_than_the_sources_is_stale_whatever_is_said_beside_it(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(sources.SOURCES, newer)
    (newer / "zz.h").write_text("/* newer */\n")
    monkeypatch.setattr(sources, "SOURCES", newer)
    with pytest.raises(ZtError, match=f"is stale: .* the sources in {newer} say"):
        load("libbpf")


def test_without_sources_the_statement_decides(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SOURCES", tmp_path / "none")
    load("libbpf").close()
    sources.statement_of(elsewhere).write_text("0" * 64)
    with pytest.raises(ZtError, match="is stale: .* zt_wg.sha256 beside it say 000000000000"):
        load("libbpf")
    sources.statement_of(elsewhere).unlink()
    with pytest.raises(ZtError, match="nothing says of which sources"):
        load("libbpf")


def test_an_object_that_is_not_there_is_named_with_what_makes_it(elsewhere: Path) -> None:
    elsewhere.unlink()
    with pytest.raises(HostUnfit, match="there is no compiled object") as caught:
        load("libbpf")
    assert "python -m agent.datapath.build" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"not an object", b"half"])
def test_what_is_no_object_is_refused_in_libbpfs_own_words(
    elsewhere: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere.write_bytes(elsewhere.read_bytes()[:60_000] if content == b"half" else content)
    with pytest.raises(ZtError, match="is not an object that libbpf can read: libbpf: "):
        load("libbpf")
    assert capfd.readouterr().err == ""


def test_a_program_that_the_verifier_refuses_is_told_with_its_log(
    edited: Edit, capfd: pytest.CaptureFixture[str]
) -> None:
    edited(
        "zt_wg.c", "	return ZT_PASS;", "	return *(volatile int *)(long)(skb->mark & 0xfff8);"
    )
    with pytest.raises(HostUnfit, match="the kernel did not take the object") as caught:
        load("libbpf")
    assert "invalid mem access" in str(caught.value)
    assert "END PROG LOAD LOG" in str(caught.value)
    assert capfd.readouterr().err == ""


def test_an_object_of_another_abi_is_refused(edited: Edit) -> None:
    edited("zt_abi.h", "__u8 pad[22];", "__u8 pad[30];")
    with pytest.raises(ZtError, match="zt_flows has keys and values of"):
        load("libbpf")


def test_an_object_with_other_constants_is_refused(edited: Edit) -> None:
    edited("zt_abi.h", "	__u32 mark_shift;\n", "	__u32 mark_shift;\n	__u32 another;\n")
    with pytest.raises(ZtError, match="constants of 92 bytes, agent/abi.py says 88"):
        load("libbpf")


def test_where_no_loader_works_both_reasons_are_given(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from agent.datapath import bcc_loader

    elsewhere.unlink()
    monkeypatch.setattr(bcc_loader, "HEADERS", tmp_path)
    with pytest.raises(HostUnfit, match="no loader works.*no compiled object.*kernel headers"):
        load("auto")


def test_without_the_right_to_load_it_says_which_right() -> None:
    code = (
        "from tests.kernel.test_loaders import load\n"
        "from ztlab.errors import HostUnfit\n"
        "try: load('libbpf')\n"
        "except HostUnfit as error: print(error.hint)"
    )
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code]
    done = subprocess.run(bare, capture_output=True, text=True, check=True)
    assert "CAP_BPF, CAP_NET_ADMIN" in done.stdout, done.stderr


@pytest.mark.parametrize("loader", LOADERS)
def test_what_is_closed_leaves_no_descriptor(loader: str) -> None:
    load(loader).close()  # what a first time opens for good
    before = len(os.listdir("/proc/self/fd"))
    load(loader).close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_constants_are_seen_in_the_running_kernel() -> None:
    """`bpftool map dump` shows of which sources the programs are that run."""
    loaded = libbpf_loader.load(Wanted(marks=MARKS, limits=SMALL))
    shown = subprocess.run(["bpftool", "-j", "map"], capture_output=True, text=True, check=True)
    loaded.close()
    assert ".rodata.zt_load" in shown.stdout
    assert ctypes.sizeof(abi.Load) == 88


def test_the_command_says_which_loaders_work_and_what_the_others_lack(elsewhere: Path) -> None:
    works = CliRunner().invoke(main, ["loaders", "--json", "libbpf"])
    (trial,) = json.loads(works.stdout)
    assert works.exit_code == 0
    assert trial["works"] and not trial["found"] and trial["seconds"] >= 0
    elsewhere.unlink()
    lacks = CliRunner().invoke(main, ["loaders", "libbpf"])
    assert lacks.exit_code == 3
    assert "libbpf  there is no compiled object" in lacks.output
    assert "-> python -m agent.datapath.build" in lacks.output


def test_a_machine_is_asked_through_the_agent_whether_the_object_loads() -> None:
    checks = {check.name: check for check in host.examine()}
    assert checks["libbpf"].status == "ok", checks["libbpf"]
    assert "`loader: auto` takes them" in checks["libbpf"].found
