"""What the kernel must be able to do, probed by doing it. Standard library only.

Run by tools/setup.sh as root in new network, mount and pid namespaces, so nothing it makes outlives
it. Prints what is missing, comma-separated, and exits with 1; prints nothing and exits with 0 if
all is there.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
# bpf(2) has no wrapper in libc; its number differs by architecture.
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_MAP_CREATE, _PROG_LOAD, _OBJ_PIN = 0, 5, 6
_PROG_TYPE_SCHED_CLS = 3
_PERCPU_HASH, _LPM_TRIE, _RINGBUF = 5, 11, 27
_NO_PREALLOC = 1  # what an LPM trie insists on
_RETURN_0 = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0; exit


class Missing(Exception):
    """The kernel said no."""


def run(*command: str) -> None:
    """Run COMMAND; Missing with its last line of complaint if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        complaint = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(complaint[-1] if complaint else f"`{command[0]}` failed")


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2) with ATTRIBUTES as its union: the file descriptor it returns."""
    number = _SYS_BPF.get(platform.machine())
    if number is None:
        raise Missing(f"no number for bpf(2) on {platform.machine()}")
    fd = int(_libc.syscall(number, command, attributes, len(attributes)))
    if fd < 0:
        raise Missing(os.strerror(ctypes.get_errno()))
    return fd


def u32(*values: int) -> bytes:
    return b"".join(v.to_bytes(4, sys.byteorder) for v in values)


def u64(value: int) -> bytes:
    return value.to_bytes(8, sys.byteorder)


def create_map(kind: int, key: int, value: int, entries: int, flags: int = 0) -> None:
    os.close(bpf(_MAP_CREATE, u32(kind, key, value, entries, flags) + bytes(12)))


def load_tc_program() -> int:
    """A SCHED_CLS program that returns 0; its file descriptor."""
    code = ctypes.create_string_buffer(_RETURN_0, len(_RETURN_0))
    licence = ctypes.create_string_buffer(b"GPL")
    head = u32(_PROG_TYPE_SCHED_CLS, len(_RETURN_0) // 8)
    pointers = u64(ctypes.addressof(code)) + u64(ctypes.addressof(licence))
    return bpf(_PROG_LOAD, head + pointers + bytes(24))


def probe_tc() -> None:
    """The whole way of a program: loaded, pinned in a bpffs, attached by tc."""
    with tempfile.TemporaryDirectory() as folder:
        run("mount", "-t", "bpf", "bpf", folder)
        try:
            program = load_tc_program()
            path = ctypes.create_string_buffer(f"{folder}/probe".encode())
            bpf(_OBJ_PIN, u64(ctypes.addressof(path)) + u32(program, 0))
            run("tc", "qdisc", "add", "dev", "zt0", "clsact")
            run(*f"tc filter add dev zt0 ingress bpf da object-pinned {folder}/probe".split())
        finally:
            run("umount", folder)


def probe_wireguard() -> None:
    """The kernel's own WireGuard, or the tun device that wireguard-go needs."""
    try:
        run("ip", "link", "add", "ztwg", "type", "wireguard")
    except Missing as kernel:
        try:
            run("ip", "tuntap", "add", "zttun", "mode", "tun")
            os.close(os.open("/dev/net/tun", os.O_RDWR))
        except (Missing, OSError) as tun:
            raise Missing(f"kernel: {kernel}; tun for wireguard-go: {tun}") from None


PROBES: dict[str, Callable[[], None]] = {
    "veth pairs": lambda: run("ip", "link", "add", "zt0", "type", "veth", "peer", "name", "zt1"),
    "bridges": lambda: run("ip", "link", "add", "ztbr", "type", "bridge"),
    "IPv6": lambda: run("ip", "-6", "address", "add", "fd00::1/64", "dev", "lo"),
    "WireGuard or tun": probe_wireguard,
    "nftables": lambda: run("nft", "add", "table", "inet", "ztprobe"),
    "BPF ring buffers": lambda: create_map(_RINGBUF, 0, 0, 1 << 16),
    "BPF LPM tries": lambda: create_map(_LPM_TRIE, 8, 4, 1, _NO_PREALLOC),
    "BPF per-CPU hashes": lambda: create_map(_PERCPU_HASH, 4, 8, 1),
    "TC programs (bpffs, clsact, cls_bpf)": probe_tc,
}


def main() -> int:
    missing = []
    for name, probe in PROBES.items():
        try:
            probe()
        except (Missing, OSError) as error:
            missing.append(f"{name} ({error})")
    print(", ".join(missing), end="")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
