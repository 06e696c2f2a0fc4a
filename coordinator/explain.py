"""Who may reach whom, on what, and by which rule: by ztlab.model's `decide` and nothing else.

It says what policy says. What nodes do besides (a client takes no connection, a quota is used up)
is in the notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import islice, product

from coordinator.state import NetworkState, host_prefix
from ztlab.errors import SchemaError
from ztlab.model.codec import did_you_mean
from ztlab.model.explanation import (
    Answer,
    Cell,
    End,
    Explanation,
    Index,
    Matrix,
    Pair,
    Row,
    explain_pair,
)
from ztlab.model.identity import UNKNOWN, WORLD
from ztlab.model.policy import check_protocol, parse_ports

MOST_PAIRS = 100  # that one explanation shows: a group has many members
MOST_ASKED = 250_000  # pairs that one explanation speaks of: half a second
MOST_TEXTS = 12  # of a cell: what is allowed, and by which rules
KINDS = ("node", "identity", "group", "resource", "address")


def explain(
    state: NetworkState,
    source: str,
    destination: str,
    proto: str | int = "any",
    port: int | None = None,
) -> Explanation:
    """What the policy of STATE says of SOURCE to DESTINATION, and why.

    Both are a node, an identity, a group, a resource, `world` or an address; where a name is a
    node's and another identity's, `node:NAME` or `identity:NAME` tells. PROTO and PORT are as in a
    rule; None: every port. SchemaError for what is nobody's name or no protocol.
    """
    ends = _ends(state, source, destination, proto, port)
    index = Index(state.policy)
    count = len(ends[0].principals) * len(ends[1].principals)
    if count > MOST_ASKED:
        raise SchemaError(
            [f"from, to: these are {count} pairs, want at most {MOST_ASKED}: ask about a part"]
        )
    pairs = islice(product(ends[0].principals, ends[1].principals), MOST_PAIRS)
    return Explanation(
        source=ends[0],
        destination=ends[1],
        proto=proto,
        port=port,
        verdict=_verdict(index, ends, proto, port),
        pairs=tuple(explain_pair(index, *pair, proto, port) for pair in pairs),
        left_off=max(0, count - MOST_PAIRS),
        notes=tuple(_notes(state, ends[0], ends[1])),
    )


def _verdict(index: Index, ends: tuple[End, End], proto: str | int, port: int | None) -> Answer:
    """Of all pairs; those that the same rules speak of are looked at once."""
    to = {name: index.destinations(name) for name in ends[1].principals}
    said: set[Answer] = set()
    seen = set()
    for source in ends[0].principals:
        by = index.sources(source)
        for destination in ends[1].principals:
            alike = (by & to[destination], UNKNOWN in (source, destination))
            if alike not in seen:
                seen.add(alike)
                said.add(explain_pair(index, source, destination, proto, port).verdict)
    if len(said) == 1:
        return said.pop()
    return "some" if said else "deny"


def principals(state: NetworkState) -> tuple[str, ...]:
    """Whom policy may speak of, in the order of the matrix: identities, resources, `world`."""
    resources = sorted(resource.name for resource in state.resources)
    return (*sorted(state.identities), *resources, WORLD)


def reachability(
    state: NetworkState,
    sources: Sequence[str] | None = None,
    destinations: Sequence[str] | None = None,
) -> Matrix:
    """The cells of SOURCES by DESTINATIONS, each a list out of principals(); None: all of them.

    A cell is computed once for all pairs that the same rules speak of.
    """
    known = principals(state)
    sources = known if sources is None else sources
    destinations = known if destinations is None else destinations
    index = Index(state.policy)
    to = {name: index.destinations(name) for name in destinations}
    seen: dict[frozenset[int], tuple[Answer, tuple[str, ...], tuple[str, ...]]] = {}
    rows = []
    for source in sources:
        by = index.sources(source)
        cells = []
        for destination in destinations:
            rules = by & to[destination]
            if rules not in seen:
                seen[rules] = _summary(explain_pair(index, source, destination))
            verdict, allowed, deciding = seen[rules]
            cells.append(
                Cell(destination=destination, verdict=verdict, allowed=allowed, rules=deciding)
            )
        rows.append(Row(source=source, cells=tuple(cells)))
    return Matrix(total=len(known), destinations=tuple(destinations), rows=tuple(rows))


def _summary(pair: Pair) -> tuple[Answer, tuple[str, ...], tuple[str, ...]]:
    texts = [one.service for one in pair.slices if one.is_allowed]
    rules = dict.fromkeys(one.rule for one in pair.slices if one.rule is not None)
    allowed = texts[:MOST_TEXTS] if pair.verdict == "some" else []
    return pair.verdict, tuple(allowed), tuple(rules)[:MOST_TEXTS]


def parse_proto(text: str) -> str | int:
    """A protocol as a rule has it, of a text that may be a number: "tcp", 6 of "6"."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else text


