"""What is asked of the host, and given back."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent import host
from agent.wireguard.links import FWMARK, FWMARK_MASK, MarkRule
from ztlab.errors import HostUnfit, ZtError

DEFAULT_MASK = 0xFF002000
EXACT = 0xFFFFFFFF


@pytest.mark.parametrize(
    "rule",
    [
        MarkRule(value=0xCA6C, mask=EXACT),  # wg-quick
        MarkRule(value=0x4000, mask=0x4000),  # Kubernetes
        MarkRule(value=0x8000, mask=0x8000),
        MarkRule(value=0x80000, mask=0xFF0000),  # Tailscale
    ],
)
def test_the_default_mask_gets_along_with_those_it_was_chosen_for(rule: MarkRule) -> None:
    host.check_marks(DEFAULT_MASK, [rule])


@pytest.mark.parametrize(
    "rule",
    [
        MarkRule(value=0x2000, mask=0x2000),
        MarkRule(value=0, mask=0x2000),
        MarkRule(value=0x01000000, mask=0x0F000000),
        MarkRule(value=0x2001, mask=EXACT),
    ],
)
def test_a_rule_on_our_bits_is_refused(rule: MarkRule) -> None:
    with pytest.raises(HostUnfit, match="an ip rule looks at"):
        host.check_marks(DEFAULT_MASK, [rule])


def test_a_mask_over_the_agents_own_fwmark_is_refused() -> None:
    with pytest.raises(HostUnfit, match="overlaps"):
        host.check_marks(0x1FF0, [])
    assert FWMARK & ~FWMARK_MASK == 0 and DEFAULT_MASK & FWMARK_MASK == 0


@pytest.fixture
def sysctls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "sys"
    for name, value in {**host.FORWARDING, **host.TUNNEL_DEFAULT}.items():
        assert value == "1"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("0\n")
    monkeypatch.setattr(host, "SYSCTLS", root)
    return root


def values(root: Path) -> list[str]:
    names = (*host.FORWARDING, *host.TUNNEL_DEFAULT)
    return [(root / name).read_text().strip() for name in names]


def test_sysctls_go_back_to_what_they_were_even_if_a_predecessor_was_killed(
    tmp_path: Path, sysctls: Path
) -> None:
    file = tmp_path / "sysctls.json"
    host.Sysctls(file).set(host.FORWARDING)  # and then it is killed
    assert values(sysctls) == ["1", "1", "0"]

    successor = host.Sysctls(file)
    successor.set({**host.FORWARDING, **host.TUNNEL_DEFAULT})
    assert values(sysctls) == ["1", "1", "1"]
    successor.restore()

    assert values(sysctls) == ["0", "0", "0"]
    assert not file.exists()


def test_a_sysctl_that_is_no_longer_wanted_goes_back_at_once(tmp_path: Path, sysctls: Path) -> None:
    settings = host.Sysctls(tmp_path / "sysctls.json")
    settings.set({**host.FORWARDING, **host.TUNNEL_DEFAULT})
    settings.set({})
    assert values(sysctls) == ["0", "0", "0"]


def test_what_was_on_before_stays_on(tmp_path: Path, sysctls: Path) -> None:
    (sysctls / "net/ipv4/ip_forward").write_text("1\n")
    settings = host.Sysctls(tmp_path / "sysctls.json")
    settings.set(host.FORWARDING)
    settings.restore()
    assert values(sysctls) == ["1", "0", "0"]


def test_a_sysctl_that_cannot_be_set_is_named(tmp_path: Path, sysctls: Path) -> None:
    with pytest.raises(ZtError, match="net/ipv4/nothing"):
        host.Sysctls(tmp_path / "s.json").set({"net/ipv4/nothing": "1"})


def test_endpoints_are_resolved_and_what_does_not_resolve_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    found = host.resolve(["192.0.2.1:51820", "[2001:db8::1]:1", "no.such.host.invalid:1"])
    assert {text: str(endpoint) for text, endpoint in found.items()} == {
        "192.0.2.1:51820": "192.0.2.1:51820",
        "[2001:db8::1]:1": "[2001:db8::1]:1",
    }
    assert "no.such.host.invalid:1 does not resolve" in caplog.text


def test_the_coordinators_addresses_come_from_its_url() -> None:
    assert host.addresses_of("https://192.0.2.9:8443") == {ip_address("192.0.2.9")}
    assert host.addresses_of("https://no.such.host.invalid") == frozenset()


@pytest.mark.parametrize("name", ["gateway..example", "x" * 64 + ".example"])
def test_a_name_that_can_be_no_name_is_left_out_like_one_that_does_not_resolve(name: str) -> None:
    there = "192.0.2.1:51820"
    assert host.resolve([f"{name}:51820", there]).keys() == {there}
    assert host.addresses_of(f"https://{name}:443") == frozenset()
