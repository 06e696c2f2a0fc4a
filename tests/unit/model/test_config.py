"""A node's whole desired state: what it may say, and that it says it in one way only."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.model.strategies import policies
from ztlab.errors import SchemaError
from ztlab.model.codec import canonical, decode, encode
from ztlab.model.config import Identity, NodeConfig, Peer, Resource, Revision, check_endpoint
from ztlab.model.identity import TAG_MAX, client_id
from ztlab.model.policy import Policy

VECTORS = Path(__file__).parent / "vectors"
KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="


def document() -> dict[str, Any]:
    """A gateway's state, as the coordinator would send it."""
    return {
        "version": 1,
        "network_id": "5f0c1f5e-6a0a-4d8e-9c0d-0f9a7f6f1b11",
        "node": {
            "node_id": "a",
            "name": "gate",
            "role": "gateway",
            "identity": "gate",
            "addresses": ["10.77.0.1/32", "fd77::1/128"],
        },
        "peers": [
            {
                "node_id": "b",
                "name": "alice",
                "role": "client",
                "public_key": KEY,
                "endpoint": None,
                "allowed_ips": ["10.77.0.2/32", "fd77::2/128"],
                "keepalive_s": 0,
            }
        ],
        "identities": [
            {"name": "gate", "tag": 2, "prefixes": ["10.77.0.1/32", "fd77::1/128"]},
            {"name": "web", "tag": 3, "prefixes": ["10.77.0.2/32", "fd77::2/128"]},
        ],
        "resources": [
            {"name": "db", "tag": 4, "cidr": "10.9.0.0/24", "gateway": "gate", "via": []}
        ],
        "policy": {
            "default": "deny",
            "rules": [
                {
                    "id": "web-to-db",
                    "from": "web",
                    "to": "db",
                    "action": "allow",
                    "proto": "tcp",
                    "ports": [5432, "9000-9010"],
                    "icmp_types": [],
                }
            ],
            "groups": {"all": ["web"]},
            "tests": [],
            "quotas": [],
        },
    }


def test_a_whole_configuration_is_read_and_written_unchanged() -> None:
    assert encode(decode(NodeConfig, document())) == document()


def shuffled(value: Any, chance: Any) -> Any:
    """VALUE with the keys of every mapping in another order."""
    if isinstance(value, dict):
        keys = list(value)
        chance.shuffle(keys)
        return {key: shuffled(value[key], chance) for key in keys}
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


@given(st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_keys(chance: Any) -> None:
    other = decode(NodeConfig, json.loads(json.dumps(shuffled(document(), chance))))
    assert other.digest() == decode(NodeConfig, document()).digest()


def test_a_default_that_is_written_and_one_that_is_not_have_one_digest() -> None:
    terse = document()
    del terse["peers"][0]["endpoint"], terse["peers"][0]["keepalive_s"]
    del terse["resources"][0]["via"], terse["policy"]["tests"]
    assert decode(NodeConfig, terse).digest() == decode(NodeConfig, document()).digest()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("node", "identity"), "other"),
        (("peers", 0, "keepalive_s"), 25),
        (("peers", 0, "allowed_ips"), ["10.77.0.2/32"]),
        (("identities", 1, "tag"), 9),
        (("resources", 0, "cidr"), "10.9.0.0/25"),
        (("policy", "default"), "allow"),
        (("policy", "rules", 0, "ports"), [5432]),
        (("policy",), None),
    ],
)
def test_every_change_changes_the_digest(path: tuple[str | int, ...], value: Any) -> None:
    changed = copy.deepcopy(document())
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert decode(NodeConfig, changed).digest() != decode(NodeConfig, document()).digest()


def by_the_book(data: dict[str, Any]) -> str:
    """The digest as docs/PROTOCOL.md says it is computed, from plain JSON."""

    def sha256(value: Any) -> str:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    outline = copy.deepcopy(data)
    for section in ("peers", "identities", "resources"):
        outline[section] = [sha256(element) for element in data[section]]
    if (policy := data["policy"]) is not None:
        for section in ("rules", "quotas"):
            outline["policy"][section] = [sha256(element) for element in policy[section]]
        groups = policy["groups"].items()
        outline["policy"]["groups"] = {name: sha256(members) for name, members in groups}
        outline["policy"] = sha256(outline["policy"])
    return sha256(outline)


@given(st.none() | policies(), st.integers(0, 3))
def test_the_digest_is_what_the_protocol_says(policy: Policy | None, count: int) -> None:
    plain = {
        **document(),
        "peers": [{**document()["peers"][0], "node_id": f"ü{i}"} for i in range(count)],
        "policy": encode(policy),
    }
    config = decode(NodeConfig, plain)
    assert config.digest() == by_the_book(plain)
    assert config.canonical().encode() == canonical(config)


