"""How often is too often, and where a request comes from."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from coordinator.limits import Limiter, source


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_as_much_as_refills() -> None:
    clock = Clock()
    limiter = Limiter(3, 60, clock=clock)
    assert [limiter.take("a") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limiter.take("a") == pytest.approx(1.0)
    assert limiter.take("b") == 0.0, "another key has a bucket of its own"
    clock.now += 0.5
    assert limiter.take("a") == pytest.approx(0.5)
    clock.now += 0.5
    assert limiter.take("a") == 0.0
    clock.now += 3600
    assert [bool(limiter.take("a")) for _ in range(4)] == [False, False, False, True]


def test_memory_is_bounded_and_the_key_asked_for_longest_ago_goes_first() -> None:
    limiter = Limiter(1, 1, keys=100, clock=Clock())
    for i in range(5000):
        limiter.take("busy")
        limiter.take(f"key {i}")
    assert len(limiter) == 100
    assert limiter.take("busy") > 0, "who goes on is not forgotten"
    assert limiter.take("key 1") == 0.0


PROXIES = (ip_network("192.0.2.0/24"), ip_network("2001:db8:1::/48"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "wanted"),
    [
        ("198.51.100.7", None, "198.51.100.7"),
        ("198.51.100.7", "10.0.0.1", "198.51.100.7"),  # no proxy of ours: it may write what it will
        ("192.0.2.1", "198.51.100.7", "198.51.100.7"),
        ("192.0.2.1", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        ("192.0.2.1", "198.51.100.7, 192.0.2.2", "198.51.100.7"),
        ("192.0.2.1", "garbage", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7, garbage", "192.0.2.1"),
        ("192.0.2.1", "", "192.0.2.1"),
        ("2001:db8:1::5", "2001:db8:2:3:4:5:6:7", "2001:db8:2:3::/64"),
        ("2001:db8:2:3::1", None, "2001:db8:2:3::/64"),
        ("::ffff:198.51.100.7", None, "198.51.100.7"),
        (None, None, "unknown"),
    ],
)
def test_a_request_comes_from_whom_a_trusted_proxy_says(
    peer: str | None, forwarded: str | None, wanted: str
) -> None:
    assert source(peer, forwarded, PROXIES) == wanted
