"""One node's stream: what to say, and when. Server-sent events, as docs/PROTOCOL.md has them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from coordinator import clock, network
from coordinator.hub import Hub, Subscription
from coordinator.memory import Wanted
from coordinator.nodes import Caller
from coordinator.store.engine import Store
from ztlab.model import codec
from ztlab.model.config import NodeConfig
from ztlab.model.delta import diff

HEARTBEAT_S = 15.0
QUIET_S, BURST_S = 0.02, 0.1


def events(
    store: Store,
    hub: Hub,
    caller: Caller,
    digest: str | None,
    *,
    number: int = 0,
    deltas: bool = False,
    heartbeat_s: float = HEARTBEAT_S,
) -> Iterator[bytes]:
    """The events for a node that has the configuration of DIGEST (None: nothing yet).

    NUMBER is the stream's among the node's, over all replicas (nodes.open_stream).
    DELTAS: it can make the next configuration of the one it has and a delta.

    Ends when the node is revoked, opens a newer stream, its token expires, or we are stopping.
    """
    with hub.subscription(caller.node_id, number) as subscription:
        network.refresh(store, hub)
        said: Wanted | None = None
        beat_at = 0.0
        while not subscription.is_closed:
            rung_at = subscription.answer()
            known = hub.memory.known
            wanted = None if known is None else known.wanted.get(caller.node_id)
            if known is None or wanted is None:
                return
            if wanted.digest != digest:
                config = known.view.config(caller.node_id)
                event = _told(hub, wanted, config, digest if deltas else None)
                size = len(event)
                yield event
                del event  # a stream may rest for weeks
                # Asked for more: it is in the socket's buffer, or on its way there.
                if rung_at is not None:
                    hub.pushes.add(time.monotonic() - rung_at, size)
                beat_at = time.monotonic() + heartbeat_s
            elif said is None or said.revision != wanted.revision:
                # Also after A -> B -> A between two looks: the digest is the node's, the revision
                # it has to acknowledge is a newer one.
                if deltas:  # what it has from before we began is what the next delta begins with
                    _remember(hub, wanted, known.view.config(caller.node_id))
                yield _event("current", wanted)
                beat_at = time.monotonic() + heartbeat_s
            said, digest = wanted, wanted.digest
            for beat in _until_rung(subscription, caller, beat_at, heartbeat_s):
                yield beat
                beat_at = time.monotonic() + heartbeat_s
                if _is_news(hub, caller.node_id, said):  # nobody rang, and yet
                    break
            if clock.now() >= caller.token_expires_at:
                return


def _until_rung(
    subscription: Subscription, caller: Caller, beat_at: float, heartbeat_s: float
) -> Iterator[bytes]:
    """Heartbeats until there is something to look at, or the token is not good any more.

    The first at BEAT_AT (time.monotonic): to be rung again and again without news, as at each
    change that leaves this node as it is, puts none off.
    """
    while (left_s := (caller.token_expires_at - clock.now()).total_seconds()) > 0:
        wait_s = max(0.0, beat_at - time.monotonic())
        is_rung = subscription.wait(min(wait_s, left_s))
        if is_rung:
            # A burst of changes is told once: what follows at once is waited for, but not for long.
            late = time.monotonic() + BURST_S
            while time.monotonic() < late and subscription.wait(QUIET_S):
                pass
        if time.monotonic() >= beat_at:
            beat_at += heartbeat_s
            yield b"event: heartbeat\ndata: {}\n\n"
        if is_rung:
            return


def _is_news(hub: Hub, node_id: str, said: Wanted) -> bool:
    """Is something else wanted of the node by now? (Where it was revoked, too.)"""
    known = hub.memory.known
    return known is None or known.wanted.get(node_id) != said


def _remember(hub: Hub, wanted: Wanted, config: NodeConfig) -> None:
    """The node has CONFIG: what comes next may be told as a delta of it."""
    if config.node.role != "client":  # whose whole configuration is short
        hub.sent.put(wanted.digest, config)


def _told(hub: Hub, wanted: Wanted, config: NodeConfig, base: str | None) -> bytes:
    """CONFIG for a node that has the one of the digest BASE: what differs, or the whole of it."""
    old = None if base is None else hub.sent.get(base)
    delta = None if old is None else diff(old, config)
    _remember(hub, wanted, config)
    if delta is not None:
        return _event("delta", wanted, f',"delta":{codec.canonical(delta).decode("ascii")}')
    return _event("config", wanted, f',"config":{config.canonical()}')


def _event(kind: str, wanted: Wanted, more: str = "") -> bytes:
    """MORE is what follows in the data's JSON object, its comma included."""
    at = wanted.revision
    return (
        f'event: {kind}\ndata: {{"revision":{{"epoch":"{at.epoch}","number":{at.number}}},'
        f'"digest":"{wanted.digest}"{more}}}\n\n'
    ).encode("ascii")
