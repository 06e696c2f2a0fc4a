"""Rates and bursts are read strictly."""

from __future__ import annotations

import pytest

from ztlab.errors import SchemaError
from ztlab.model.codec import decode, encode
from ztlab.model.policy import Policy, Quota, dangling_names
from ztlab.model.quota import parse_burst, parse_rate


@pytest.mark.parametrize(
    ("text", "bytes_s"),
    [("8000bit", 1000), ("1kbit", 125), ("10mbit", 1_250_000), ("400gbit", 50_000_000_000)],
)
def test_a_rate_is_bytes_per_second(text: str, bytes_s: int) -> None:
    assert parse_rate(text) == bytes_s


@pytest.mark.parametrize(
    ("text", "size"),
    [("1500B", 1500), ("256kB", 256_000), ("1MB", 10**6), ("64KiB", 65536), ("1MiB", 2**20)],
)
def test_a_burst_is_bytes(text: str, size: int) -> None:
    assert parse_burst(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "10", "mbit", "10 mbit", " 10mbit", "10mbit ", "10Mbit", "10mbps", "1.5mbit", "-1mbit",
     "0mbit", "010mbit", "٣mbit", "10mbit\n", "999bit", "401gbit", "1e3bit", "9" * 13 + "bit"],
)  # fmt: skip
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="want a"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["", "256", "256kb", "256KB", "256 kB", "1499B", "1GB", "0B"])
def test_what_is_no_burst_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="want a"):
        parse_burst(text)


GUEST = {"identity": "guest", "rate": "10mbit", "burst": "256kB"}


def test_a_policy_carries_quotas_there_and_back() -> None:
    policy = decode(Policy, {"quotas": [GUEST]})
    (quota,) = policy.quotas
    assert (quota.rate_bytes_s, quota.burst_bytes) == (1_250_000, 256_000)
    assert decode(Policy, encode(policy)) == policy


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"rate": "10mbps"}, r"quotas\[0\]\.rate: want a whole number and one of bit, kbit"),
        ({"burst": "1B"}, r"quotas\[0\]\.burst: want a burst from 1500B"),
        ({"identity": "*"}, r"quotas\[0\]\.identity: want a name"),
        ({"rates": "1mbit"}, r"quotas\[0\]\.rates: unknown key"),
    ],
)
def test_a_fault_is_named_with_its_path(change: dict[str, str], fault: str) -> None:
    with pytest.raises(SchemaError, match=fault):
        decode(Policy, {"quotas": [{**GUEST, **change}]})


def test_an_identity_has_one_quota() -> None:
    with pytest.raises(SchemaError, match="want one quota for an identity, got two for: guest"):
        decode(Policy, {"quotas": [GUEST, {**GUEST, "rate": "1mbit"}]})


def test_a_quota_is_an_identitys_and_no_groups() -> None:
    quotas = (Quota(identity="staff", rate="1mbit", burst="2kB"),)
    policy = Policy(groups={"staff": ("web",)}, quotas=quotas)
    assert list(dangling_names(policy, frozenset({"web"}))) == [
        "quotas[0].identity: no identity 'staff'"
    ]
