"""PID 1 of a lab: makes every node's namespaces, holds them open, and reaps children for ever.

`ztlab up` starts it with one end of a socket as standard input and talks to it in lines of JSON:

    up                                  init
    {"nodes": [NODE, ...]}      ->
                                <-      {"pid": <of init, as the host sees it>}
    go (once it wrote the pid down) ->
                                <-      {"ready": {<node>: {"net": fd, "mnt": fd}, ...}}
                                        or {"error": "<what failed>"}
    keep                        ->      from now on init lives until it is killed

    NODE  {"name", "hosts": path, "resolv": path,
           "binds": [[source, target below /run]],        extra bind mounts
           "cover": [path], "uncover": [path]}            see _uncover

The socket is a leash: its end before "keep" (`up` was killed) ends init. When init ends, for
whatever reason, the kernel ends every process of the lab and frees its namespaces. There is no
command protocol: others enter through /proc/<pid>/fd/<fd> with setns(2).

Standard library only, so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
from typing import Any

from ztlab.lab import syscalls
from ztlab.lab.syscalls import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
)

RUN_DIRECTORIES = {"wireguard": 0o700, "zt-agent": 0o700, "lock": 0o1777, "netns": 0o755}
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


class Leash:
    """Lines of JSON or words over the socket that `up` gave us as standard input."""

    def __init__(self) -> None:
        self.socket = socket.socket(fileno=os.dup(0))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        self._reader = self.socket.makefile("r")

    def read(self) -> str:
        """The next line; "" once `up` is gone."""
        return self._reader.readline().strip()

    def send(self, message: dict[str, Any]) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        self._reader.close()
        self.socket.close()


def main() -> None:
    """Fork PID 1 into new PID and mount namespaces, tell `up` its pid, and leave it alone."""
    os.setsid()  # a Ctrl-C at the terminal is for `up`, which decides what it means
    leash = Leash()
    spec = json.loads(leash.read())
    syscalls.unshare(CLONE_NEWPID | CLONE_NEWNS)
    pid = os.fork()
    if pid:
        leash.send({"pid": pid})
        os._exit(0)
    if leash.read() != "go":
        os._exit(1)
    syscalls.set_process_name("ztlab-init")
    try:
        ready = make_lab(spec["nodes"])
    except OSError as error:
        leash.send({"error": str(error)})
        os._exit(1)
    leash.send({"ready": ready})
    live(leash)


def make_lab(nodes: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Namespaces for every node; their names with the open descriptors that hold them."""
    os.chdir("/")
    os.umask(0o022)
    syscalls.mount("none", "/", flags=MS_REC | MS_PRIVATE)
    detach_foreign_namespaces()
    syscalls.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    home_net = os.open("/proc/self/ns/net", os.O_RDONLY)
    home_mnt = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    ready = {}
    for node in nodes:
        syscalls.unshare(CLONE_NEWNET | CLONE_NEWNS)
        prepare_network()
        prepare_mounts(node)
        ready[node["name"]] = {
            "net": os.open("/proc/self/ns/net", os.O_RDONLY),
            "mnt": os.open("/proc/self/ns/mnt", os.O_RDONLY),
        }
        syscalls.setns(home_net, CLONE_NEWNET)
        syscalls.setns(home_mnt, CLONE_NEWNS)
    os.close(home_net)
    os.close(home_mnt)
    return ready


def detach_foreign_namespaces() -> None:
    """Let go of the copies of other labs' (and anybody's) named namespaces in our mount namespace.

    A new mount namespace begins as a copy of the host's; with a copy of the mount on
    /run/netns/other.node in it, this lab would keep that namespace alive after its own end.
    """
    with open("/proc/self/mountinfo") as table:
        mounts = [line.split() for line in table]
    for fields in reversed(mounts):
        if fields[fields.index("-") + 1] == "nsfs":
            syscalls.umount(unescape_mount_path(fields[4]), MNT_DETACH)


