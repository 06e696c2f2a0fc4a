"""What this machine has and lacks: every answer from trying, none from a version number."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ztlab.errors import HostUnfit
from ztlab.lab import execute, links

Status = Literal["ok", "missing", "optional"]
_TRIAL_S = 60.0  # a kernel under software emulation takes its time


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing a lab wants.

    status  optional: it is not there, and only some scenarios or comforts need it
    found   what is there, or why it is not
    hint    how to get it; "" if it is there
    """

    name: str
    status: Status
    found: str
    hint: str = ""


def examine() -> tuple[Check, ...]:
    """Every check, in the order a newcomer would go through them."""
    return tuple(_checks())


def is_fit(checks: tuple[Check, ...]) -> bool:
    """Can this machine run a lab?"""
    return all(check.status != "missing" for check in checks)


def _checks() -> Iterator[Check]:
    is_root = os.geteuid() == 0
    yield Check(
        name="root",
        status="ok" if is_root else "missing",
        found=f"uid {os.geteuid()}",
        hint="" if is_root else "sudo ztlab …",
    )
    yield Check(name="kernel", status="ok", found=f"{platform.system()} {platform.release()}")
    yield from _namespaces()
    if is_root:
        yield from _kernel_network()
    yield from _wireguard(is_root)
    yield from _loaders(is_root)
    yield from _file_systems()
    yield from _programs()


def _namespaces() -> Iterator[Check]:
    lacking = [kind for kind in ("net", "mnt", "pid") if not Path(f"/proc/self/ns/{kind}").exists()]
    yield Check(
        name="namespaces",
        status="missing" if lacking else "ok",
        found=f"no {', '.join(lacking)}" if lacking else "net, mnt, pid",
        hint="a kernel with CONFIG_NAMESPACES" if lacking else "",
    )


def _kernel_network() -> Iterator[Check]:
    """Tried in a network namespace that exists only for the moment."""
    for kind in ("veth", "bridge"):
        error = links.why_no_link(kind)
        yield _tried(kind, error, hint=f"modprobe {kind}")
    yield _tried("tc clsact", links.why_no_qdisc("clsact"), hint="modprobe sch_ingress")
    error = links.why_no_qdisc("netem")
    yield _tried(
        "netem",
        error,
        hint="modprobe sch_netem; without it no link can lose or delay",
        needed=False,
    )


def _tried(name: str, error: str, *, hint: str, needed: bool = True) -> Check:
    if not error:
        return Check(name=name, status="ok", found="works")
    return Check(name=name, status="missing" if needed else "optional", found=error, hint=hint)


def _wireguard(is_root: bool) -> Iterator[Check]:
    error = links.why_no_link("wireguard") if is_root else "not tried without root"
    userspace = shutil.which("wireguard-go")
    tun = Path("/dev/net/tun").exists()
    hint = "apt-get install wireguard-go" if tun else "modprobe tun, apt-get install wireguard-go"
    if not error:
        found, status = "the kernel's", "ok"
    elif userspace and tun:
        found, status = f"{userspace} (kernel: {error})", "ok"
    else:
        found, status = f"neither the kernel's ({error}) nor wireguard-go with /dev/net/tun", "no"
    yield Check(
        name="wireguard",
        status="ok" if status == "ok" else "missing",
        found=found,
        hint="" if status == "ok" else hint,
    )
    wg = shutil.which("wg")
    yield Check(
        name="wg",
        status="ok" if wg else "optional",
        found=wg or "not installed",
        hint="" if wg else "apt-get install wireguard-tools, to look at interfaces by hand",
    )


def _loaders(is_root: bool) -> Iterator[Check]:
    """One of the two is enough; `loader: auto` prefers libbpf."""
    why_not = _object_does_not_load() if is_root else "not tried without root"
    yield Check(
        name="libbpf",
        status="optional" if why_not else "ok",
        found=why_not or "the agent's compiled programs load; `loader: auto` takes them",
        hint="make setup compiles them; `zt-agent loaders` tells more" if why_not else "",
    )
    lacking: Status = "missing" if why_not else "optional"
    has_bcc = importlib.util.find_spec("bcc") is not None and _loads("libbcc.so.0")
    yield Check(
        name="bcc",
        status="ok" if has_bcc else lacking,
        found="importable, libbcc.so.0 loads" if has_bcc else "not importable, or no libbcc.so.0",
        hint="" if has_bcc else "apt-get install python3-bpfcc, then make setup",
    )
    headers = Path(f"/lib/modules/{platform.release()}/build")
    has_headers = (headers / "include").is_dir()
    yield Check(
        name="kernel headers",
        status="ok" if has_headers else lacking,
        found=f"{headers.resolve()}, for bcc" if has_headers else f"nothing at {headers}",
        hint="" if has_headers else "apt-get install linux-headers-amd64, then make setup",
    )


def _object_does_not_load() -> str:
    """Why the agent's compiled object does not load into this kernel, as the agent says; or ""."""
    try:
        command = [execute.program("zt-agent"), "loaders", "--json", "libbpf"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TRIAL_S)
        (trial,) = json.loads(done.stdout)
        return str(trial["found"]).split("\n", 1)[0]
    except (HostUnfit, OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"zt-agent cannot say: {error}"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _file_systems() -> Iterator[Check]:
    known = Path("/proc/filesystems").read_text().split()
    yield _known_file_system("bpf", known, "bpffs", needed=True)
    yield _known_file_system("tracefs", known, "tracefs", needed=False)
    has_cgroup = Path("/sys/fs/cgroup").is_dir() and "cgroup2" in known
    yield Check(
        name="cgroup v2",
        status="ok" if has_cgroup else "optional",
        found="there" if has_cgroup else "not there; labs run without it",
    )
    has_btf = Path("/sys/kernel/btf/vmlinux").exists()
    yield Check(
        name="BTF",
        status="ok" if has_btf else "optional",
        found="/sys/kernel/btf/vmlinux" if has_btf else "not there; both loaders do without it",
    )


def _known_file_system(kind: str, known: list[str], name: str, *, needed: bool) -> Check:
    if kind in known:
        return Check(name=name, status="ok", found="each node mounts its own")
    return Check(
        name=name,
        status="missing" if needed else "optional",
        found="the kernel has none",
        hint=f"a kernel with {'CONFIG_BPF_SYSCALL' if kind == 'bpf' else 'CONFIG_TRACING'}",
    )


def _programs() -> Iterator[Check]:
    wanted: tuple[tuple[str, str, bool, str], ...] = (
        ("ip", "iproute2", True, ""),
        ("tc", "iproute2", True, ""),
        ("setpriv", "util-linux", True, ""),
        ("setsid", "util-linux", True, ""),
        ("nft", "nftables", True, ""),
        ("iperf3", "iperf3", False, "for `transfer` steps"),
        ("bpftool", "bpftool", False, "to look at programs and maps"),
        ("tcpdump", "tcpdump", False, "to capture packets"),
        ("bash", "bash", False, "for `ztlab shell` with a named prompt"),
    )
    for program, package, needed, purpose in wanted:
        path = shutil.which(program)
        why_not = f", {purpose}" if purpose else ""
        yield Check(
            name=program,
            status="ok" if path else "missing" if needed else "optional",
            found=path or "not installed",
            hint="" if path else f"apt-get install {package}{why_not}",
        )
