"""Which WireGuard: asked of the host by trying, never by version."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from agent.wireguard.backend import Backend
from agent.wireguard.kernel import KernelWireGuard
from agent.wireguard.links import Links
from agent.wireguard.userspace import UserspaceWireGuard
from ztlab.errors import HostUnfit

log = logging.getLogger(__name__)
Choice = Literal["auto", "kernel", "userspace"]
_MAKERS: dict[str, Callable[[str, Links], Backend]] = {
    "kernel": KernelWireGuard,
    "userspace": UserspaceWireGuard,
}


def open_backend(choice: Choice, interface: str, links: Links) -> Backend:
    """INTERFACE, opened by the WireGuard that CHOICE names; `auto` tries the kernel's first.

    HostUnfit says why each one that was tried cannot be had.
    """
    wanted = tuple(_MAKERS) if choice == "auto" else (choice,)
    refusals: list[HostUnfit] = []
    for name in wanted:
        backend = _MAKERS[name](interface, links)
        try:
            backend.open()
        except HostUnfit as error:
            refusals.append(error)
            continue
        log.info("WireGuard: %s (%s asked for)", name, choice)
        return backend
    raise HostUnfit("; ".join(map(str, refusals)), hint=refusals[-1].hint)
