"""Numbers of the ring become the names of docs/PROTOCOL.md."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from pathlib import Path

from agent.datapath.compile import desired_state
from agent.datapath.events import DatapathEvent
from agent.events import Names, record, rfc3339
from agent.keys import NodeKey
from ztlab.model.config import Identity, NodeConfig, Peer, Self
from ztlab.model.identity import client_id
from ztlab.model.verdict import Hook, Verdict

KEYS = [NodeKey(bytes(range(i, i + 32))).public_key for i in range(2)]
EVENT = DatapathEvent(
    unix_ns=1_769_860_800_123_456_789,
    verdict=Verdict.NO_RULE,
    hook=Hook.INGRESS,
    source=ip_address("10.0.0.2"),
    destination=ip_address("10.0.0.1"),
    protocol=6,
    source_port=43210,
    destination_port=8080,
    source_tag=3,
    destination_tag=2,
    rule=None,
    packets=1,
    length=60,
    tcp_flags=2,
    icmp_type=0,
    icmp_code=0,
    is_first=True,
)


def config(*peers: Peer) -> NodeConfig:
    return NodeConfig(
        version=1,
        network_id="x",
        node=Self(node_id="m", name="me", role="mesh", identity="me", addresses=("10.0.0.1/32",)),
        peers=peers,
        identities=(
            Identity(name="me", tag=2, prefixes=("10.0.0.1/32",)),
            Identity(name="web", tag=3, prefixes=("10.0.0.2/32",)),
        ),
    )


def peer(name: str, key: str, *prefixes: str) -> Peer:
    return Peer(node_id=f"id-{name}", name=name, role="mesh", public_key=key, allowed_ips=prefixes)


def names(*peers: Peer) -> Names:
    made = Names()
    made.learn(config(*peers), desired_state(config(*peers)))
    return made


def test_an_event_has_the_fields_that_the_protocol_names() -> None:
    text = (Path(__file__).parents[3] / "docs" / "PROTOCOL.md").read_text()
    example = re.search(r'Event \(one log record\): `(\{"at".*?\})`', text, re.DOTALL)
    assert example is not None
    keys = set(re.findall(r'"(\w+)": ', example[1]))
    made = record(EVENT, names(peer("web", KEYS[0], "10.0.0.2/32")))
    assert made.keys() == keys
    json.dumps(made)


def test_an_event_says_who_met_whom() -> None:
    made = record(EVENT, names(peer("web", KEYS[0], "10.0.0.2/32")))
    assert made["at"] == "2026-01-31T12:00:00.123456Z"
    assert (made["source_identity"], made["destination_identity"]) == ("web", "me")
    assert (made["verdict"], made["hook"], made["kind"]) == ("no_rule", "ingress", "flow")
    assert (made["peer_node_id"], made["peer_client_id"]) == ("id-web", client_id(KEYS[0]))


def test_a_source_behind_a_gateway_is_behind_the_most_specific_prefix() -> None:
    known = names(
        peer("wide", KEYS[0], "192.168.0.0/16"), peer("narrow", KEYS[1], "192.168.7.0/24")
    )
    found = known.peer(ip_address("192.168.7.9"))
    assert found is not None and found.node_id == "id-narrow"
    assert known.peer(ip_address("203.0.113.1")) is None
    assert known.peer(ip_address("fd00::1")) is None
    assert known.peer(None) is None


def test_the_name_of_an_identity_that_is_gone_is_still_known() -> None:
    known = names()
    without = NodeConfig(
        version=1,
        network_id="x",
        node=config().node,
        identities=(Identity(name="me", tag=2, prefixes=()),),
    )
    known.learn(without, desired_state(without))
    assert known.identity(3) == "web"
    assert (known.identity(0), known.identity(1)) == ("unknown", "world")


def test_times_are_utc_with_microseconds() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert rfc3339(1_999) == "1970-01-01T00:00:00.000001Z"
