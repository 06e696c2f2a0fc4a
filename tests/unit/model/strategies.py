"""Policies and flows for hypothesis: few names, so that rules and flows meet often."""

from __future__ import annotations

from hypothesis import strategies as st

from ztlab.model.flow import ICMP, ICMPV6, TCP, UDP, Flow
from ztlab.model.identity import ANY, UNKNOWN, WORLD
from ztlab.model.policy import Action, Policy, PolicyTest, Quota, Rule

IDENTITIES = ("web", "api", "db", "guest")
GROUPS = ("staff", "servers")
PORTS = (0, 53, 80, 8080, 9000, 9005, 9010, 65535)

ACTIONS: tuple[Action, ...] = ("allow", "deny")
PROTOCOLS: tuple[str | int, ...] = ("tcp", "udp", "icmp", "any", TCP, UDP, 47)
RULE_PORTS: tuple[int | str, ...] = (53, 80, 8080, "8080", "9000-9010", "0-65535")

actions = st.sampled_from(ACTIONS)
selectors = st.sampled_from((*IDENTITIES, *GROUPS, WORLD, ANY))
protocols = st.sampled_from(PROTOCOLS)
ports = st.sampled_from(RULE_PORTS)
types = st.sampled_from(("echo-request", "echo-reply", "packet-too-big"))


@st.composite
def rules(draw: st.DrawFn, number: int) -> Rule:
    proto = draw(protocols)
    may_have_ports = proto in ("tcp", "udp", TCP, UDP)
    return Rule(
        id=f"r{number}",
        source=draw(selectors),
        destination=draw(selectors),
        action=draw(actions),
        proto=proto,
        ports=tuple(draw(st.lists(ports, max_size=2))) if may_have_ports else (),
        icmp_types=tuple(draw(st.lists(types, max_size=2))) if proto == "icmp" else (),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    count = draw(st.integers(0, 6))
    groups = st.dictionaries(
        st.sampled_from(GROUPS), st.lists(st.sampled_from(IDENTITIES)).map(tuple)
    )
    return Policy(
        default=draw(actions),
        rules=tuple(draw(rules(number)) for number in range(count)),
        groups=draw(groups),
        tests=tuple(draw(st.lists(policy_tests, max_size=2))),
        quotas=tuple(draw(st.lists(quotas, max_size=2, unique_by=lambda q: q.identity))),
    )


quotas = st.builds(
    Quota,
    identity=st.sampled_from(IDENTITIES),
    rate=st.sampled_from(("8kbit", "10mbit")),
    burst=st.sampled_from(("1500B", "256kB")),
)

policy_tests = st.builds(
    PolicyTest,
    source=st.sampled_from((*IDENTITIES, WORLD)),
    destination=st.sampled_from((*IDENTITIES, WORLD)),
    proto=st.sampled_from(("tcp", "udp")),
    port=st.sampled_from(PORTS),
    expect=actions,
)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    protocol = draw(st.sampled_from((TCP, UDP, ICMP, ICMPV6, 47)))
    return Flow(
        source=draw(st.sampled_from((*IDENTITIES, WORLD, UNKNOWN))),
        destination=draw(st.sampled_from((*IDENTITIES, WORLD, UNKNOWN))),
        protocol=protocol,
        port=draw(st.sampled_from(PORTS)) if protocol in (TCP, UDP) else None,
        icmp_type=draw(st.sampled_from((0, 2, 8, 128, 3))) if protocol in (ICMP, ICMPV6) else None,
    )
