"""Numbers of the rings become the names of docs/PROTOCOL.md, at once or at the coordinator."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from agent.datapath.compile import desired_state
from agent.events import Chunk, Names, Naming, body
from agent.keys import NodeKey
from tests.unit.batches import EPOCH, record
from ztlab.model import logbatch
from ztlab.model.config import Identity, NodeConfig, Peer, Self
from ztlab.model.identity import client_id

KEYS = [NodeKey(bytes(range(i, i + 32))).public_key for i in range(2)]
EVENT: dict[str, Any] = {
    "at": "2026-01-31T12:00:00.123456Z",
    "kind": "flow",
    "verdict": "no_rule",
    "hook": "ingress",
    "source": "10.0.0.2",
    "destination": "10.0.0.1",
    "protocol": 6,
    "source_port": 43210,
    "destination_port": 8080,
    "source_tag": 3,
    "destination_tag": 2,
    "length": 60,
}


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


def naming(*peers: Peer) -> Naming:
    return Naming(0, names(*peers).table, ((0, ()), (EPOCH, ("first", "second"))))


def read(*events: dict[str, Any], known: Naming) -> Chunk:
    return Chunk(bytearray(b"".join(map(record, events))), known)


def test_an_event_has_the_fields_that_the_protocol_names() -> None:
    text = (Path(__file__).parents[3] / "docs" / "PROTOCOL.md").read_text()
    example = re.search(r"Event \(one log record\).*?`(\{\"at\".*?\})`", text, re.DOTALL)
    assert example is not None
    keys = re.findall(r'"(\w+)": ', example[1])
    (made,) = read(EVENT, known=naming()).documents()
    assert list(made) == keys
    json.dumps(made)


def test_an_event_says_who_met_whom() -> None:
    (made,) = read(EVENT, known=naming(peer("web", KEYS[0], "10.0.0.2/32"))).documents()
    assert made["at"] == "2026-01-31T12:00:00.123456Z"
    assert (made["source_identity"], made["destination_identity"]) == ("web", "me")
    assert (made["verdict"], made["hook"], made["kind"]) == ("no_rule", "ingress", "flow")
    assert (made["peer_node_id"], made["peer_client_id"]) == ("id-web", client_id(KEYS[0]))


def test_a_coordinator_reads_in_a_batch_what_an_observer_sees() -> None:
    known = naming(peer("web", KEYS[0], "10.0.0.2/32"), peer("six", KEYS[1], "fd00::/64"))
    events = [
        EVENT,
        {**EVENT, "rule": "first", "verdict": "allowed"},
        {**EVENT, "source": "fd00::9", "destination": "fd00::1", "source_tag": 99},
        {**EVENT, "source": "203.0.113.7", "source_tag": 0},
        {**EVENT, "source": "::", "destination": "::", "verdict": "malformed", "source_tag": 0},
        {**EVENT, "kind": "end", "began_at": "2026-01-31T11:00:00.000000Z"},
    ]
    chunk = read(*events, known=known)
    head, records = logbatch.unpack(body(chunk))
    found = list(logbatch.documents(records, head, head.byte_order))
    assert found == list(chunk.documents())
    assert [event["rule"] for event in found] == [None, "first", None, None, None, None]
    assert [event["peer_node_id"] for event in found[1:4]] == ["id-web", "id-six", None]
    assert found[2]["source_identity"] == "unknown"
    assert body(chunk) != body(chunk)  # another id each time


def test_a_source_behind_a_gateway_is_behind_the_most_specific_prefix() -> None:
    known = names(
        peer("wide", KEYS[0], "192.168.0.0/16"), peer("narrow", KEYS[1], "192.168.7.0/24")
    )
    found = known.table.peer("192.168.7.9")
    assert found is not None and found[0] == "id-narrow"
    assert known.table.peer("203.0.113.1") is None
    assert known.table.peer("fd00::1") is None


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
    assert logbatch.rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert logbatch.rfc3339(1_999) == "1970-01-01T00:00:00.000001Z"
