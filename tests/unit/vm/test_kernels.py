"""Which kernels are found, and which one a name means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ztlab.errors import HostUnfit, NotFound
from ztlab.vm import kernels
from ztlab.vm.kernels import Features, Kernel


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    """A /boot with three kernels; one has WireGuard as a module, one nothing, one no config."""
    for release in ("6.1.0-9-amd64", "6.12.9-cloud-amd64", "6.12.10-rt-amd64"):
        (tmp_path / f"vmlinuz-{release}").touch()
    (tmp_path / "config-6.12.9-cloud-amd64").write_text(
        "CONFIG_WIREGUARD=m\nCONFIG_BPF_JIT=y\n# CONFIG_NET_SCH_NETEM is not set\n"
    )
    (tmp_path / "config-6.1.0-9-amd64").write_text("")
    return tmp_path


def test_installed_kernels_are_found_the_newest_last_with_what_their_configuration_says(
    boot: Path,
) -> None:
    found = kernels.stock(boot)
    assert [kernel.release for kernel in found] == [
        "6.1.0-9-amd64",
        "6.12.9-cloud-amd64",
        "6.12.10-rt-amd64",
    ]
    assert found[1].features == Features(wireguard=True, netem=False, btf=False, jit=True)
    assert found[0].features.wireguard is False
    assert found[2].features.wireguard is None  # nothing says


@pytest.mark.parametrize(
    ("name", "release"),
    [
        (None, "6.12.9-cloud-amd64"),  # a cloud kernel before a newer one of another kind
        ("6.12", "6.12.9-cloud-amd64"),
        ("6.1", "6.1.0-9-amd64"),
        ("6.12.10-rt-amd64", "6.12.10-rt-amd64"),
    ],
)
def test_a_name_means_a_release_a_version_line_or_the_newest(
    boot: Path, name: str | None, release: str
) -> None:
    chosen = kernels.choose(kernels.stock(boot), name)
    assert chosen is not None and chosen.release == release


def test_of_two_updates_of_one_version_the_later_is_taken(tmp_path: Path) -> None:
    for update in ("9", "56", "49"):
        (tmp_path / f"vmlinuz-6.1.0-{update}-cloud-amd64").touch()
    chosen = kernels.choose(kernels.stock(tmp_path), "6.1")
    assert chosen is not None and chosen.release == "6.1.0-56-cloud-amd64"


def built_uml(folder: Path, age_s: int) -> Path:
    """What stands for a User Mode Linux in FOLDER: a program that says what such a kernel says."""
    folder.mkdir(parents=True)
    path = folder / "linux"
    path.write_text("#!/bin/sh\n[ $1 = --version ] && echo 6.12.9-ztlab || echo CONFIG_UML=y\n")
    path.chmod(0o755)
    made_at = 1_800_000_000 - age_s
    os.utime(path, (made_at, made_at))
    return path


def test_of_two_builds_of_one_source_the_later_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ZTLAB_UML_KERNEL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ages = {"uml-6.12-aaaa": 20, "uml-6.12-bbbb": 10, "uml-6.12-cccc": 30}
    paths = {name: built_uml(tmp_path / "ztlab" / name, age) for name, age in ages.items()}
    chosen = kernels.choose(kernels.uml(), None)
    assert chosen is not None and chosen.image == paths["uml-6.12-bbbb"]


def test_what_is_not_installed_is_not_chosen() -> None:
    absent = Kernel(kind="stock", release="6.1", image=None, hint="apt-get install it")
    assert kernels.choose((absent,), "6.1") is None


def test_a_name_that_no_kernel_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(NotFound) as refused:
        kernels.check_name("2.4")
    assert "6.12" in refused.value.hint


@pytest.mark.parametrize("program", ["/bin/false", "/bin/true", "/nowhere/linux"])
def test_a_named_uml_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setenv("ZTLAB_UML_KERNEL", program)
    with pytest.raises(HostUnfit, match=f"ZTLAB_UML_KERNEL={program}"):
        kernels.uml()
