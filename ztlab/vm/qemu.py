"""How a guest is started in QEMU, by KVM or by emulation (TCG): a stock kernel, no disk image.

Its root is the host's file system over virtiofs, served by virtiofsd. The kernel is unpacked here
and entered through PVH: no firmware, and no decompressing at an emulator's pace.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ztlab.errors import HostUnfit
from ztlab.vm.channels import Channels

PACKAGES = "qemu-system-x86 qemu-system-common"
_DAEMONS = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd")
_KERNEL_ARGUMENTS = (
    "console=ttyS0 loglevel=4 panic=-1 rootfstype=virtiofs root=host ro"
    " mitigations=off nokaslr nowatchdog audit=0 apparmor=0 tsc=reliable"
)
_SOCKET_PATH_MAX = 107  # bytes: sun_path without its last zero (unix(7))
# How a compressed kernel begins, and what unpacks it.
_PACKERS = {
    b"\x28\xb5\x2f\xfd": ("zstd", "-dcq"),
    b"\xfd7zXZ\x00": ("xz", "-dcq", "--single-stream"),
    b"\x02\x21\x4c\x18": ("lz4", "-dcq"),
    b"\x1f\x8b\x08": ("gzip", "-dcq"),
}


def why_not() -> str:
    """What is missing to start QEMU; "" if nothing is."""
    if shutil.which("qemu-system-x86_64") is None:
        return "qemu-system-x86_64 is not installed"
    if daemon() is None:
        return "virtiofsd is not installed"
    return ""


def daemon() -> str | None:
    """virtiofsd's path: the C one of Debian 12's QEMU, or the Rust one that followed it."""
    return next((path for path in _DAEMONS if os.access(path, os.X_OK)), None)


def unpack(image: Path, target: Path) -> None:
    """Write the ELF kernel inside the bzImage IMAGE to TARGET. HostUnfit if nothing unpacks it."""
    data = image.read_bytes()
    for magic, command in _PACKERS.items():
        at = data.find(magic)
        while at >= 0:
            # What follows the packed kernel is no part of it: the unpacker complains, rightly.
            try:
                done = subprocess.run(command, input=data[at:], capture_output=True, check=False)
            except FileNotFoundError:
                raise HostUnfit(
                    f"{image} is packed with {command[0]}, which is not installed",
                    hint=f"apt-get install {command[0]}",
                ) from None
            if done.stdout.startswith(b"\x7fELF"):
                target.write_bytes(done.stdout)
                return
            at = data.find(magic, at + 1)
    raise HostUnfit(f"{image}: no kernel in it that can be unpacked")


@contextlib.contextmanager
def shared(folder: Path, name: str, source: Path, *, cache: str) -> Iterator[Path]:
    """SOURCE, served as the virtiofs NAME while the block lasts: the socket for QEMU.

    The listening socket is ours and inherited: a daemon that makes its own leaves a lock file.
    """
    path = folder / f"{name}.sock"
    if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
        raise HostUnfit(f"too long a path for a socket: {path}", hint="set TMPDIR to a shorter one")
    program = daemon()
    assert program is not None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        options = [f"--fd={listener.fileno()}", "-o", f"source={source}", "-o", f"cache={cache}"]
        # chroot, not namespace: pivot_root fails where the host's root is the first file system.
        options += ["-o", "sandbox=chroot", "-o", "log_level=err"]
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", program, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    try:
        yield path
    finally:
        process.kill()
        process.wait()


def command(
    *,
    engine: str,
    kernel: Path,
    initrd: Path | None,
    folder: Path,
    memory_mib: int,
    channels: Channels,
    sockets: dict[str, Path],
) -> list[str]:
    """The command line: KERNEL is unpacked; SOCKETS, by virtiofs name, are served by `shared`."""
    cpus = min(2, len(os.sched_getaffinity(0)))
    accelerator = {"kvm": "kvm", "tcg": "tcg,thread=multi,tb-size=1024"}[engine]
    argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"]
    argv += ["-display", "none", "-M", "q35,memory-backend=memory", "-accel", accelerator]
    # An old model under emulation: each vector extension that programs find they use, slowly.
    argv += ["-cpu", "host" if engine == "kvm" else "Nehalem", "-smp", str(cpus)]
    argv += ["-m", f"{memory_mib}M"]
    argv += ["-object", f"memory-backend-memfd,id=memory,size={memory_mib}M,share=on"]
    argv += ["-kernel", str(kernel)]
    arguments = f"{_KERNEL_ARGUMENTS} init={folder}/guest-init"
    if initrd is not None:
        argv += ["-initrd", str(initrd)]
    argv += ["-append", arguments]
    argv += ["-chardev", "file,id=console,path=/proc/self/fd/1", "-serial", "chardev:console"]
    argv += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
    pipes = {"stdout": channels.stdout, "stderr": channels.stderr, "control": channels.control}
    for name, pipe in pipes.items():
        argv += ["-chardev", f"file,id={name},path=/proc/self/fd/{pipe.guest}"]
        argv += ["-device", f"virtserialport,chardev={name},name={name}"]
    for name, path in sockets.items():
        argv += ["-chardev", f"socket,id=fs-{name},path={path}"]
        argv += ["-device", f"vhost-user-fs-pci,chardev=fs-{name},tag={name},queue-size=1024"]
    return argv
