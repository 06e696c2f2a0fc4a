"""What policy means: `decide`, as DESIGN's rules for it say."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.model.strategies import IDENTITIES, flows, policies
from ztlab.errors import SchemaError
from ztlab.model.codec import decode, encode
from ztlab.model.flow import ICMP, ICMPV6, TCP, UDP, Flow
from ztlab.model.identity import ANY, UNKNOWN, WORLD
from ztlab.model.policy import (
    Action,
    Decision,
    Policy,
    PolicyTest,
    Rule,
    broken_tests,
    dangling_names,
    decide,
    parse_ports,
)
from ztlab.model.verdict import Verdict

WEB_TO_API = Flow(source="web", destination="api", protocol=TCP, port=8080)


def rule(
    action: Action,
    source: str = "web",
    destination: str = "api",
    *,
    id: str = "r",
    proto: str | int = "any",
    ports: tuple[int | str, ...] = (),
    icmp_types: tuple[int | str, ...] = (),
) -> Rule:
    return Rule(
        id=id,
        source=source,
        destination=destination,
        action=action,
        proto=proto,
        ports=ports,
        icmp_types=icmp_types,
    )


def verdict_of(flow: Flow, *rules: Rule, default: Action = "deny") -> Verdict:
    return decide(Policy(default=default, rules=rules), flow).verdict


def test_no_match_means_the_default() -> None:
    assert verdict_of(WEB_TO_API) is Verdict.NO_RULE
    assert verdict_of(WEB_TO_API, default="allow") is Verdict.ALLOWED
    assert decide(Policy(default="allow"), WEB_TO_API).rule is None


def test_a_matching_rule_decides_and_is_named() -> None:
    policy = Policy(rules=(rule("allow", id="other", source="db"), rule("allow", id="mine")))
    assert decide(policy, WEB_TO_API) == Decision(verdict=Verdict.ALLOWED, rule="mine")


def test_deny_beats_allow_whatever_the_order() -> None:
    for rules in itertools.permutations((rule("allow", id="a"), rule("deny", id="d"))):
        decision = decide(Policy(default="allow", rules=rules), WEB_TO_API)
        assert decision == Decision(verdict=Verdict.DENY_RULE, rule="d")


def test_the_rule_named_is_the_first_written_of_the_action_that_wins() -> None:
    allows = (rule("allow", id="a1"), rule("allow", id="a2"))
    denies = (rule("deny", id="d1"), rule("deny", id="d2"))
    assert decide(Policy(rules=allows), WEB_TO_API).rule == "a1"
    assert decide(Policy(rules=allows + denies), WEB_TO_API).rule == "d1"


def test_a_rule_has_a_direction() -> None:
    back = Flow(source="api", destination="web", protocol=TCP, port=8080)
    assert verdict_of(back, rule("allow")) is Verdict.NO_RULE


@given(policies(), flows(), st.randoms(use_true_random=False))
def test_the_order_of_rules_never_matters(
    policy: Policy, flow: Flow, chance: random.Random
) -> None:
    shuffled = list(policy.rules)
    chance.shuffle(shuffled)
    other = Policy(default=policy.default, rules=tuple(shuffled), groups=policy.groups)
    assert decide(other, flow).verdict is decide(policy, flow).verdict


@given(policies(), flows())
def test_a_decision_follows_from_the_rules_that_match_alone(policy: Policy, flow: Flow) -> None:
    decision = decide(policy, flow)
    if UNKNOWN in (flow.source, flow.destination):
        assert decision.verdict in (Verdict.UNKNOWN_SOURCE, Verdict.UNKNOWN_DESTINATION)
        return
    # Each rule asked alone says whether it matches; together a deny among them wins.
    matching = {
        single.action
        for single in policy.rules
        if decide(Policy(rules=(single,), groups=policy.groups), flow).rule == single.id
    }
    expected = "deny" if "deny" in matching else "allow" if matching else policy.default
    assert decision.is_allowed == (expected == "allow")


@given(policies(), flows())
def test_adding_a_deny_never_opens_anything(policy: Policy, flow: Flow) -> None:
    stricter = Policy(
        default=policy.default,
        rules=(*policy.rules, rule("deny", ANY, ANY, id="last")),
        groups=policy.groups,
    )
    assert not decide(stricter, flow).is_allowed


@pytest.mark.parametrize("default", ["allow", "deny"])
@pytest.mark.parametrize("rules", [(), (rule("allow", ANY, ANY),)])
def test_an_unknown_end_is_refused_whatever_the_policy_says(
    default: Action, rules: tuple[Rule, ...]
) -> None:
    for name in (*IDENTITIES, WORLD, UNKNOWN):
        from_unknown = Flow(source=UNKNOWN, destination=name, protocol=UDP, port=53)
        assert verdict_of(from_unknown, *rules, default=default) is Verdict.UNKNOWN_SOURCE
    to_unknown = Flow(source="web", destination=UNKNOWN, protocol=UDP, port=53)
    assert verdict_of(to_unknown, *rules, default=default) is Verdict.UNKNOWN_DESTINATION


@pytest.mark.parametrize("name", [*IDENTITIES, WORLD])
def test_a_star_means_everybody_who_is_known(name: str) -> None:
    flow = Flow(source=name, destination=name, protocol=TCP, port=1)
    assert verdict_of(flow, rule("allow", ANY, ANY)) is Verdict.ALLOWED


def test_world_is_a_name_like_any_other() -> None:
    out = Flow(source="web", destination=WORLD, protocol=TCP, port=443)
    assert verdict_of(out, rule("allow", "web", WORLD)) is Verdict.ALLOWED
    assert verdict_of(out, rule("allow", "web", "api")) is Verdict.NO_RULE


def test_a_group_means_each_of_its_members_and_nobody_else() -> None:
    policy = Policy(
        rules=(rule("allow", "staff", "servers"),),
        groups={"staff": ("web", "guest"), "servers": ("api", WORLD)},
    )
    allowed = {
        (source, destination)
        for source in (*IDENTITIES, WORLD)
        for destination in (*IDENTITIES, WORLD)
        if decide(
            policy, Flow(source=source, destination=destination, protocol=TCP, port=1)
        ).is_allowed
    }
    assert allowed == {("web", "api"), ("web", WORLD), ("guest", "api"), ("guest", WORLD)}


@pytest.mark.parametrize(
    ("proto", "matched"),
    [
        ("any", {TCP, UDP, ICMP, ICMPV6, 47}),
        ("tcp", {TCP}),
        ("udp", {UDP}),
        ("icmp", {ICMP, ICMPV6}),
        (47, {47}),
        (ICMPV6, {ICMPV6}),
        (TCP, {TCP}),
    ],
)
def test_a_protocol_matches_itself_and_icmp_both_families(
    proto: str | int, matched: set[int]
) -> None:
    found = set()
    for number in (TCP, UDP, ICMP, ICMPV6, 47):
        port = 80 if number in (TCP, UDP) else None
        flow = Flow(source="web", destination="api", protocol=number, port=port)
        if verdict_of(flow, rule("allow", proto=proto)) is Verdict.ALLOWED:
            found.add(number)
    assert found == matched


@pytest.mark.parametrize(
    ("ports", "matched"),
    [
        ((), {0, 1, 8079, 8080, 8081, 9000, 9005, 9010, 9011, 65535}),
        ((8080,), {8080}),
        (("8080",), {8080}),
        (("9000-9010",), {9000, 9005, 9010}),
        ((8080, "9000-9010"), {8080, 9000, 9005, 9010}),
        ((0,), {0}),
        (("8081-65535",), {8081, 9000, 9005, 9010, 9011, 65535}),
    ],
)
def test_ports_and_ranges_match_with_both_ends(
    ports: tuple[int | str, ...], matched: set[int]
) -> None:
    asked = (0, 1, 8079, 8080, 8081, 9000, 9005, 9010, 9011, 65535)
    found = {
        port
        for port in asked
        if verdict_of(
            Flow(source="web", destination="api", protocol=TCP, port=port),
            rule("allow", proto="tcp", ports=ports),
        )
        is Verdict.ALLOWED
    }
    assert found == matched


@pytest.mark.parametrize(
    "text", [-1, 65536, "", "x", "1-", "-1", "9-8", "1-65536", " 80", "٣", "1,2"]
)
def test_what_is_no_port_is_refused(text: int | str) -> None:
    with pytest.raises(ValueError, match="want"):
        parse_ports(text)


@pytest.mark.parametrize("proto", ["any", "icmp", 47])
def test_ports_are_for_tcp_and_udp_only(proto: str | int) -> None:
    with pytest.raises(ValueError, match="tcp or udp"):
        rule("allow", proto=proto, ports=(80,))


@pytest.mark.parametrize(
    ("proto", "kind", "matching"),
    [
        ("icmp", "echo-request", {(ICMP, 8), (ICMPV6, 128)}),
        ("icmp", "packet-too-big", {(ICMPV6, 2)}),
        (ICMP, "time-exceeded", {(ICMP, 11)}),
        (ICMPV6, 3, {(ICMPV6, 3)}),
    ],
)
def test_an_icmp_type_is_that_type_in_each_family_that_has_it(
    proto: str | int, kind: str | int, matching: set[tuple[int, int]]
) -> None:
    named = rule("allow", proto=proto, icmp_types=(kind,))
    found = {
        (protocol, icmp_type)
        for protocol in (ICMP, ICMPV6)
        for icmp_type in range(256)
        if not verdict_of(
            Flow(source="web", destination="api", protocol=protocol, icmp_type=icmp_type), named
        ).is_drop
    }
    assert found == matching
    assert verdict_of(WEB_TO_API, named) is Verdict.NO_RULE


@pytest.mark.parametrize(
    ("proto", "kind", "complaint"),
    [
        ("tcp", "echo-request", "need proto icmp, 1 or 58, not tcp"),
        ("any", 8, "need proto icmp, 1 or 58, not any"),
        ("icmp", 8, "not the same in IPv4 and IPv6"),
        (ICMP, "packet-too-big", "no ICMP type of protocol 1 is called packet-too-big"),
        (ICMP, 256, "want an ICMP type from 0 to 255, got 256"),
        ("icmp", "echo-requst", "did you mean"),
    ],
)
def test_what_is_no_icmp_type_is_refused(proto: str | int, kind: str | int, complaint: str) -> None:
    data = {"id": "r", "from": "web", "to": "api", "proto": proto, "action": "allow"}
    with pytest.raises(SchemaError, match=complaint):
        decode(Rule, data | {"icmp_types": [kind]})


def test_a_policy_test_asks_about_one_icmp_type_or_about_one_that_no_rule_names() -> None:
    only_ping = Policy(rules=(rule("allow", proto="icmp", icmp_types=("echo-request",)),))
    asked = {"from": "web", "to": "api", "proto": "icmp", "expect": "allow"}
    assert not list(
        broken_tests(only_ping, (decode(PolicyTest, asked | {"icmp_type": "echo-request"}),))
    )
    (line,) = broken_tests(only_ping, (decode(PolicyTest, asked | {"icmp_type": "redirect"}),))
    assert line == "tests[0]: want web -> api icmp/redirect allow, got no_rule by default deny"
    (line,) = broken_tests(only_ping, (decode(PolicyTest, asked),))
    assert "icmp allow, got no_rule" in line


def test_two_rules_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="different id"):
        Policy(rules=(rule("allow", id="a"), rule("deny", id="a")))


@given(policies())
def test_a_policy_survives_being_written_and_read(policy: Policy) -> None:
    assert decode(Policy, encode(policy)) == policy


def test_a_rule_is_written_with_from_and_to() -> None:
    written = {"id": "r", "from": "web", "to": "api", "action": "allow", "ports": [80]}
    written["proto"] = "tcp"
    assert decode(Rule, written) == rule("allow", proto="tcp", ports=(80,))


def test_every_fault_of_a_rule_is_named_with_its_path() -> None:
    written = {"rules": [{"id": "-", "frm": "web", "to": 5, "action": "alow", "proto": "tpc"}]}
    with pytest.raises(SchemaError) as caught:
        decode(Policy, written, path="policy")
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "policy.rules[0].frm",
        "policy.rules[0].id",
        "policy.rules[0].to",
        "policy.rules[0].action",
        "policy.rules[0].proto",
    ]
    text = str(caught.value)
    for suggestion in ("from", "allow", "tcp"):
        assert f'did you mean "{suggestion}"' in text


def test_a_name_nobody_has_is_found_wherever_it_stands() -> None:
    policy = decode(
        Policy,
        {
            "rules": [
                {"id": "good", "from": "staff", "to": "*", "action": "allow"},
                {"id": "bad", "from": "wbe", "to": "apy", "action": "allow"},
            ],
            "groups": {"staff": ["web", "gest"]},
            "tests": [{"from": "web", "to": "*", "expect": "deny"}],
        },
    )
    lines = list(dangling_names(policy, frozenset(IDENTITIES)))
    assert [line.split(":")[0] for line in lines] == [
        "groups.staff",
        "rules[1].from",
        "rules[1].to",
        "tests[0].to",
    ]
    assert 'did you mean "guest"' in lines[0]
    assert 'did you mean "web"' in lines[1]
