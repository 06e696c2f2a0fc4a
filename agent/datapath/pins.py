"""Programs and maps held in the BPF file system, so that they outlive the agent that loaded them.

    BPFFS/ztlab/<inode of the network namespace>/<interface>/v<schema>/{programs,maps}/<name>
    .../v<schema>-next/...     a successor's, until its programs have taken over the interface

Files in the BPF file system hold nothing but programs and maps. What else a successor must know of
a set stands in a statement in run_dir, which names the set's programs by their numbers: a number is
not used again before the next boot, so a statement speaks of one set only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent import abi, state
from agent.datapath.libbpf import library
from agent.datapath.loaded import Loaded
from agent.datapath.maps import program_id
from ztlab.errors import HostUnfit, SchemaError, ZtError
from ztlab.model import codec
from ztlab.model.codec import field
from ztlab.model.verdict import Hook

BPFFS = Path("/sys/fs/bpf")
OURS = "ztlab"
_NEXT = "-next"
_MAGIC = 0xCAFE4A11  # BPF_FS_MAGIC, linux/magic.h
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8  # mount(2)
_SO_NETNS_COOKIE = 71  # since 5.14; a number that no other network namespace has before a reboot


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a set of programs and maps is; two of equal meaning do the same to every packet.

    namespace  cookie of the network namespace: inodes are used again, cookies are not
    sources    SHA-256 of the C sources
    loader     libbpf | bcc
    layouts    map name to what its keys and values are made of
    programs   hook to the kernel's number of the program
    """

    namespace: int
    sources: str
    loader: str
    l3_offset: int
    mark_mask: int
    layouts: dict[str, str]
    programs: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedSet:
    """Programs and maps that were found, by descriptors that `close` closes.

    schema     the version in the path
    statement  None: there is none that speaks of these programs
    """

    directory: Path
    schema: int
    programs: Mapping[Hook, int]
    maps: Mapping[str, int]
    statement: Statement | None
    held: ExitStack

    def close(self) -> None:
        """Let go of it; the pins stay."""
        self.held.close()


def is_bpffs(path: Path) -> bool:
    """Is a BPF file system mounted at PATH?"""
    buffer = ctypes.create_string_buffer(256)  # struct statfs begins with f_type, a long
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), buffer):
        return False
    return ctypes.c_long.from_buffer(buffer).value == _MAGIC


def file_system(run_dir: Path) -> Path:
    """A BPF file system to pin in: the system's, else one of our own, mounted in RUN_DIR.

    HostUnfit where there is none and this process may not mount one (CAP_SYS_ADMIN).
    """
    if is_bpffs(BPFFS) and os.access(BPFFS, os.W_OK):
        return BPFFS
    own = run_dir / "bpf"
    if is_bpffs(own):
        return own
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(FileExistsError):
        own.mkdir(0o700)
    flags = _NOSUID | _NODEV | _NOEXEC
    if libc.mount(b"bpf", os.fsencode(own), b"bpf", flags, b"mode=0700"):
        why = os.strerror(ctypes.get_errno())
        with contextlib.suppress(OSError):
            own.rmdir()
        raise HostUnfit(
            f"no BPF file system at {BPFFS}, and none can be mounted at {own}: {why}",
            hint=f"mount -t bpf bpf {BPFFS} (systemd does it at boot)",
        )
    return own


