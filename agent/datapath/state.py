"""What the maps should hold: the outcome of compiling a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from agent.abi import Action, IPNetwork, Kind


class IdentityEntry(NamedTuple):
    """What a prefix is: its identity's tag (0 on a `via` router) and of which kind."""

    tag: int
    kind: Kind


class PolicyMatch(NamedTuple):
    """What one entry of the policy matches.

    source, destination  tags, or agent.abi.TAG_ANY
    protocol             IP protocol number; 0 where port_bits is agent.abi.ANY_PROTOCOL
    port, port_bits      a port prefix: destination ports whose upper `port_bits` bits are `port`'s
    """

    source: int
    destination: int
    protocol: int
    port: int
    port_bits: int


class PolicyOutcome(NamedTuple):
    """What it says, and by which rule: its index in written order, plus one."""

    rule: int
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathState:
    """Everything the maps should hold, and the names that go with the numbers.

    identities     prefix to identity; the most specific one counts
    policy         entries; of several rules with one match, the one that decides
    pairs          (source, destination) to the bit mask of the entry shapes that exist for it
    rules          rule ids in written order
    actions        what each of these rules says
    quotas         tag to (bytes per second, bytes at once)
    default_allow  what happens where no entry matches
    is_client      no identities, no policy: only replies come in
    self_tag       the tag of this node's own identity; 0 on a client
    tag_names      tag to name, `unknown` and `world` included
    """

    identities: Mapping[IPNetwork, IdentityEntry]
    policy: Mapping[PolicyMatch, PolicyOutcome]
    pairs: Mapping[tuple[int, int], int]
    rules: tuple[str, ...]
    actions: tuple[Action, ...]
    quotas: Mapping[int, tuple[int, int]]
    default_allow: bool
    is_client: bool
    self_tag: int
    tag_names: Mapping[int, str]
