"""One node's stream: what to say, and when. Server-sent events, as docs/PROTOCOL.md has them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from coordinator import clock, network
from coordinator.hub import Hub, Subscription
from coordinator.network import Wanted
from coordinator.nodes import Caller
from coordinator.store.engine import Store
from coordinator.store.models import NodeRow
from ztlab.model import codec
from ztlab.model.config import NodeConfig

HEARTBEAT_S = 15.0


@dataclass(frozen=True, slots=True)
class _Look:
    """What the store says: what is wanted, and the configuration unless the node has it."""

    wanted: Wanted
    config: NodeConfig | None


def events(
    store: Store, hub: Hub, caller: Caller, digest: str | None, *, heartbeat_s: float = HEARTBEAT_S
) -> Iterator[bytes]:
    """The events for a node that has the configuration of DIGEST (None: nothing yet).

    Ends when the node is revoked, opens a newer stream, its token expires, or we are stopping.
    """
    with hub.subscription(caller.node_id) as subscription:
        said: Wanted | None = None
        while not subscription.is_closed:
            look = _look(store, caller.node_id, digest)
            if look is None:
                return
            if look.config is not None:
                yield _event("config", look.wanted, {"config": codec.encode(look.config)})
            elif said is None or said.revision != look.wanted.revision:
                # Also after A -> B -> A between two looks: the digest is the node's, the revision
                # it has to acknowledge is a newer one.
                yield _event("current", look.wanted, {})
            said, digest = look.wanted, look.wanted.digest
            yield from _until_rung(subscription, caller, heartbeat_s)
            if clock.now() >= caller.token_expires_at:
                return


def _until_rung(subscription: Subscription, caller: Caller, heartbeat_s: float) -> Iterator[bytes]:
    """Heartbeats until there is something to look at, or the token is not good any more."""
    next_beat = time.monotonic() + heartbeat_s
    while (left_s := (caller.token_expires_at - clock.now()).total_seconds()) > 0:
        wait_s = max(0.0, next_beat - time.monotonic())
        if subscription.wait(min(wait_s, left_s)):
            return
        if time.monotonic() >= next_beat:
            next_beat += heartbeat_s
            yield b"event: heartbeat\ndata: {}\n\n"


def _look(store: Store, node_id: str, digest: str | None) -> _Look | None:
    """One snapshot of the store; None if the node was revoked."""
    with store.reading() as session:
        node = session.get(NodeRow, node_id)
        if node is None or node.revoked_at is not None:
            return None
        wanted = network.wanted(node)
        if wanted.digest == digest:
            return _Look(wanted, None)
        return _Look(wanted, network.config_of(session, node_id))


def _event(kind: str, wanted: Wanted, more: dict[str, Any]) -> bytes:
    data = {"revision": codec.encode(wanted.revision), "digest": wanted.digest, **more}
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
