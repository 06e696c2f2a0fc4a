from __future__ import annotations

import dataclasses
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.abi import Kind
from agent.datapath.compile import desired_state, port_prefixes
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from agent.datapath.state import IdentityEntry
from tests.unit.agent.datapath.compiled import evaluate
from tests.unit.agent.datapath.configs import node_config, rule
from ztlab.errors import SchemaError
from ztlab.model.config import Identity, Resource
from ztlab.model.flow import Flow
from ztlab.model.policy import Policy, Rule, decide

NAMES = ("web", "api", "guest", "lan", "printer", "world")
GROUPS = {"staff": ("web", "api"), "outside": ("world", "guest", "lan"), "nobody": ()}
PORTS = st.integers(0, 65535)


ICMPS = ("icmp", 1, 58)


def port_texts() -> st.SearchStrategy[int | str]:
    pairs = st.tuples(PORTS, PORTS).map(lambda ends: f"{min(ends)}-{max(ends)}")
    return st.one_of(PORTS, st.sampled_from([8080, 8081, "8000-8999", "0-65535"]), pairs)


@st.composite
def rules(draw: st.DrawFn) -> tuple[Rule, ...]:
    selectors = st.sampled_from((*NAMES, *GROUPS, "*"))
    made = []
    for i in range(draw(st.integers(0, 6))):
        proto = draw(st.sampled_from(("any", "tcp", "udp", "icmp", 6, 17, 1, 58, 47, 0)))
        has_ports = proto in ("tcp", "udp", 6, 17)
        ports = draw(st.lists(port_texts(), max_size=3)) if has_ports else []
        kinds = st.sampled_from(("echo-request", "packet-too-big") if proto == "icmp" else (8, 128))
        service = {
            "proto": proto,
            "ports": tuple(ports),
            "icmp_types": tuple(draw(st.lists(kinds, max_size=2)) if proto in ICMPS else []),
        }
        action = draw(st.sampled_from(("allow", "deny")))
        made.append(rule(f"r{i}", draw(selectors), draw(selectors), action, **service))
    return tuple(made)


FLOWS = st.builds(
    lambda source, destination, protocol, port: Flow(
        source=source,
        destination=destination,
        protocol=protocol,
        port=port if protocol in (6, 17) else None,
        icmp_type=port % 256 if protocol in (1, 58) else None,
    ),
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.sampled_from((0, 1, 6, 17, 47, 58)),
    st.one_of(PORTS, st.sampled_from([2, 8, 128, 0, 7999, 8000, 8080, 8999, 9000, 65535])),
)


@given(rules(), st.sampled_from(("allow", "deny")), st.lists(FLOWS, min_size=1, max_size=20))
def test_compiled_entries_say_what_decide_says(
    rules: tuple[Rule, ...], default: str, flows: list[Flow]
) -> None:
    config = node_config(*rules, default=default, groups=GROUPS)
    state = desired_state(config)
    tags = {name: tag for tag, name in state.tag_names.items()}
    assert config.policy is not None
    for flow in flows:
        asked = flow.port or flow.icmp_type or 0
        said = evaluate(state, tags[flow.source], tags[flow.destination], flow.protocol, asked)
        assert said == decide(config.policy, flow)


@given(PORTS, PORTS)
def test_a_range_is_cut_into_prefixes_that_cover_it_and_nothing_else(a: int, b: int) -> None:
    first, last = min(a, b), max(a, b)
    prefixes = list(port_prefixes(first, last))
    assert len(prefixes) <= 30
    position = first
    for port, bits in prefixes:
        assert port == position and port % 2 ** (16 - bits) == 0
        position += 2 ** (16 - bits)
    assert position == last + 1