def _ends(
    state: NetworkState, source: str, destination: str, proto: str | int, port: int | None
) -> tuple[End, End]:
    faults: list[str] = []
    found: list[End] = []
    for path, asked in (("from", source), ("to", destination)):
        try:
            found.append(resolve(state, asked))
        except ValueError as error:
            faults.append(f"{path}: {error}")
    try:
        check_protocol(proto)
    except ValueError as error:
        faults.append(f"proto: {error}")
    try:
        parse_ports(0 if port is None else port)
    except ValueError as error:
        faults.append(f"port: {error}")
    if faults:
        raise SchemaError(faults)
    return found[0], found[1]


def resolve(state: NetworkState, asked: str) -> End:
    """Whom ASKED means; ValueError if nobody, or if two."""
    kind, colon, name = asked.partition(":")
    if colon and kind in KINDS:
        meanings = [(k, p) for k, p in _meanings(state, name) if k == kind]
        if not meanings:
            raise ValueError(f"there is no {kind} {name!r}")
    else:
        name = asked
        meanings = _meanings(state, asked)
    if not meanings:
        known = {*principals(state), *state.policy.groups, *(n.name for n in state.nodes)}
        raise ValueError(f"nobody is called {asked!r}{did_you_mean(asked, known)}")
    if len({who for _, who in meanings}) > 1:
        several = " or ".join(f"{k}:{name}" for k, _ in meanings)
        raise ValueError(f"{name!r} has two meanings: say {several}")
    kind, who = meanings[-1]
    return End(asked=asked, kind=kind, name=_owner(state, kind, name), principals=who)


def _meanings(state: NetworkState, name: str) -> list[tuple[str, tuple[str, ...]]]:
    """(kind, principals) of everything called NAME; nodes first."""
    if name == WORLD:
        return [("world", (WORLD,))]
    address = _address(name)
    if address is not None:
        return [("address", (_holder(state, address)[1],))]
    found: list[tuple[str, tuple[str, ...]]] = [
        ("node", (node.identity,)) for node in state.nodes if node.name == name
    ]
    if name in state.identities:
        found.append(("identity", (name,)))
    if any(resource.name == name for resource in state.resources):
        found.append(("resource", (name,)))
    if name in state.policy.groups:
        found.append(("group", state.policy.groups[name]))
    return found


def _owner(state: NetworkState, kind: str, name: str) -> str | None:
    address = _address(name) if kind == "address" else None
    return name if address is None else _holder(state, address)[0]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _holder(state: NetworkState, address: IPv4Address | IPv6Address) -> tuple[str | None, str]:
    """Whose an address is, and the principal that packets from or to it are.

    A node's own first, then the most specific resource. Nobody's is `world`, and `unknown` where
    only nodes may have it.
    """
    prefix = host_prefix(str(address))
    for node in state.nodes:
        if prefix in node.addresses:
            return node.name, node.identity
    containing = [
        (ip_network(resource.cidr).prefixlen, resource.name)
        for resource in state.resources
        if address in ip_network(resource.cidr)
    ]
    if containing:
        return max(containing)[1], max(containing)[1]
    is_in_pool = any(address in ip_network(pool) for pool in state.pools)
    return None, UNKNOWN if is_in_pool else WORLD


def _notes(state: NetworkState, source: End, destination: End) -> list[str]:
    notes = []
    for end in (source, destination):
        if end.kind == "address" and end.principals == (UNKNOWN,):
            notes.append(f"{end.asked} is in a pool of tunnel addresses, and no node has it")
        if not end.principals:
            notes.append(f"the group {end.asked} is empty")
    roles: dict[str, set[str]] = {}
    for node in state.nodes:
        roles.setdefault(node.identity, set()).add(node.role)
    for name in source.principals[:1] if len(source.principals) == 1 else ():
        if name in state.identities and name not in roles:
            notes.append(f"no node has the identity {name} now")
        for quota in state.policy.quotas:
            if quota.identity == name:
                notes.append(f"what {name} sends is limited to {quota.rate}, {quota.burst} at once")
    for name in destination.principals[:1] if len(destination.principals) == 1 else ():
        if name in state.identities and name not in roles:
            notes.append(f"no node has the identity {name} now")
        if roles.get(name) == {"client"}:
            notes.append(
                f"{name} is on clients alone: what enforces there takes only replies to what the "
                "client began (not_established)"
            )
    return list(dict.fromkeys(notes))