@pytest.mark.parametrize("vector", json.loads((VECTORS / "digest.json").read_text()))
def test_the_digest_is_that_of_the_vectors(vector: dict[str, Any]) -> None:
    config = decode(NodeConfig, vector["config"])
    assert config.digest() == vector["digest"] == by_the_book(encode(config))


def test_an_element_of_two_configurations_is_hashed_once_and_a_changed_copy_anew() -> None:
    config = decode(NodeConfig, document())
    peer = config.peers[0]
    assert peer.digest() is peer.digest() and peer.canonical() is peer.canonical()
    other = dataclasses.replace(peer, keepalive_s=25)
    assert other.digest() != peer.digest() and other.canonical() != peer.canonical()
    assert dataclasses.replace(other, keepalive_s=0) == peer
    assert dataclasses.replace(other, keepalive_s=0).digest() == peer.digest()


def test_a_configuration_has_no_revision_in_it() -> None:
    with pytest.raises(SchemaError, match="revision: unknown key"):
        decode(NodeConfig, {**document(), "revision": {"epoch": "e", "number": 1}})
    assert encode(Revision(epoch="e", number=1)) == {"epoch": "e", "number": 1}


@pytest.mark.parametrize("version", [2, "1", True, None])
def test_another_version_is_refused(version: Any) -> None:
    with pytest.raises(SchemaError, match="version: want 1"):
        decode(NodeConfig, {**document(), "version": version})


@pytest.mark.parametrize(
    "prefix",
    [
        "10.0.0.1",  # no length
        "10.0.0.1/24",  # host bits
        "10.0.0.0/255.255.255.0",
        "10.0.0.00/24",
        "FD77::/64",
        "fd77:0::/64",
        "fd77::/064",
        " 10.0.0.0/24",
        "10.0.0.0/33",
        "web",
        "",
    ],
)
def test_a_prefix_has_one_spelling(prefix: str) -> None:
    with pytest.raises(SchemaError, match="prefixes: want"):
        decode(Identity, {"name": "web", "tag": 2, "prefixes": [prefix]})
    with pytest.raises(SchemaError, match="cidr: want"):
        decode(Resource, {"name": "db", "tag": 2, "cidr": prefix, "gateway": "gate"})


@pytest.mark.parametrize(
    "prefix", ["0.0.0.0/0", "10.0.0.1/32", "::/0", "fd77::1/128", "10.9.0.0/24"]
)
def test_a_canonical_prefix_is_accepted(prefix: str) -> None:
    identity = decode(Identity, {"name": "web", "tag": 2, "prefixes": [prefix]})
    assert identity.prefixes == (prefix,)


@pytest.mark.parametrize("tag", [-1, 0, 1, TAG_MAX + 1, "2", True])
def test_a_tag_that_is_reserved_or_does_not_fit_is_refused(tag: Any) -> None:
    with pytest.raises(SchemaError, match="tag: want"):
        decode(Identity, {"name": "web", "tag": tag})


@pytest.mark.parametrize("tag", [2, TAG_MAX])
def test_the_first_and_the_last_tag_are_accepted(tag: int) -> None:
    assert decode(Identity, {"name": "web", "tag": tag}).tag == tag


@pytest.mark.parametrize(
    "name", ["", "*", "-a", "a-", ".a", "a b", "a/b", "ä", "a" * 64, "a\n", "../a"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(SchemaError, match="name: want a name"):
        decode(Identity, {"name": name, "tag": 2})


def peer(**changes: Any) -> dict[str, Any]:
    return {**document()["peers"][0], **changes}


def test_a_peer_has_the_client_id_of_its_key() -> None:
    assert decode(Peer, peer()).client_id == client_id(KEY)


def test_a_peer_cannot_bring_a_client_id_of_its_own() -> None:
    with pytest.raises(SchemaError, match="client_id: unknown key"):
        decode(Peer, peer(client_id="x"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("public_key", "AAAA"),
        ("public_key", "A" * 43 + "="),  # of low order
        ("endpoint", "host"),
        ("endpoint", "host:0"),
        ("endpoint", "host:65536"),
        ("endpoint", "host:²"),
        ("endpoint", ":51820"),
        ("endpoint", "fd77::1:51820"),
        ("keepalive_s", -1),
        ("keepalive_s", 65536),
        ("role", "server"),
        ("allowed_ips", "10.0.0.1/32"),
    ],
)
def test_a_peer_that_wireguard_could_not_take_is_refused(key: str, value: Any) -> None:
    with pytest.raises(SchemaError, match=f"^{key}: "):
        decode(Peer, peer(**{key: value}))


@pytest.mark.parametrize("text", ["192.0.2.1:51820", "[2001:db8::1]:1", "host.example:65535"])
def test_an_endpoint_is_a_host_and_a_port(text: str) -> None:
    check_endpoint(text)