def test_every_address_has_its_identity_and_its_kind() -> None:
    identities = desired_state(node_config()).identities
    assert identities[ip_network("10.0.0.2/32")] == IdentityEntry(3, Kind.SELF)
    assert identities[ip_network("fd00::1/128")] == IdentityEntry(2, Kind.NODE)
    assert identities[ip_network("192.168.7.0/24")] == IdentityEntry(6, Kind.RESOURCE)
    assert identities[ip_network("10.9.9.9/32")] == IdentityEntry(0, Kind.VIA)


def test_a_router_inside_a_resource_keeps_the_resources_identity() -> None:
    config = node_config()
    lan = dataclasses.replace(config.resources[0], via=("192.168.0.1/32",))
    state = desired_state(dataclasses.replace(config, resources=(lan,)))
    assert ip_network("192.168.0.1/32") not in state.identities


def test_a_client_gets_no_identities_and_no_policy() -> None:
    state = desired_state(node_config(role="client"))
    assert state.is_client and not state.identities and not state.policy and not state.pairs


def test_no_policy_is_a_closed_door() -> None:
    state = desired_state(dataclasses.replace(node_config(), policy=None))
    assert not state.policy and not state.default_allow


def test_a_name_nobody_has_is_named_with_its_path() -> None:
    with pytest.raises(SchemaError, match=r"policy\.rules\[0\]\.from: nobody is called 'wbe'"):
        desired_state(node_config(rule("r", "wbe", "api", "allow")))


def test_a_node_without_its_own_identity_is_refused() -> None:
    config = node_config()
    with pytest.raises(SchemaError, match=r"node\.identity"):
        desired_state(dataclasses.replace(config, identities=()))


def test_two_identities_never_share_a_tag_or_a_prefix() -> None:
    config = node_config()
    twin = Identity(name="twin", tag=2)
    with pytest.raises(SchemaError, match="2 is 'web''s already"):
        desired_state(dataclasses.replace(config, identities=(*config.identities, twin)))
    thief = Identity(name="thief", tag=99, prefixes=("10.0.0.1/32",))
    with pytest.raises(SchemaError, match="has tag 2 already, and now 99"):
        desired_state(dataclasses.replace(config, identities=(*config.identities, thief)))


def test_a_tag_the_mark_cannot_carry_is_refused() -> None:
    config = node_config()
    wide = Resource(name="wide", tag=256, cidr="172.16.0.0/12", gateway="gw")
    config = dataclasses.replace(config, resources=(*config.resources, wide))
    desired_state(config)
    with pytest.raises(SchemaError, match="want at most 8 bits"):
        desired_state(config, marks=MarkLayout.from_mask(0xFF002000))


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (Limits(policy=4), "more than 4 entries"),
        (Limits(pairs=1), "3 pairs, more than 1"),
        (Limits(ids=6), "at most 6 addresses, got 7"),
        (Limits(nets=2), "at most 2 prefixes, got 3"),
    ],
)
def test_more_than_the_maps_hold_is_refused_whole(limits: Limits, what: str) -> None:
    config = node_config(
        rule("wide", "web", "api", "allow", proto="tcp", ports=("1-6",)),
        rule("all", "*", "lan", "allow"),
        rule("out", "web", "world", "allow"),
    )
    desired_state(config)
    with pytest.raises(SchemaError, match=what):
        desired_state(config, limits=limits)


def test_a_policy_too_large_is_refused_before_it_fills_the_memory() -> None:
    names = tuple(f"n{i}" for i in range(2000))
    config = node_config(
        rule("square", "all", "all", "allow", proto="tcp", ports=("1-65534",)),
        groups={"all": names},
    )
    identities = tuple(Identity(name=n, tag=100 + i) for i, n in enumerate(names))
    config = dataclasses.replace(config, identities=(*config.identities, *identities))
    with pytest.raises(SchemaError, match="more than 131072 entries"):
        desired_state(config)


def test_a_policy_without_rules_compiles_to_its_default() -> None:
    state = desired_state(node_config(default="allow"))
    assert state.default_allow and not state.policy
    assert isinstance(node_config().policy, Policy)
