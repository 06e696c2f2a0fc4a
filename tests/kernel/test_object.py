"""The same source as a libbpf object: it compiles, and the kernel's verifier takes it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.tree import ROOT

pytestmark = [pytest.mark.root, pytest.mark.bpf]


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A BPF file system of the test's own."""
    mount = tmp_path / "bpffs"
    mount.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", mount], check=True)
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_the_same_source_is_a_libbpf_object_that_the_verifier_takes(
    tmp_path: Path, bpffs: Path
) -> None:
    built = tmp_path / "zt_wg.o"
    headers = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    flags = ["-O2", "-g", "-target", "bpf", "-Wall", "-Wextra", "-Werror", headers]
    subprocess.run(["clang", *flags, "-c", ROOT / "bpf/zt_wg.c", "-o", built], check=True)
    loaded = subprocess.run(
        ["bpftool", "prog", "loadall", built, bpffs / "zt"], capture_output=True, text=True
    )
    assert loaded.returncode == 0, loaded.stderr
    assert {path.name for path in (bpffs / "zt").iterdir()} == {"zt_ingress", "zt_egress"}
