"""Which kernels are at hand, and what each can do.

A kernel's own configuration says what it can: /boot/config-RELEASE of an installed one,
`--showconfig` of a User Mode Linux. The running one is asked by trying where it does not tell.
"""

from __future__ import annotations

import gzip
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ztlab.errors import HostUnfit, NotFound

Kind = Literal["running", "stock", "uml"]

BOOT = Path("/boot")
STOCK = {"6.1": "linux-image-cloud-amd64", "6.12": "linux-image-6.12-cloud-amd64"}
UML_LINE = "6.12"  # what `ztlab vm build-uml` builds, of the packages that it names
UML_VARIABLE = "ZTLAB_UML_KERNEL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What of a kernel a lab may ask for; None: not known."""

    wireguard: bool | None = None
    netem: bool | None = None
    btf: bool | None = None
    jit: bool | None = None

    @staticmethod
    def of(config: Mapping[str, str] | None) -> Features:
        """As CONFIG says, the kernel's configuration; built in or as a module."""
        if config is None:
            return Features()

        def has(option: str) -> bool:
            return config.get(option) in ("y", "m")

        return Features(
            wireguard=has("CONFIG_WIREGUARD"),
            netem=has("CONFIG_NET_SCH_NETEM"),
            btf=has("CONFIG_DEBUG_INFO_BTF"),
            jit=has("CONFIG_BPF_JIT"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One kernel.

    release  as `uname -r` says it; of one that is not installed, its version line ("6.1")
    image    what is booted; None of the running kernel, and of one that is not installed
    hint     how to get it; "" if it is there
    """

    kind: Kind
    release: str
    image: Path | None
    hint: str = ""
    features: Features = Features()

    @property
    def line(self) -> str:
        """Its version line: "6.12" of 6.12.117+deb12-cloud-amd64."""
        return ".".join(re.findall(r"\d+", self.release)[:2])


def cache_folder() -> Path:
    """Where built kernels are kept, and what a trial found out."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ztlab"


def everything() -> tuple[Kernel, ...]:
    """The running kernel, the stock ones (installed or not), the User Mode Linux ones."""
    return (running(), *stock(), *_not_installed(), *(uml() or (_uml_to_be_built(),)))


def running() -> Kernel:
    """This machine's own."""
    release = platform.release()
    config = config_of(release)
    if config is None and os.geteuid() == 0:
        found = Features(
            wireguard=_works("ip", "link", "add", "ztwg", "type", "wireguard"),
            netem=_works("tc", "qdisc", "add", "dev", "lo", "root", "netem", "limit", "1"),
            btf=Path("/sys/kernel/btf/vmlinux").exists(),
            jit=Path("/proc/sys/net/core/bpf_jit_enable").exists(),
        )
    else:
        found = Features.of(config)
    return Kernel(kind="running", release=release, image=None, features=found)


def stock(boot: Path = BOOT) -> tuple[Kernel, ...]:
    """The installed ones, the newest last; cloud kernels after others of their version."""
    images = {path.name.removeprefix("vmlinuz-"): path for path in boot.glob("vmlinuz-*")}
    return tuple(
        Kernel(kind="stock", release=r, image=images[r], features=Features.of(config_of(r, boot)))
        for r in sorted(images, key=lambda r: (_numbers(r), "cloud" in r))
    )


def uml() -> tuple[Kernel, ...]:
    """User Mode Linux: what ZTLAB_UML_KERNEL names, else what is in the cache, newest last.

    HostUnfit if ZTLAB_UML_KERNEL names what is none.
    """
    named = os.environ.get(UML_VARIABLE)
    if named:
        path = Path(named).absolute()
        kernel = _read_uml(path)
        if kernel is None:
            raise HostUnfit(
                f"{UML_VARIABLE}={named} is not a User Mode Linux that runs here",
                hint=f"unset {UML_VARIABLE}, or build one: ztlab vm build-uml",
            )
        return (kernel,)
    # Of two builds of one source the later one has the configuration of today.
    paths = sorted(cache_folder().glob("uml-*/linux"), key=lambda path: path.stat().st_mtime)
    found = [_read_uml(path) for path in paths]
    return tuple(sorted((k for k in found if k), key=lambda k: _numbers(k.release)))


def choose(kernels: tuple[Kernel, ...], name: str | None) -> Kernel | None:
    """The one of KERNELS that NAME means: a release, a version line ("6.12"), or the newest.

    Of one version line a cloud kernel goes before others.
    """
    there = [kernel for kernel in kernels if kernel.image is not None]
    if name is not None:
        there = [kernel for kernel in there if name in (kernel.release, kernel.line)]
    clouds = [kernel for kernel in there if kernel.kind == "uml" or "cloud" in kernel.release]
    return next(reversed(clouds or there), None)


def check_name(name: str) -> None:
    """NotFound if NAME can be no kernel's at all: neither at hand nor a stock one to install."""
    known = {word for k in everything() for word in (k.release, k.line) if k.kind != "running"}
    if name not in known | STOCK.keys():
        raise NotFound(
            f"no kernel {name!r}",
            hint=f"there are {', '.join(sorted(known, key=_numbers))}; see `ztlab vm kernels`",
        )


def config_of(release: str, boot: Path = BOOT) -> dict[str, str] | None:
    """The configuration of the kernel RELEASE; None if it is nowhere."""
    try:
        return parse_config((boot / f"config-{release}").read_text())
    except OSError:
        pass
    if release == platform.release():
        try:
            return parse_config(gzip.decompress(Path("/proc/config.gz").read_bytes()).decode())
        except OSError:
            pass
    return None


def parse_config(text: str) -> dict[str, str]:
    """CONFIG_X=value lines; what is not set is left out."""
    return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE))


def _read_uml(path: Path) -> Kernel | None:
    """The kernel in PATH, by what it says of itself; None if it does not run."""
    try:
        config = parse_config(_output(str(path), "--showconfig"))
        release = _output(str(path), "--version").strip()
    except (OSError, subprocess.SubprocessError):
        return None
    if config.get("CONFIG_UML") != "y":
        return None
    return Kernel(kind="uml", release=release, image=path, features=Features.of(config))


def _output(*command: str) -> str:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=True
    ).stdout


def _not_installed() -> Iterator[Kernel]:
    there = {kernel.line for kernel in stock() if "cloud" in kernel.release}
    for line, package in STOCK.items():
        if line not in there:
            yield Kernel(kind="stock", release=line, image=None, hint=f"apt-get install {package}")


def _uml_to_be_built() -> Kernel:
    return Kernel(kind="uml", release=UML_LINE, image=None, hint="ztlab vm build-uml")


def _works(*command: str) -> bool:
    """Does COMMAND succeed in a network namespace that exists only for it?"""
    done = subprocess.run(["unshare", "--net", *command], capture_output=True, check=False)
    return done.returncode == 0


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release))
