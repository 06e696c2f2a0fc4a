"""A node's whole desired state, as the coordinator distributes it and `--standalone` reads it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Literal

from ztlab.model.codec import field
from ztlab.model.element import Element, listed, outline
from ztlab.model.identity import TAG_FIRST, TAG_MAX, client_id, decode_public_key
from ztlab.model.policy import Policy, check_name

Role = Literal["client", "gateway", "mesh"]


def _check_prefix(text: str) -> None:
    if "/" not in text:
        raise ValueError(f"want a prefix with its length (10.0.0.1/32), got {text!r}")
    try:
        network = ip_network(text, strict=True)
    except ValueError as error:
        raise ValueError(f"want an IP prefix in canonical form, got {text!r} ({error})") from None
    if str(network) != text:  # a netmask, upper case, zeros: two spellings of one prefix
        raise ValueError(f"want an IP prefix in canonical form ({network}), got {text!r}")


def _check_prefixes(prefixes: tuple[str, ...]) -> None:
    for prefix in prefixes:
        _check_prefix(prefix)


def check_endpoint(text: str) -> None:
    """`192.0.2.1:51820` or `[2001:db8::1]:51820` or `host.example:51820`."""
    host, colon, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not (colon and host and is_port):
        raise ValueError(f"want HOST:PORT, got {text!r}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"want [IPV6]:PORT, got {text!r}")


def _check_tag(tag: int) -> None:
    if not TAG_FIRST <= tag <= TAG_MAX:
        raise ValueError(f"want a tag from {TAG_FIRST} to {TAG_MAX}, got {tag}")


def _check_keepalive(seconds: int) -> None:
    if not 0 <= seconds <= 65535:
        raise ValueError(f"want seconds from 0 to 65535, got {seconds}")


def _check_key(text: str) -> None:
    decode_public_key(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """Where in a network's history a configuration stands.

    epoch   random, made with the store and at every restore
    number  rises by one with each committed change; comparable within one epoch only
    """

    epoch: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer(Element):
    """One WireGuard peer.

    endpoint     HOST:PORT; None: it calls us
    allowed_ips  its own addresses (/32, /128), and behind a gateway the resources and their `via`
    keepalive_s  persistent keepalive in seconds; 0: none
    """

    node_id: str
    name: str = field(check=check_name)
    role: Role
    public_key: str = field(check=_check_key)
    endpoint: str | None = field(default=None, check=check_endpoint)
    allowed_ips: tuple[str, ...] = field(check=_check_prefixes)
    keepalive_s: int = field(default=0, check=_check_keepalive)

    @property
    def client_id(self) -> str:
        """Derived from the key, so it is never sent: it could only disagree."""
        return client_id(self.public_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity(Element):
    """A principal of the policy, its tag, and the addresses that are it.

    prefixes  /32 and /128 of every node that has it and that this node can meet, itself included
    """

    name: str = field(check=check_name)
    tag: int = field(check=_check_tag)
    prefixes: tuple[str, ...] = field(default=(), check=_check_prefixes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Element):
    """A named CIDR behind a gateway; the most specific one wins.

    gateway  node name of the gateway that offers it
    via      router addresses that may speak ICMP errors for it
    """

    name: str = field(check=check_name)
    tag: int = field(check=_check_tag)
    cidr: str = field(check=_check_prefix)
    gateway: str = field(check=check_name)
    via: tuple[str, ...] = field(default=(), check=_check_prefixes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Self(Element):
    """The node this configuration is for.

    addresses  its tunnel addresses, /32 and /128
    """

    node_id: str
    name: str = field(check=check_name)
    role: Role
    identity: str = field(check=check_name)
    addresses: tuple[str, ...] = field(check=_check_prefixes)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything one node is told. Always whole: what is not in it is not so.

    network_id  UUID of the network
    policy      None on a client, which judges nothing but "did I open this?"
    identities  empty on a client
    resources   empty on a client
    """

    version: Literal[1]
    network_id: str
    node: Self
    peers: tuple[Peer, ...] = field(default=())
    identities: tuple[Identity, ...] = field(default=())
    resources: tuple[Resource, ...] = field(default=())
    policy: Policy | None = field(default=None)

    def digest(self) -> str:
        """SHA-256 of the outline, in hexadecimal: what names this state, at whatever revision."""
        return hashlib.sha256(self.outline().encode("ascii")).hexdigest()

    def outline(self) -> str:
        """The canonical form, but with the digests of the policy and of each peer, identity and
        resource in their places: what nodes have in common is hashed once for all of them."""
        policy = "null" if self.policy is None else f'"{self.policy.digest()}"'
        return self._form(outline, policy)

    def canonical(self) -> str:
        """The canonical form (codec.canonical), put together from those of its elements."""
        return self._form(listed, "null" if self.policy is None else self.policy.canonical())

    def _form(self, written: Callable[[Sequence[Element]], str], policy: str) -> str:
        return (
            f'{{"identities":{written(self.identities)},'
            f'"network_id":{json.dumps(self.network_id)},'
            f'"node":{self.node.canonical()},'
            f'"peers":{written(self.peers)},'
            f'"policy":{policy},'
            f'"resources":{written(self.resources)},'
            f'"version":{self.version}}}'
        )
