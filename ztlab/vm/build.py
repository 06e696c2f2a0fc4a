"""The User Mode Linux kernel, made from Debian's linux-source, and kept in the cache.

A cached kernel is found by what it was made from: the source package's version, our configuration
and our patch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from ztlab.errors import HostUnfit, ZtError
from ztlab.vm import guest
from ztlab.vm.kernels import cache_folder, parse_config
from ztlab.vm.passing import passing_folder

PACKAGES = "linux-source-6.12 build-essential bc bison flex libelf-dev pahole patch xz-utils"
_SOURCES = Path("/usr/src")
_TOOLS = ("bc", "bison", "flex", "gcc", "make", "pahole", "patch", "strip", "tar", "xz")
_NEWS_S = 15.0  # so often there is a line about progress

Progress = Callable[[str], None]


def build(progress: Progress) -> Path:
    """The kernel for the newest source here; built if it is not in the cache.

    PROGRESS is told in lines. HostUnfit if a package is missing, ZtError if make fails.
    """
    source = _source()
    target = cache_folder() / f"uml-{_key(source)}" / "linux"
    if target.exists():
        progress(f"in the cache already: {target}")
        return target
    _require_tools()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with passing_folder("build-", target.parent) as folder:
            tree = _unpacked(source, folder, progress)
            _configure(tree, progress)
            _compile(tree, progress)
            _run(["strip", "--strip-debug", "-o", f"{folder}/linux", "linux"], tree)  # .BTF stays
            os.replace(folder / "linux", target)
    finally:
        with contextlib.suppress(OSError):  # not empty: it is there, or somebody else is building
            target.parent.rmdir()
    return target


def _source() -> Path:
    """The newest linux-source-*.tar.xz; HostUnfit."""
    found = sorted(
        _SOURCES.glob("linux-source-*.tar.xz"),
        key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)],
    )
    if not found:
        raise HostUnfit(f"no kernel source in {_SOURCES}", hint=f"apt-get install {PACKAGES}")
    return found[-1]


def _key(source: Path) -> str:
    """A name for what a kernel is made from: package and version, configuration, patch."""
    package = source.name.removesuffix(".tar.xz")
    asked = ["dpkg-query", "-W", "-f", "${Version}", package]
    try:
        version = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        version = ""
    # Without a package around it: the file itself, by size and time.
    version = version or f"{source.stat().st_size}-{source.stat().st_mtime_ns}"
    digest = hashlib.sha256("\0".join((package, version, _data("uml.config"))).encode())
    digest.update(_data("uml.patch").encode())
    return f"{package.removeprefix('linux-source-')}-{digest.hexdigest()[:12]}"


def _data(name: str) -> str:
    return resources.files("ztlab.vm").joinpath(name).read_text()


def _require_tools() -> None:
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise HostUnfit(
            f"a kernel cannot be built without {', '.join(missing)}",
            hint=f"apt-get install {PACKAGES}",
        )


def _unpacked(source: Path, folder: Path, progress: Progress) -> Path:
    progress(f"unpacking {source.name}")
    _run(["tar", "-xJf", str(source)], folder)
    tree = next(path for path in folder.iterdir() if path.is_dir())
    _run(["patch", "-p1", "--no-backup-if-mismatch"], tree, stdin=_data("uml.patch"))
    return tree


def _configure(tree: Path, progress: Progress) -> None:
    progress("configuring")
    (tree / "ztlab.config").write_text(_data("uml.config"))
    _run(["make", "ARCH=um", "defconfig"], tree)
    _run(["scripts/kconfig/merge_config.sh", "-m", ".config", "ztlab.config"], tree)
    _run(["make", "ARCH=um", "olddefconfig"], tree)
    got = parse_config((tree / ".config").read_text())
    wanted = parse_config(_data("uml.config"))
    lost = sorted(name for name, value in wanted.items() if got.get(name) != value)
    if lost:
        raise ZtError(
            f"this source does not take {', '.join(lost)}",
            hint="options change with the kernel: adapt ztlab/vm/uml.config",
        )


def _compile(tree: Path, progress: Progress) -> None:
    """make, with a line now and then; ZtError with its last lines if it fails."""
    jobs = len(os.sched_getaffinity(0))
    began = told = time.monotonic()
    progress(f"compiling with {jobs} jobs; on two cores that takes 10 minutes")
    log = tree.parent / "log"
    argv = ["setpriv", "--pdeathsig", "KILL", "make", "ARCH=um", f"-j{jobs}", "linux"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            cwd=tree,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while True:
            try:
                code = process.wait(timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > told + _NEWS_S:
                    told = time.monotonic()
                    progress(f"{told - began:4.0f} s: {_compiled(log)} files compiled")
    finally:
        guest.end(process)
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise ZtError(f"the kernel does not compile:\n{tail}")
    progress(f"{time.monotonic() - began:4.0f} s: done")


def _compiled(log: Path) -> int:
    return len(re.findall(rb"^  CC ", log.read_bytes(), re.MULTILINE))


def _run(argv: list[str], folder: Path, *, stdin: str | None = None) -> None:
    done = subprocess.run(
        argv, cwd=folder, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise ZtError(f"`{' '.join(argv)}` failed:\n{tail}")
