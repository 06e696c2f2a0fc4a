"""An explanation says of every flow what `decide` says of it, and names the rule."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ztlab.model.explanation import Index, Pair, explain_pair
from ztlab.model.flow import ICMP, ICMPV6, TCP, UDP, Flow
from ztlab.model.policy import Policy, Rule, decide

PROTOS: tuple[str | int, ...] = ("tcp", "udp", "icmp", "any", 6, 58, 47, 253)
NAMES = ("web", "api", "db", "world")
SELECTORS = (*NAMES, "*", "people")
LABELS = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "ipv6-icmp"}

ports = st.one_of(
    st.integers(0, 65535),
    st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(
        lambda pair: f"{min(pair)}-{max(pair)}"
    ),
)


types = st.sampled_from(("echo-request", "echo-reply", "packet-too-big"))


@st.composite
def rules(draw: st.DrawFn, number: int) -> Rule:
    proto = draw(st.sampled_from(PROTOS))
    return Rule(
        id=f"r{number}",
        source=draw(st.sampled_from(SELECTORS)),
        destination=draw(st.sampled_from(SELECTORS)),
        action=draw(st.sampled_from(("allow", "deny"))),
        proto=proto,
        ports=tuple(draw(st.lists(ports, max_size=2))) if proto in ("tcp", "udp", 6) else (),
        icmp_types=tuple(draw(st.lists(types, max_size=2))) if proto == "icmp" else (),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    return Policy(
        default=draw(st.sampled_from(("allow", "deny"))),
        rules=tuple(draw(rules(i)) for i in range(draw(st.integers(0, 5)))),
        groups={"people": ("web", "db")},
    )


def holds(pair: Pair, flow: Flow) -> tuple[str, str | None]:
    """What PAIR says of FLOW."""
    label = LABELS.get(flow.protocol, str(flow.protocol))
    if not any(one.proto == label for one in pair.slices):
        label = "other"
    (found,) = (
        one
        for one in pair.slices
        if one.proto == label and _in(one.ports, flow.port) and _in(one.icmp_types, flow.icmp_type)
    )
    return found.verdict, found.rule


def _in(text: str | None, port: int | None) -> bool:
    if text is None:
        return port is None
    first, _, last = text.partition("-")
    return port is not None and int(first) <= port <= int(last or first)


@settings(max_examples=300, deadline=None)
@given(
    policies(),
    st.sampled_from((*NAMES, "unknown")),
    st.sampled_from((*NAMES, "unknown")),
    st.integers(0, 255) | st.sampled_from((TCP, UDP, ICMP, ICMPV6)),
    st.integers(0, 65535) | st.sampled_from((8, 128, 2)),
)
def test_it_agrees_with_decide_about_every_flow(
    policy: Policy, source: str, destination: str, protocol: int, port: int
) -> None:
    flow = Flow(
        source=source,
        destination=destination,
        protocol=protocol,
        port=port if protocol in (TCP, UDP) else None,
        icmp_type=port % 256 if protocol in (ICMP, ICMPV6) else None,
    )
    decision = decide(policy, flow)

    pair = explain_pair(Index(policy), source, destination)

    assert holds(pair, flow) == (decision.verdict.word, decision.rule)
    if decision.rule is not None:
        assert decision.rule in {match.rule for match in pair.matches}
    if flow.icmp_type is not None:  # one cannot be asked about
        return
    narrow = explain_pair(Index(policy), source, destination, protocol, flow.port)
    assert {(one.verdict, one.rule) for one in narrow.slices} == {
        (decision.verdict.word, decision.rule)
    }
    assert narrow.verdict == ("allow" if decision.is_allowed else "deny")


def test_it_says_how_a_rule_means_an_end() -> None:
    policy = Policy(
        groups={"people": ("web",)},
        rules=(
            Rule(
                id="a", source="people", destination="db", action="allow", proto="tcp", ports=(5,)
            ),
            Rule(id="b", source="web", destination="*", action="deny", proto="udp"),
            Rule(id="c", source="api", destination="db", action="allow"),
        ),
    )

    pair = explain_pair(Index(policy), "web", "db")

    assert [(m.rule, m.source_by, m.destination_by) for m in pair.matches] == [
        ("a", "group", "name"),
        ("b", "name", "any"),
    ]
    assert pair.verdict == "some"
    tcp = [(one.ports, one.verdict, one.rule) for one in pair.slices if one.proto == "tcp"]
    assert tcp == [("0-4", "no_rule", None), ("5", "allowed", "a"), ("6-65535", "no_rule", None)]
