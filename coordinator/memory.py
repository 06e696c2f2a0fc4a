"""The network as a process knows it: the last committed state, and what each node should have.

It is what streams serve from, and what a change begins with, without reading the store. The number
in the network's row says whether it is the newest: another replica may have committed since.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import state
from coordinator.distribute import View
from coordinator.state import NetworkState
from coordinator.store.models import NetworkRow, NodeRow
from ztlab.model.config import Revision


@dataclass(frozen=True, slots=True)
class Wanted:
    """The state a node should be in: the last revision at which its digest changed."""

    revision: Revision
    digest: str


@dataclass(frozen=True, slots=True)
class Known:
    """The network at one revision.

    wanted  by node id; an object that stays when nothing concerns the node
    """

    revision: Revision
    view: View
    wanted: Mapping[str, Wanted]

    @property
    def network(self) -> NetworkState:
        return self.view.network

    def followed_by(self, network: NetworkState, revision: Revision) -> Known:
        """The same after a change to NETWORK, made at REVISION."""
        view = View.of(network, self.view)
        wanted = dict(self.wanted)
        for who in view.touched_since(self.view):
            if who not in view.by_id:
                del wanted[who]
                continue
            digest, old = view.digest(who), wanted.get(who)
            if old is None or old.digest != digest:
                wanted[who] = Wanted(revision, digest)
        return Known(revision, view, wanted)


class Memory:
    """What this process knows; safe to use from several threads or greenlets."""

    def __init__(self) -> None:
        self._known: Known | None = None
        self._lock = threading.Lock()
        self._reading = threading.Lock()

    @property
    def known(self) -> Known | None:
        """The newest that was published; None before anything was."""
        return self._known

    def at(self, session: Session) -> Known:
        """The network as SESSION sees it: from memory where that is up to date."""
        at = _revision(session)
        with self._reading:  # one reads, and the others find that it has
            known = self._known
            if known is None or known.revision != at:
                known = read(session, known)
                self.publish(known)
        return known

    def publish(self, known: Known) -> Known | None:
        """KNOWN is committed. What was known before; an older one of its epoch changes nothing."""
        with self._lock:
            before, at = self._known, known.revision
            is_older = before is not None and (
                before.revision.epoch == at.epoch and before.revision.number > at.number
            )
            if not is_older:
                self._known = known
            return before


def read(session: Session, before: Known | None = None) -> Known:
    """The network out of the store, whole, sharing with BEFORE what is alike."""
    network = state.load(session, None if before is None else before.network)
    columns = (NodeRow.id, NodeRow.wanted_epoch, NodeRow.wanted_number, NodeRow.wanted_digest)
    live = select(*columns).where(NodeRow.revoked_at.is_(None))
    wanted = {
        who: Wanted(Revision(epoch=epoch, number=number), digest)
        for who, epoch, number, digest in session.execute(live)
    }
    view = View.of(network, None if before is None else before.view)
    return Known(_revision(session), view, wanted)


def _revision(session: Session) -> Revision:
    epoch, number = session.execute(select(NetworkRow.epoch, NetworkRow.number)).one()
    return Revision(epoch=epoch, number=number)
