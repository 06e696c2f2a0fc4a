"""How a guest is started as User Mode Linux: a kernel that is an ordinary process."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ztlab.errors import HostUnfit
from ztlab.vm.channels import Channels

_MIB = 1 << 20


def command(kernel: Path, folder: Path, memory_mib: int, channels: Channels) -> list[str]:
    """The command line. FOLDER is the run's own: it has guest-init, and gets the kernel's files.

    The kernel reads each console as a pair of files, input and output: nothing to read for any.
    The first is the kernel's own; the others are the job's, and ours.
    """
    consoles = {1: channels.stdout, 2: channels.stderr, 3: channels.control}
    return [
        str(kernel),
        f"mem={memory_mib}M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        f"init={folder}/guest-init",
        "con=null",
        "con0=null,fd:1",
        *(f"con{number}=null,fd:{pipe.guest}" for number, pipe in consoles.items()),
        "ssl=null",
        "loglevel=5",
        "panic=-1",
        "random.trust_cpu=on",
        "umid=guest",
        f"uml_dir={folder}/",
    ]


def memory_folder(memory_mib: int) -> Path:
    """A folder for the file that is the guest's memory; it is unlinked as soon as it is made.

    HostUnfit where there is none that may be executed from and has the room.
    """
    refused = []
    for name in (os.environ.get("TMPDIR"), "/dev/shm", "/tmp"):
        if not name or not os.path.isdir(name):
            continue
        if os.statvfs(name).f_flag & os.ST_NOEXEC:
            refused.append(f"{name} is mounted noexec")
        elif (free := shutil.disk_usage(name).free) < memory_mib * _MIB:
            refused.append(f"{name} has {free // _MIB} MiB free")
        elif not os.access(name, os.W_OK):
            refused.append(f"{name} is not writable")
        else:
            return Path(name)
    raise HostUnfit(
        f"nowhere to put {memory_mib} MiB of guest memory: {', '.join(refused)}",
        hint="mount -o remount,exec /dev/shm, free some room, or give the guest less: --memory",
    )
