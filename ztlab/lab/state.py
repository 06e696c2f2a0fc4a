"""What is written down about each lab, before it is made: <state root>/labs/<lab>/lab.json.

Whatever dies and whenever, what stands here suffices to find and remove all of it.

    <root>/labs/.<lab>.lock                  held while somebody builds or removes the lab
    <root>/labs/<lab>/lab.json, hosts, resolv.conf, init.log
    <root>/labs/<lab>/nodes/<node>/          agent.toml, setup-key, state/, log, listener.log
    <root>/labs/<lab>/coordinator/           coordinator.toml, owner-token, state/, log
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ztlab.errors import NotFound, ZtError
from ztlab.lab.names import check_lab_name
from ztlab.model import codec
from ztlab.model.codec import field

VERSION = 1
DEFAULT_ROOT = Path("/var/lib/ztlab")
_MARKER = ".made-by-ztlab"


@dataclass(frozen=True, slots=True, kw_only=True)
class InitProcess:
    """A lab's PID 1, named so that a recycled pid is never mistaken for it.

    started_ticks  its start time in clock ticks since boot: field 22 of /proc/PID/stat
    boot_id        /proc/sys/kernel/random/boot_id
    """

    pid: int
    started_ticks: int
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceFds:
    """Descriptors in the lab's PID 1 that hold a node's namespaces: /proc/<pid>/fd/<number>."""

    net: int
    mnt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """One node, host, or helper namespace of a standing lab.

    kind       node: runs an agent; host: plain; coordinator; switch
    underlay   its addresses outside the tunnel; lan: those on its LAN; tunnel: inside the tunnel
    listen     "tcp/8080", the ports its listener answers on
    endpoint   what others dial; None: it only calls
    """

    name: str
    kind: Literal["node", "host", "coordinator", "switch"]
    role: str | None = field(default=None)
    identity: str | None = field(default=None)
    lan: str | None = field(default=None)
    underlay: tuple[str, ...] = field(default=())
    lan_addresses: tuple[str, ...] = field(default=())
    tunnel: tuple[str, ...] = field(default=())
    listen: tuple[str, ...] = field(default=())
    endpoint: str | None = field(default=None)
    namespaces: NamespaceFds | None = field(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabRecord:
    """A lab as lab.json has it.

    state       building until `up` has succeeded, then up
    names       what was, or is about to be, bound in /run/netns
    created_at  Unix time
    phases_s    how long each part of `up` took, in seconds
    source      the file it was made from
    """

    version: int
    name: str
    state: Literal["building", "up"]
    created_at: float
    names: tuple[str, ...]
    nodes: tuple[NodeRecord, ...]
    init: InitProcess | None = field(default=None)
    coordinator_url: str | None = field(default=None)
    phases_s: Mapping[str, float] = field(default_factory=dict)
    source: str | None = field(default=None)

    def node(self, name: str) -> NodeRecord:
        """The node NAME; NotFound with a "did you mean"."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = [n.name for n in self.nodes]
        raise NotFound(
            f"lab {self.name!r} has no node {name!r}{codec.did_you_mean(name, known)}",
            hint="its nodes: " + ", ".join(known),
        )


def root() -> Path:
    """$ZTLAB_STATE_DIR, else /var/lib/ztlab."""
    return Path(os.environ.get("ZTLAB_STATE_DIR") or DEFAULT_ROOT).absolute()


def labs_dir() -> Path:
    return root() / "labs"


def lab_dir(name: str) -> Path:
    return labs_dir() / name


def node_dir(lab: str, node: str) -> Path:
    """Where a node's files are; the coordinator's are beside the nodes', not among them."""
    return lab_dir(lab) / "nodes" / node


def coordinator_dir(lab: str) -> Path:
    return lab_dir(lab) / "coordinator"


