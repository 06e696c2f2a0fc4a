"""Which peers to make anew because their first handshake is late.

WireGuard sends a lost initiation again only after 5 s (REKEY_TIMEOUT, whitepaper section 6.1), and
at the start of a network initiations are lost: the other end may not know us yet. A new peer object
with persistent keepalive initiates at once. Pure: the caller brings the clock and the dice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from agent.wireguard.backend import PeerSpec, WgPeer

FIRST_S = 0.3
LONGEST_S = 5.0
# Looking reads every peer: often while the network starts, but not for one that is switched off.
LOOK_SOON_S, LOOK_LATER_S = 0.1, 1.0
LOOK_SOON_FOR_S = 5.0


@dataclass(slots=True)
class _Waiting:
    since: float
    due_at: float
    interval_s: float


class Handshakes:
    """The peers whose first handshake is awaited.

    dice  a number in 0..1 that spreads the tries, so that two ends do not stay in step
    """

    def __init__(self, dice: Callable[[], float]) -> None:
        self._dice = dice
        self._waiting: dict[str, _Waiting] = {}
        self._done: set[str] = set()

    def look_in_s(self, now_s: float) -> float | None:
        """How soon to ask `late` again, at NOW_S; None: no first handshake is awaited."""
        if not self._waiting:
            return None
        latest = max(waiting.since for waiting in self._waiting.values())
        return LOOK_SOON_S if now_s - latest < LOOK_SOON_FOR_S else LOOK_LATER_S

    def late(
        self, now_s: float, wanted: Iterable[PeerSpec], there: Mapping[str, WgPeer]
    ) -> tuple[PeerSpec, ...]:
        """The peers to make anew at NOW_S (monotonic seconds), each then awaited longer.

        Only those that we can dial and that have a keepalive: without one, a new peer stays silent.
        """
        specs = {peer.public_key: peer for peer in wanted if peer.endpoint and peer.keepalive_s}
        for gone in (self._waiting.keys() | self._done) - specs.keys():
            self._waiting.pop(gone, None)
            self._done.discard(gone)
        late = []
        for key, spec in specs.items():
            peer = there.get(key)
            if key in self._done or peer is None:
                continue
            if peer.last_handshake_at > 0:
                self._done.add(key)
                self._waiting.pop(key, None)
            elif key not in self._waiting:
                self._waiting[key] = _Waiting(
                    since=now_s, due_at=now_s + FIRST_S, interval_s=FIRST_S
                )
            elif now_s >= self._waiting[key].due_at:
                late.append(spec)
                self._postpone(self._waiting[key], now_s)
        return tuple(late)

    def forget(self) -> None:
        """Begin anew: the interface was made again."""
        self._waiting.clear()
        self._done.clear()

    def _postpone(self, waiting: _Waiting, now_s: float) -> None:
        waiting.interval_s = min(LONGEST_S, waiting.interval_s * 2)
        waiting.due_at = now_s + waiting.interval_s * (0.75 + 0.5 * self._dice())


def as_they_are(there: Mapping[str, WgPeer]) -> tuple[PeerSpec, ...]:
    """What to make the peers that are THERE anew from; each is dialled where it was heard last."""
    return tuple(
        PeerSpec(
            public_key=key,
            endpoint=peer.endpoint,
            allowed_ips=peer.allowed_ips,
            keepalive_s=peer.keepalive_s,
            preshared_key=peer.preshared_key,
        )
        for key, peer in there.items()
    )
