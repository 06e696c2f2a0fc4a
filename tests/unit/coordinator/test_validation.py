"""What must be true of a network, and in which words it is said that it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from coordinator import validation
from coordinator.state import ResourceState
from tests.unit.coordinator.networks import network, node
from ztlab.model.management import Offer
from ztlab.model.policy import Policy, PolicyTest, Rule

GW = node(1, "gw1", "gateway")


def resource(
    name: str,
    cidr: str,
    *,
    gateway: str = "gw1",
    via: tuple[str, ...] = (),
    others: Mapping[str, int] | None = None,
) -> ResourceState:
    """One behind GATEWAY (priority 100), and OTHERS by name with their priorities."""
    return ResourceState(
        name=name,
        tag=100 + len(name),
        cidr=cidr,
        gateway=gateway,
        alternatives=tuple(Offer(gateway=g, priority=p) for g, p in (others or {}).items()),
        via=via,
    )


def faults(**changes: Any) -> list[str]:
    return validation.faults(network(GW, **{"resources": (), "policy": Policy(), **changes}))


def test_a_good_network_has_no_fault() -> None:
    assert validation.faults(network(GW)) == []


def test_a_dangling_name_is_named_with_its_path_and_a_guess() -> None:
    rules = (Rule(id="r", source="wep", destination="*", action="allow"),)
    policy = Policy(rules=rules, groups={"people": ("nobdy",)})
    assert faults(policy=policy) == [
        "groups.people: no identity 'nobdy' (did you mean \"nobody\"?)",
        "policy.rules[0].from: nobody is called 'wep' (did you mean \"web\"?)",
    ]


def test_a_name_has_one_meaning() -> None:
    found = faults(resources=(resource("web", "192.0.2.0/24"),), policy=Policy(groups={"gw1": ()}))
    assert found == [
        "groups.gw1: the name is taken already, in identities",
        "resources.web: the name is taken already, in identities",
    ]


@pytest.mark.parametrize(
    ("resources", "path"),
    [
        ([resource("a", "10.77.3.0/24")], "resources.a.cidr"),
        ([resource("a", "10.77.0.0/16")], "resources.a.cidr"),
        ([resource("a", "fd77::/64")], "resources.a.cidr"),
        ([resource("a", "192.0.2.0/24"), resource("bb", "192.0.2.0/24")], "resources.bb.cidr"),
        ([resource("a", "192.0.2.0/24", via=("10.77.0.9/32",))], "resources.a.via[0]"),
        (
            [
                resource("a", "192.0.2.0/24", via=("203.0.113.1/32",)),
                resource("bb", "198.51.100.0/24", gateway="gw2", via=("203.0.113.1/32",)),
            ],
            "resources.bb.via[0]",
        ),
        (
            [
                resource("a", "203.0.113.1/32"),
                resource("bb", "198.51.100.0/24", gateway="gw2", via=("203.0.113.1/32",)),
            ],
            "resources.a.cidr",
        ),
        (
            [  # both behind gw1, until it is revoked
                resource("a", "192.0.2.0/24", via=("203.0.113.1/32",), others={"gw2": 200}),
                resource("bb", "198.51.100.0/24", via=("203.0.113.1/32",), others={"gw3": 200}),
            ],
            "resources.bb.via[0]",
        ),
    ],
)
def test_a_prefix_that_wireguard_would_move_is_refused(
    resources: list[ResourceState], path: str
) -> None:
    (line,) = faults(resources=tuple(resources))
    assert line.startswith(f"{path}: ")


@pytest.mark.parametrize(
    "resources",
    [
        [resource("a", "0.0.0.0/0"), resource("bb", "::/0")],
        [resource("a", "192.0.2.0/24"), resource("bb", "192.0.2.128/25", gateway="gw2")],
        [resource(n, f"192.0.{i}.0/24", via=("203.0.113.1/32",)) for i, n in enumerate("ab")],
    ],
)
def test_nested_prefixes_and_an_exit_are_fine(resources: list[ResourceState]) -> None:
    assert faults(resources=tuple(resources)) == []


def test_of_two_gateways_that_offer_a_resource_one_goes_first() -> None:
    both = [resource("a", "192.0.2.0/24", others={"gw2": 200, "gw3": 50})]
    assert faults(resources=tuple(both)) == []

    alike = [resource("a", "192.0.2.0/24", others={"gw2": 200, "gw3": 100, "gw1": 7})]
    assert faults(resources=tuple(alike)) == [
        "resources.a.alternatives[1].priority: 100 is that of gateway gw1, want another for "
        "gateway gw3",
        "resources.a.alternatives[2].gateway: gw1 offers it already",
    ]


def policy(*tests: PolicyTest) -> Policy:
    rules = (
        Rule(
            id="http", source="web", destination="nobody", action="allow", proto="tcp", ports=(80,)
        ),
        Rule(id="ping", source="*", destination="*", action="allow", proto="icmp"),
        Rule(id="no6", source="web", destination="gw1", action="deny", proto=58),
    )
    return Policy(rules=rules, tests=tests)


def claim(destination: str, proto: str | int, port: int | None, expect: Any) -> PolicyTest:
    return PolicyTest(source="web", destination=destination, proto=proto, port=port, expect=expect)


@pytest.mark.parametrize(
    "test",
    [
        claim("nobody", "tcp", 80, "allow"),
        claim("nobody", "tcp", 81, "deny"),
        claim("nobody", "udp", 80, "deny"),
        claim("nobody", "icmp", None, "allow"),
        claim("gw1", 1, None, "allow"),
    ],
)
def test_a_policy_that_keeps_its_tests_is_accepted(test: PolicyTest) -> None:
    assert faults(policy=policy(test)) == []


@pytest.mark.parametrize(
    ("test", "line"),
    [
        (
            claim("nobody", "tcp", 81, "allow"),
            "policy.tests[0]: want web -> nobody tcp/81 allow, got no_rule by default deny",
        ),
        (
            claim("gw1", "icmp", None, "allow"),
            "policy.tests[0]: want web -> gw1 icmp allow, got deny_rule by rule no6",
        ),
        (
            claim("nobody", "any", 80, "deny"),
            "policy.tests[0]: want web -> nobody any/80 deny, got allowed by rule http",
        ),
    ],
)
def test_a_policy_that_breaks_a_test_is_refused(test: PolicyTest, line: str) -> None:
    assert faults(policy=policy(test)) == [line]


def test_a_router_is_one_address() -> None:
    assert validation.router_prefix("192.0.2.1") == "192.0.2.1/32"
    assert validation.router_prefix("2001:DB8::1/128") == "2001:db8::1/128"
    for text in ("192.0.2.0/24", "router", "192.0.2.1/"):
        with pytest.raises(ValueError):
            validation.router_prefix(text)
