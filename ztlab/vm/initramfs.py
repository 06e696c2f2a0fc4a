"""A first root for kernels that have virtiofs as a module: load it, mount, go on there."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

from ztlab.errors import HostUnfit
from ztlab.vm.kernels import Kernel

_MODULES = Path("/lib/modules")
_NEEDED = ("virtio_pci", "virtiofs")
_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /root
/bin/busybox mount -t proc proc /proc
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in init=*) init=${word#init=} ;; esac
done
while read -r module; do /bin/busybox insmod "$module"; done </modules
/bin/busybox mount -t virtiofs -o ro host /root
/bin/busybox umount /proc
exec /bin/busybox switch_root /root "$init"
"""


def make(kernel: Kernel, folder: Path) -> Path | None:
    """An initramfs for KERNEL in FOLDER; None if all it needs is built in. HostUnfit."""
    modules = _modules(kernel.release)
    if not modules:
        return None
    busybox = shutil.which("busybox")
    if busybox is None:
        raise HostUnfit(
            f"{kernel.release} has virtiofs as a module, and there is no busybox to load it with",
            hint="apt-get install busybox-static",
        )
    files = {"init": _INIT.encode(), "modules": b""}
    for path in modules:
        files[path.name.removesuffix(".xz")] = _module(path)
        files["modules"] += f"/{path.name.removesuffix('.xz')}\n".encode()
    for path in (Path(busybox), *_libraries(busybox)):
        name = "bin/busybox" if path == Path(busybox) else str(path).lstrip("/")
        files[name] = path.read_bytes()
    target = folder / "initramfs"
    target.write_bytes(archive(files))
    return target


def _modules(release: str) -> list[Path]:
    """What must be loaded, in order; nothing of what is built in. HostUnfit if one is missing."""
    wanted: dict[Path, None] = {}
    for name in _NEEDED:
        done = subprocess.run(
            ["modprobe", "--set-version", release, "--show-depends", "--ignore-install", name],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise HostUnfit(
                f"the kernel {release} has no {name}: {done.stderr.strip()}",
                hint="install the linux-image package of exactly this kernel",
            )
        for line in done.stdout.splitlines():
            if line.startswith("insmod "):
                wanted[Path(line.split()[1])] = None
    return list(wanted)


def _module(path: Path) -> bytes:
    if path.suffix == ".xz":
        return subprocess.run(["xz", "-dc", path], capture_output=True, check=True).stdout
    return path.read_bytes()


def _libraries(program: str) -> list[Path]:
    """The shared libraries of PROGRAM and its loader; none if it is static."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    words = [line.split() for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [Path(word) for line in words for word in line if word.startswith("/")]


def archive(files: dict[str, bytes]) -> bytes:
    """FILES as a cpio archive of the kind the kernel unpacks ("newc"), with their folders."""
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    folders |= {"dev", "proc", "root"}
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in sorted(folders)]
    entries += [(name, stat.S_IFREG | 0o755, data) for name, data in files.items()]
    text = b"".join(_entry(i, *entry) for i, entry in enumerate(entries, 1))
    return text + _entry(0, "TRAILER!!!", 0, b"")


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % n for n in numbers) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
