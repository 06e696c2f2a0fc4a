"""Two loaders, one source: the object compiled ahead of time, or what bcc compiles on the spot.

libbpf  no compiler and no headers on the node: what production ships
bcc     compiles the C files as they are now: the edit-and-retry loop of a lab
auto    the object where it is there and loads, else bcc; and it says which, and why
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.datapath import libbpf_loader, rings
from agent.datapath.limits import Limits
from agent.datapath.loaded import Loaded, Wanted
from agent.datapath.marks import MarkLayout
from ztlab.errors import HostUnfit, ZtError

log = logging.getLogger(__name__)


def load(loader: str, wanted: Wanted, *, maps: Mapping[str, int] | None = None) -> Loaded:
    """Load with LOADER (auto | bcc | libbpf); HostUnfit or ZtError where that cannot be done.

    maps  existing ones of exactly the shapes that the programs want; libbpf loads onto them, and
          the outcome's origin is then "reused". bcc cannot.
    """
    begin = time.monotonic()
    loaded = _CHOICES[loader](wanted, maps)
    if maps is not None and loaded.loader == "libbpf":
        loaded = replace(rings.kept(loaded, maps), origin="reused")
    loaded = rings.furnished(loaded, wanted)
    log.info(
        "programs loaded by %s in %.2f s: %s",
        loaded.loader,
        time.monotonic() - begin,
        loaded.reason,
    )
    return loaded


Maps = Mapping[str, int] | None


def _libbpf(wanted: Wanted, maps: Maps = None) -> Loaded:
    return libbpf_loader.load(wanted, maps=maps)


def _bcc(wanted: Wanted, maps: Maps = None) -> Loaded:
    # Only here: bcc and its compiler cost more memory than the whole rest of the agent.
    from agent.datapath import bcc_loader

    return bcc_loader.load(wanted)


def _auto(wanted: Wanted, maps: Maps = None) -> Loaded:
    try:
        return replace(_libbpf(wanted, maps), reason="auto: the shipped object")
    except ZtError as error:
        skipped = error
    log.warning("the shipped object is not used: %s", skipped)
    try:
        return replace(_bcc(wanted), reason=f"auto, without the shipped object: {skipped}")
    except ZtError as error:
        raise HostUnfit(
            f"no loader works. libbpf: {skipped}. bcc: {error}",
            hint=skipped.hint or error.hint,
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of trying one loader.

    found    why it does not work; "" where it does
    seconds  how long it took
    """

    loader: str
    works: bool
    found: str
    hint: str
    seconds: float


def try_out(loader: str, marks: MarkLayout) -> Trial:
    """Load with LOADER (bcc | libbpf) as an agent would, and let go of it at once."""
    begin = time.monotonic()
    wanted = Wanted(marks=marks, limits=Limits())
    found = hint = ""
    try:
        _CHOICES[loader](wanted).close()
    except ZtError as error:
        found, hint = str(error), error.hint
    seconds = round(time.monotonic() - begin, 2)
    return Trial(loader=loader, works=not found, found=found, hint=hint, seconds=seconds)


_CHOICES = {"auto": _auto, "bcc": _bcc, "libbpf": _libbpf}