def unescape_mount_path(text: str) -> str:
    r"""A path as the kernel writes it in mountinfo, where a blank is \040: proc(5)."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


def prepare_network() -> None:
    """In a fresh network namespace: loopback up, IPv6 addresses usable at once, no router guessing.

    Duplicate address detection would keep every new address tentative for a second or two.
    """
    for where in ("all", "default"):
        for key, value in (("accept_dad", "0"), ("accept_ra", "0")):
            with open(f"/proc/sys/net/ipv6/conf/{where}/{key}", "w") as setting:
                setting.write(value)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        _, flags = struct.unpack("16sh22x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def prepare_mounts(node: dict[str, Any]) -> None:
    """In a node's fresh mount namespace: its own /run, /sys, bpffs, hosts and resolv.conf."""
    syscalls.umount("/sys", MNT_DETACH)
    syscalls.mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    syscalls.mount("bpf", "/sys/fs/bpf", "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=700")
    _mount_if_there("tracefs", "/sys/kernel/tracing")
    # Opened before directories are covered and /run is replaced: the lab's state may lie below.
    sources = {path: os.open(path, os.O_PATH) for path, _ in node["binds"]}
    for path in (node["hosts"], node["resolv"]):
        sources[path] = os.open(path, os.O_PATH)
    _uncover(node["cover"], node["uncover"])
    syscalls.mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for name, mode in RUN_DIRECTORIES.items():
        os.mkdir(f"/run/{name}")
        os.chmod(f"/run/{name}", mode)
    _bind_file(sources[node["hosts"]], "/etc/hosts")
    _bind_file(sources[node["resolv"]], "/etc/resolv.conf")
    for path, target in node["binds"]:
        os.makedirs(target)
        syscalls.mount(f"/proc/self/fd/{sources[path]}", target, flags=MS_BIND)
    for fd in sources.values():
        os.close(fd)


def _mount_if_there(fstype: str, target: str) -> None:
    """A file system that is a comfort only: a kernel without it still runs a lab."""
    try:
        syscalls.mount(fstype, target, fstype, MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError:
        return


def _bind_file(source: int, target: str) -> None:
    """Bind the open file SOURCE over TARGET, be it a link into the /run just hidden."""
    real = os.path.realpath(target)
    if real.startswith("/run/") and not os.path.exists(real):
        os.makedirs(os.path.dirname(real), exist_ok=True)
        os.close(os.open(real, os.O_CREAT | os.O_WRONLY, 0o644))
    syscalls.mount(f"/proc/self/fd/{source}", real, flags=MS_BIND)


def _uncover(cover: list[str], uncover: list[str]) -> None:
    """Make the directories UNCOVER reachable for an unprivileged user, in this namespace only.

    cover    their ancestors that such a user cannot traverse (a 0700 /root); each becomes an empty
             tmpfs, with nothing in it but the way to the UNCOVER below it
    """
    sources = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in uncover}
    for path in cover:
        syscalls.mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for path, fd in sources.items():
        os.makedirs(path, exist_ok=True)
        syscalls.mount(f"/proc/self/fd/{fd}", path, flags=MS_BIND | MS_REC)
        os.close(fd)


def live(leash: Leash) -> None:
    """Reap every orphan of the lab; end with `up` until it says "keep", then never."""
    wakeup, alarm = os.pipe()
    for fd in (wakeup, alarm):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    watched: list[Any] = [wakeup, leash.socket]
    while True:
        reap()
        readable, _, _ = select.select(watched, [], [])
        if wakeup in readable:
            os.read(wakeup, 4096)
        if leash.socket in readable:
            if leash.read() != "keep":
                os._exit(1)
            watched.remove(leash.socket)
            leash.close()


def reap() -> None:
    """Collect every child that has ended: orphans of the whole lab come to PID 1."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    try:
        main()
    except OSError as failure:
        sys.exit(f"ztlab-init: {failure}")
