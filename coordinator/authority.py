"""Another TLS authority, without locking a node out: made, learnt by every node, switched to.

1. `begin`: the new authority stands beside the old one. Nodes are told of both over connections
   that the old one verifies, and acknowledge the new one (POST /node/authorities).
2. `switch`, once all live nodes have: the server's certificate is the new authority's. Nodes try
   the one and then the other; connections that are open live on.
3. Nodes are told of the new one alone, and forget the old one.

A proof of possession is bound to the authority that verified the connection it is given on, so
whoever has the old authority's key gets no use out of a proof after the switch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import audit, certificates, clock, tls
from coordinator.errors import Conflict
from coordinator.settings import Settings
from coordinator.store.engine import opened
from coordinator.store.models import NodeRow, SetupKeyRow
from ztlab.errors import ZtError
from ztlab.model.codec import field

NAMED = 20  # of those that are waited for


def _check_trusted(hashes: tuple[str, ...]) -> None:
    if not 1 <= len(hashes) <= tls.MOST_AUTHORITIES:
        raise ValueError(f"want 1 to {tls.MOST_AUTHORITIES} hashes, got {len(hashes)}")
    for text in hashes:
        if len(text) != 64 or set(text) - set("0123456789abcdef"):
            raise ValueError("want SHA-256 hashes, each as 64 hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedBody:
    """Body of POST /node/authorities: the hashes of what the node trusts."""

    trusted: tuple[str, ...] = field(check=_check_trusted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a roll-over is.

    current, coming  SHA-256, hexadecimal; coming None: there is none
    nodes, know      live nodes, and how many of them trust the coming one
    waiting_for      the first of the others, by name
    setup_keys       ids of those that pin another than the coming one: after the switch they let
                     nobody in
    """

    current: str
    coming: str | None
    nodes: int
    know: int
    waiting_for: tuple[str, ...]
    setup_keys: tuple[str, ...]


def newest_trusted(served: tuple[str, ...], body: TrustedBody) -> str | None:
    """The newest of the authorities that are SERVED (PEM, the newest last) which a node trusts:
    its hash."""
    hashes = [tls.fingerprint(pem).hex() for pem in served]
    return next((found for found in reversed(hashes) if found in body.trusted), None)


def acknowledge(session: Session, node_id: str, newest: str | None) -> None:
    """Keep what the node trusts."""
    session.get_one(NodeRow, node_id).authority = newest


def progress(settings: Settings) -> Progress:
    """Where the roll-over stands now."""
    shown = certificates.load(settings)
    with opened(settings.database_url) as store, store.reading() as session:
        return _progress(session, shown, clock.now())


def begin(settings: Settings) -> Progress:
    """Make the coming authority; again while there is one: the same. Root, or who ran init."""
    _refuse_given(settings)
    files = tls.TlsFiles(settings.directory)
    with tls.alone(settings.directory):
        if not files.next_authority.exists():
            tls.make_authority(files.next_authority, files.next_authority_key)
            _give_as(files.next_authority, files.authority.stat())
            _note(settings, "begin", tls.read_authorities(settings))
    return progress(settings)


def switch(settings: Settings, *, force: bool = False) -> Progress:
    """Let the server show a certificate of the coming authority, and forget the old one.

    Conflict, saying who does not know it, unless FORCE: they need a new setup key then.
    """
    _refuse_given(settings)
    files = tls.TlsFiles(settings.directory)
    with tls.alone(settings.directory):
        if not files.next_authority.exists():
            raise ZtError(
                "there is no coming authority", hint="run `zt-coordinator authority rotate` first"
            )
        if not force:
            _refuse_early(progress(settings))
        days = settings.certificate_days
        key = files.next_authority_key
        # A switch that was interrupted is done again: the key is where it was, or where it goes.
        if not key.exists():
            key = files.authority_key
        tls.make_server(files, settings.names, days, files.next_authority, key)
        if key != files.authority_key:
            os.replace(key, files.authority_key)
        # Before the last step: whoever is stopped here switches again, and it is not left unsaid.
        _note(settings, "switch", tls.read_authorities(settings)[-1:])
        os.replace(files.next_authority, files.authority)
    return progress(settings)


def _progress(session: Session, shown: certificates.Shown, now: datetime) -> Progress:
    current = tls.fingerprint(shown.authority).hex()
    # In the midst of a switch the coming one is the current one already.
    coming = tls.fingerprint(shown.authorities[-1]).hex() if len(shown.authorities) > 1 else None
    live = select(NodeRow).where(NodeRow.revoked_at.is_(None)).order_by(NodeRow.name)
    nodes = session.scalars(live).all()
    unknowing = [node.name for node in nodes if coming and node.authority != coming]
    usable = (
        SetupKeyRow.uses_left > 0,
        SetupKeyRow.expires_at > now,
        SetupKeyRow.authority.is_distinct_from(coming),
    )
    return Progress(
        current=current,
        coming=coming,
        nodes=len(nodes),
        know=len(nodes) - len(unknowing),
        waiting_for=tuple(unknowing[:NAMED]),
        setup_keys=tuple(session.scalars(select(SetupKeyRow.id).where(*usable))) if coming else (),
    )


def _refuse_early(found: Progress) -> None:
    faults = [f"nodes.{name}: does not trust the coming authority" for name in found.waiting_for]
    faults += [f"setup-keys.{key}: pins the present authority" for key in found.setup_keys]
    if found.know < found.nodes or found.setup_keys:
        raise Conflict(
            f"{found.nodes - found.know} of {found.nodes} nodes do not trust the coming authority, "
            f"{len(found.setup_keys)} setup keys pin the present one:\n" + "\n".join(faults)
        )


def _refuse_given(settings: Settings) -> None:
    if settings.certificate is not None:
        raise ZtError(
            "the authority is not this program's: a certificate was given",
            hint=f"add the coming authority to {settings.authority}, see `authority status`, then "
            "put its certificate in place",
        )


def _give_as(path: os.PathLike[str], owner: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)


def _note(settings: Settings, action: str, authorities: Sequence[str]) -> None:
    after: dict[str, Any] = {"sha256": [tls.fingerprint(pem).hex() for pem in authorities]}
    with opened(settings.database_url) as store, store.writing() as session:
        audit.record(session, audit.OPERATOR, action, "authority", "tls", None, after, clock.now())
