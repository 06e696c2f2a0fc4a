"""Taking back what an agent put in force on a host: at its end if it was asked to, or later.

An agent that merely stops, however it stops, leaves everything in force.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import exclusive, host, settings
from agent.datapath import attach, belt
from agent.datapath.adoption import Inherited
from agent.datapath.generations import RuleBook
from agent.datapath.pins import Pins
from agent.datapath.stale import Stale, discard, stale
from agent.keyfiles import KeyFiles
from agent.settings import Settings
from agent.wireguard.backend import Backend
from agent.wireguard.choose import open_backend
from agent.wireguard.links import Links
from ztlab.errors import HostUnfit, ZtError

log = logging.getLogger(__name__)


def remove(config_path: Path) -> tuple[str, ...]:
    """Take back what an agent with this configuration left; what could not be, in words.

    ZtError while that agent runs. The node's key and its last good configuration stay.
    """
    loaded = settings.load(config_path)
    exclusive.require_root()
    with exclusive.lock(loaded.run_path):
        links = Links()
        try:
            backend, complaints = _ours(loaded, links)
            return complaints + take_back(loaded, links, backend)
        finally:
            links.close()


def find_stale(config_path: Path) -> tuple[Stale, ...]:
    """Pins, where an agent with this configuration has its own, of namespaces that seem gone."""
    loaded = settings.load(config_path)
    exclusive.require_root()
    return stale(loaded.run_path)


def remove_stale(found: Stale) -> str:
    """Remove them; "", or why they stay."""
    try:
        is_gone = discard(found)
    except (ZtError, OSError) as error:
        return str(error)
    return "" if is_gone else "its programs run, in a namespace that is not seen from here"


def _ours(loaded: Settings, links: Links) -> tuple[Backend | None, tuple[str, ...]]:
    """The interface, if it is there and has this node's key; else what it is."""
    interface = loaded.wireguard.interface
    if links.kind(interface) is None:
        return None, ()
    try:
        backend = open_backend(loaded.wireguard.backend, interface, links)
        public_key = backend.state().public_key
    except ZtError as error:
        return None, (f"{interface} stays: {error}",)
    has_key = (loaded.state_path / "private.key").exists()
    if not has_key or public_key not in KeyFiles(loaded.state_path).public_keys:
        return None, (f"{interface} stays: it does not have this node's key",)
    return backend, ()


def take_back(
    loaded: Settings, links: Links, backend: Backend | None, pins: Pins | None = None
) -> tuple[str, ...]:
    """Everything, one after the other whatever fails; what did, in words.

    backend  the interface, if it is this node's
    pins     where they were looked for already
    """
    interface, run_path = loaded.wireguard.interface, loaded.run_path
    # The interface first: with it goes every way in and out, so nothing passes unjudged.
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("the programs", lambda: attach.detach(interface)),
        ("the belt", lambda: belt.remove(interface)),
        ("the rules", lambda: links.set_outside(interface, None)),
        ("masquerading", lambda: host.set_masquerade(interface, enabled=False)),
        ("the sysctls", host.Sysctls(run_path / "sysctls.json").restore),
        ("the pins", lambda: _unpin(interface, run_path, pins)),
        ("the rules' names", RuleBook(run_path / "rules").clear),
        ("the endpoints", lambda: (run_path / "endpoints.json").unlink(missing_ok=True)),
        ("the inherited counts", Inherited(run_path / "inherited.json").clear),
    ]
    if backend is not None:
        steps.insert(0, ("the interface", backend.close))
    complaints = []
    for what, undo in steps:
        try:
            undo()
        except (ZtError, OSError) as error:
            log.warning("%s not removed: %s", what, error)
            complaints.append(f"{what}: {error}")
    return tuple(complaints)


def _unpin(interface: str, run_path: Path, pins: Pins | None) -> None:
    if pins is None:
        try:
            pins = Pins(interface, run_path)
        except HostUnfit:
            return  # nothing can be pinned here, so nothing was
    pins.remove()
