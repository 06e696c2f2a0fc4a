"""The archive that the kernel unpacks, as cpio reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ztlab.vm import initramfs, qemu


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_finds_the_files_with_their_folders_and_bytes(tmp_path: Path) -> None:
    files = {"init": b"#!/bin/sh\n", "bin/busybox": bytes(range(256)) * 3, "lib/x/y": b""}
    subprocess.run(
        ["cpio", "--extract", "--make-directories", "--quiet"],
        input=initramfs.archive(files),
        cwd=tmp_path,
        check=True,
    )
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    assert (tmp_path / "init").stat().st_mode & 0o111
    assert (tmp_path / "proc").is_dir()


@pytest.mark.parametrize("packer", ["gzip", "xz"])
def test_a_kernel_is_found_in_its_image_whatever_stands_around_it(
    tmp_path: Path, packer: str
) -> None:
    kernel = b"\x7fELF" + bytes(5000)
    packed = subprocess.run([packer, "-c"], input=kernel, capture_output=True, check=True).stdout
    image = tmp_path / "vmlinuz"
    image.write_bytes(b"MZ setup code" + packed + b"what follows")
    qemu.unpack(image, tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").read_bytes() == kernel