def names() -> tuple[str, ...]:
    """Every lab that has anything written down, standing, half-built or dead, sorted."""
    try:
        entries = sorted(labs_dir().iterdir())
    except FileNotFoundError:
        return ()
    return tuple(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def read(name: str) -> LabRecord:
    """The record of lab NAME; NotFound with the labs there are."""
    check_lab_name(name)
    path = lab_dir(name) / "lab.json"
    try:
        text = path.read_text()
    except FileNotFoundError:
        others = ", ".join(names())
        raise NotFound(
            f"no lab {name!r} is standing",
            hint=f"standing: {others}" if others else "make one: ztlab up FILE",
        ) from None
    try:
        return codec.decode(LabRecord, json.loads(text))
    except (ValueError, ZtError) as error:
        raise ZtError(
            f"{path} cannot be read: {error}",
            hint=f"`ztlab down {name}` removes what is left of that lab",
        ) from None


def remains(name: str) -> tuple[InitProcess | None, tuple[str, ...]]:
    """What has to go with lab NAME: its PID 1 and its names in /run/netns.

    Only these two are read, so that a lab of an older or newer ztlab goes down too. No record: `up`
    was killed before it made anything.
    """
    try:
        data = json.loads((lab_dir(name) / "lab.json").read_text())
    except (FileNotFoundError, ValueError):
        return None, ()
    if not isinstance(data, dict):
        return None, ()
    try:
        init = codec.decode(InitProcess, data["init"]) if data.get("init") else None
        names_bound = codec.decode(tuple[str, ...], data.get("names", []))
    except ZtError as error:
        raise ZtError(
            f"{lab_dir(name) / 'lab.json'} does not say what lab {name!r} consists of: {error}",
            hint="kill its ztlab-init by hand, then remove that file and try again",
        ) from None
    prefix = f"{name}."
    return init, tuple(
        bound for bound in names_bound if bound.startswith(prefix) and "/" not in bound
    )


def write(record: LabRecord) -> None:
    """Replace lab.json in one step, on disk before this returns."""
    path = lab_dir(record.name) / "lab.json"
    draft = path.with_suffix(".new")
    with open(draft, "w") as file:
        json.dump(codec.encode(record), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def update_node(record: LabRecord, node: NodeRecord) -> LabRecord:
    """RECORD with the node of that name replaced."""
    nodes = tuple(node if n.name == node.name else n for n in record.nodes)
    return replace(record, nodes=nodes)


def make_root() -> None:
    """The root and its labs/, with a marker in what was not there before, so it can go again."""
    existed = root().exists()
    labs_dir().mkdir(parents=True, exist_ok=True)
    if not existed:
        (root() / _MARKER).touch()


def remove_empty_root() -> None:
    """Take away labs/ and a root that we made, if nothing is left in them."""
    with contextlib.suppress(OSError):
        labs_dir().rmdir()
        marker = root() / _MARKER
        if marker.exists() and [p.name for p in root().iterdir()] == [_MARKER]:
            marker.unlink()
            root().rmdir()


@contextlib.contextmanager
def lock(name: str, *, timeout_s: float = 0.0) -> Iterator[None]:
    """Be the only one who builds or removes lab NAME; ZtError if another is, TIMEOUT_S later still.

    The lock file goes with the block. Whoever waited for it then holds a file that no longer has
    the name, notices, and begins again.
    """
    deadline = time.monotonic() + timeout_s
    path = labs_dir() / f".{name}.lock"
    while True:
        make_root()
        try:
            fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except FileNotFoundError:
            continue  # another one's last act removed the directory just now
        if _lock_or_close(fd, path):
            break
        if time.monotonic() >= deadline:
            raise ZtError(
                f"another ztlab is building or removing lab {name!r} right now{_holder(path)}",
                hint="wait for it, or interrupt it: it cleans up behind itself",
            )
        time.sleep(0.02)
    try:
        os.truncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)
        remove_empty_root()


def _lock_or_close(fd: int, path: Path) -> bool:
    """Is FD locked now, and still the file at PATH? Closed if not."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            return True
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return False


def _holder(path: Path) -> str:
    try:
        return f" (pid {path.read_text().strip()})"
    except OSError:
        return ""
