"""A first handshake that is late is helped; one that happened is left alone."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from agent.handshakes import (
    FIRST_S,
    LONGEST_S,
    LOOK_LATER_S,
    LOOK_SOON_FOR_S,
    LOOK_SOON_S,
    Handshakes,
)
from agent.wireguard.backend import Endpoint, PeerSpec, WgPeer

SPEC = PeerSpec(
    public_key="k",
    endpoint=Endpoint(address=ip_address("192.0.2.1"), port=1),
    allowed_ips=frozenset(),
    keepalive_s=25,
)
SILENT = WgPeer(
    endpoint=None,
    allowed_ips=frozenset(),
    keepalive_s=25,
    last_handshake_at=0,
    rx_bytes=0,
    tx_bytes=0,
)
HEARD = replace(SILENT, last_handshake_at=1.0)


def test_a_late_peer_is_made_anew_at_growing_intervals_up_to_the_longest() -> None:
    waiting = Handshakes(dice=lambda: 0.5)
    times = []
    for tick in range(0, 400):
        now = tick / 10
        if waiting.late(now, [SPEC], {"k": SILENT}):
            times.append(now)
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert FIRST_S <= times[0] <= FIRST_S + 0.1
    assert all(later >= earlier - 0.11 for earlier, later in zip(gaps, gaps[1:], strict=False))
    assert max(gaps) <= LONGEST_S + 0.11
    assert waiting.look_in_s(40) is not None


def test_a_completed_handshake_ends_it_for_good() -> None:
    waiting = Handshakes(dice=lambda: 0.5)
    waiting.late(0, [SPEC], {"k": SILENT})
    assert waiting.late(10, [SPEC], {"k": HEARD}) == ()
    assert waiting.look_in_s(10) is None
    assert waiting.late(20, [SPEC], {"k": SILENT}) == ()


def test_one_that_never_answers_is_looked_for_often_at_first_and_then_once_a_second() -> None:
    waiting, now, looks = Handshakes(dice=lambda: 0.5), 0.0, []
    made_anew = 0
    while now < 60:
        made_anew += len(waiting.late(now, [SPEC], {"k": SILENT}))
        pause = waiting.look_in_s(now)
        assert pause is not None
        looks.append(now)
        now += pause
    early = [at for at in looks if at < LOOK_SOON_FOR_S]
    assert len(early) >= 49
    assert len(looks) - len(early) <= 60 - LOOK_SOON_FOR_S + 1
    assert made_anew >= 60 / (LONGEST_S + 1)  # and still tried as often as it may be


def test_another_peer_that_comes_later_is_looked_for_often_again() -> None:
    waiting, other = Handshakes(dice=lambda: 0.5), replace(SPEC, public_key="other")
    waiting.late(0, [SPEC], {"k": SILENT})
    assert waiting.look_in_s(30) == LOOK_LATER_S
    waiting.late(30, [SPEC, other], {"k": SILENT, "other": SILENT})
    assert waiting.look_in_s(30) == LOOK_SOON_S
    waiting.late(30.1, [SPEC, other], {"k": SILENT, "other": HEARD})
    assert waiting.look_in_s(30.1) == LOOK_LATER_S


def test_only_peers_that_we_can_dial_and_that_would_initiate_are_touched() -> None:
    waiting = Handshakes(dice=lambda: 0.5)
    for spec in (replace(SPEC, endpoint=None), replace(SPEC, keepalive_s=0)):
        waiting.late(0, [spec], {"k": SILENT})
        assert waiting.late(100, [spec], {"k": SILENT}) == ()


def test_a_peer_that_comes_back_is_awaited_again() -> None:
    waiting = Handshakes(dice=lambda: 0.5)
    waiting.late(0, [SPEC], {"k": HEARD})
    waiting.late(1, [], {})
    waiting.late(2, [SPEC], {"k": SILENT})
    assert waiting.late(3, [SPEC], {"k": SILENT}) == (SPEC,)