def namespace_cookie() -> int:
    """Of the network namespace this process is in; 0 where the kernel has none (before 5.14)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        with contextlib.suppress(OSError):
            raw = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
            return int.from_bytes(raw, "little")
    return 0


class Pins:
    """The pins of one interface in this network namespace."""

    def __init__(self, interface: str, run_dir: Path) -> None:
        """HostUnfit where nothing can be pinned."""
        self.interface = interface
        self._run_dir = run_dir
        self._root = file_system(run_dir)
        inode = os.stat("/proc/self/ns/net").st_ino
        # The BPF file system takes no name with a dot (kernel/bpf/inode.c, bpf_lookup).
        self.directory = self._root / OURS / str(inode) / interface.replace(".", "%2e")
        self._current = self.directory / f"v{abi.SCHEMA}"
        self._next = self.directory / f"v{abi.SCHEMA}{_NEXT}"

    def find(self, attached: frozenset[int]) -> PinnedSet | None:
        """What a predecessor left; of two sets the one whose programs run.

        attached  numbers of the programs of ours on the interface
        """
        found = [pinned for d in self._sets() if (pinned := self._opened(d)) is not None]
        # The newest version first, and a set that never took over behind the one it was to replace.
        found.sort(key=lambda p: (p.schema, not p.directory.name.endswith(_NEXT)), reverse=True)
        found.sort(key=lambda p: not attached.intersection(map(program_id, p.programs.values())))
        for other in found[1:]:
            other.close()
        return found[0] if found else None

    def stage(self, loaded: Loaded, statement: Statement) -> None:
        """Pin what was LOADED beside the set in force; `settle` makes it the one in force."""
        discard(self._next)
        try:
            for kind, objects in (
                ("programs", {abi.PROGRAMS[hook]: fd for hook, fd in loaded.programs.items()}),
                ("maps", loaded.maps),
            ):
                folder = self._next / kind
                folder.mkdir(0o700, parents=True)
                for name, fd in objects.items():
                    pin(fd, folder / name)
            numbers = {hook.word: program_id(fd) for hook, fd in loaded.programs.items()}
            stated = {**codec.encode(statement), "programs": numbers}
            state.write_json(self._statement_of(self._next), stated)
        except OSError as error:
            discard(self._next)
            raise HostUnfit(
                f"cannot pin in {self._next}: {error.strerror}", hint="is it writable?"
            ) from error

    def settle(self) -> None:
        """The staged programs run on the interface: theirs is the only set from now on."""
        if self._next.is_dir():
            discard(self._current)
            os.replace(self._statement_of(self._next), self._statement_of(self._current))
            self._next.rename(self._current)
        for other in self._sets():
            if other != self._current:
                self._discard(other)

    def remove(self) -> None:
        """Unpin everything of this interface, and unmount a file system of our own."""
        for directory in self._sets():
            self._discard(directory)
        self._tidy()

    def unstage(self) -> None:
        """What was staged does not come into force: unpin it; the set in force stays."""
        self._discard(self._next)
        self._tidy()

    def _discard(self, directory: Path) -> None:
        discard(directory)
        self._statement_of(directory).unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove folders that are empty, and unmount a file system of our own that is."""
        for folder in (self.directory, self.directory.parent, self._root / OURS):
            with contextlib.suppress(OSError):  # not there; or not empty: another interface's
                folder.rmdir()
        own = self._run_dir / "bpf"
        if self._root == own and not (own / OURS).exists():
            ctypes.CDLL(None).umount2(os.fsencode(own), 0)
            with contextlib.suppress(OSError):
                own.rmdir()

    def _sets(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            return [path for path in self.directory.iterdir() if schema_of(path) is not None]
        return []

    def _statement_of(self, directory: Path) -> Path:
        return self._run_dir / f"datapath.{directory.name}.json"

    def _opened(self, directory: Path) -> PinnedSet | None:
        """The set in DIRECTORY; None where it is not whole."""
        held = ExitStack()
        try:
            hooks = {name: hook for hook, name in abi.PROGRAMS.items()}
            programs = {
                hooks[name]: fd
                for name, fd in opened_in(directory / "programs", held)
                if name in hooks
            }
            maps = dict(opened_in(directory / "maps", held))
        except OSError:
            held.close()
            return None
        if set(programs) != set(Hook):
            held.close()
            return None
        schema = schema_of(directory)
        assert schema is not None
        return PinnedSet(
            directory=directory,
            schema=schema,
            programs=programs,
            maps=maps,
            statement=self._statement(programs),
            held=held,
        )

    def _statement(self, programs: Mapping[Hook, int]) -> Statement | None:
        """What was said of just these PROGRAMS, in either of the two files."""
        numbers = {hook.word: program_id(fd) for hook, fd in programs.items()}
        for path in self._run_dir.glob("datapath.v*.json"):
            with contextlib.suppress(SchemaError):
                stated = codec.decode(Statement, state.read_json(path))
                if stated.programs == numbers:
                    return stated
        return None


def schema_of(directory: Path) -> int | None:
    """The version of the set in DIRECTORY; None: its name is that of no set."""
    name = directory.name.removesuffix(_NEXT)
    return int(name[1:]) if name[:1] == "v" and name[1:].isdigit() else None


def discard(directory: Path) -> None:
    """Unpin all that is in DIRECTORY, and remove it."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.is_dir():
        raise ZtError(f"cannot remove {directory}", hint="is the BPF file system read-only here?")


def pin(fd: int, path: Path) -> None:
    """Hold what FD stands for at PATH; OSError where that cannot be."""
    result = library().bpf_obj_pin(fd, os.fsencode(path))
    if result:
        raise OSError(-result, os.strerror(-result))


def opened_in(folder: Path, held: ExitStack) -> Iterator[tuple[str, int]]:
    """The name of each pin in FOLDER, and a descriptor that HELD closes."""
    for path in sorted(folder.iterdir()):
        fd = library().bpf_obj_get(os.fsencode(path))
        if fd < 0:
            raise OSError(-fd or errno.EIO, f"cannot open {path}")
        held.callback(os.close, fd)
        yield path.name, fd
