"""One node's stream: what to say, and when. Server-sent events, as docs/PROTOCOL.md has them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from coordinator import clock, network
from coordinator.hub import Hub, Subscription
from coordinator.memory import Wanted
from coordinator.nodes import Caller
from coordinator.store.engine import Store
from ztlab.model import codec

HEARTBEAT_S = 15.0


def events(
    store: Store, hub: Hub, caller: Caller, digest: str | None, *, heartbeat_s: float = HEARTBEAT_S
) -> Iterator[bytes]:
    """The events for a node that has the configuration of DIGEST (None: nothing yet).

    Ends when the node is revoked, opens a newer stream, its token expires, or we are stopping.
    """
    with hub.subscription(caller.node_id) as subscription:
        network.refresh(store, hub)
        said: Wanted | None = None
        while not subscription.is_closed:
            known = hub.memory.known
            wanted = None if known is None else known.wanted.get(caller.node_id)
            if known is None or wanted is None:
                return
            if wanted.digest != digest:
                config = known.view.config(caller.node_id)
                yield _event("config", wanted, {"config": codec.encode(config)})
            elif said is None or said.revision != wanted.revision:
                # Also after A -> B -> A between two looks: the digest is the node's, the revision
                # it has to acknowledge is a newer one.
                yield _event("current", wanted, {})
            said, digest = wanted, wanted.digest
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


def _event(kind: str, wanted: Wanted, more: dict[str, Any]) -> bytes:
    data = {"revision": codec.encode(wanted.revision), "digest": wanted.digest, **more}
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
