"""Why policy says what it says: of two ends, over all protocols and ports, by the one `decide`.

Ports and protocols that no rule tells apart are asked about once. A rule that cannot match the two
ends is left out beforehand, which changes no answer and makes one independent of how many rules
there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ztlab.model.codec import field
from ztlab.model.flow import ICMP, ICMPV6, PROTOCOL_NUMBERS, TCP, UDP, Flow
from ztlab.model.icmp import LAST_TYPE
from ztlab.model.identity import ANY
from ztlab.model.policy import Policy, Rule, decide

Answer = Literal["allow", "deny", "some"]
_LAST_PORT = 65535
_NAMES = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "ipv6-icmp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A rule that matches the two ends, on whatever of the protocols and ports asked about.

    source, destination            as the rule writes them
    source_by, destination_by      how they mean the two ends: name, group, or any ("*")
    """

    rule: str
    action: str
    source: str = field(key="from")
    source_by: Literal["name", "group", "any"] = field(key="from_by")
    destination: str = field(key="to")
    destination_by: Literal["name", "group", "any"] = field(key="to_by")
    proto: str | int
    ports: tuple[int | str, ...]
    icmp_types: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Protocols and ports about which policy says one thing.

    proto       tcp, udp, icmp, ipv6-icmp, a number, or "other": every one not named beside it
    ports       "443", "0-65535"; None where the protocol has none
    icmp_types  "8", "0-255"; None where the protocol is another
    verdict     a word of ztlab.model.verdict: allowed, no_rule, deny_rule, unknown_source, ...
    rule        the one that decided; None: the default, or nobody knows an end
    """

    proto: str
    ports: str | None
    icmp_types: str | None
    verdict: str
    is_allowed: bool
    rule: str | None

    @property
    def service(self) -> str:
        """For people: "tcp 443", "icmp"."""
        some = self.ports if self.ports is not None else self.icmp_types
        every = f"0-{_LAST_PORT}", f"0-{LAST_TYPE}", None
        return self.proto if some in every else f"{self.proto} {some}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What policy says of one source and one destination.

    verdict  allow: everything asked about; deny: nothing; some
    """

    source: str = field(key="from")
    destination: str = field(key="to")
    verdict: Answer
    slices: tuple[Slice, ...]
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end of the question.

    asked       as it was asked
    kind        node, identity, group, resource, address, world
    name        what that kind calls it: of an address, whose it is (a node, a resource, or None)
    principals  the identities and resources that policy knows it by; `unknown`: by none
    """

    asked: str
    kind: str
    name: str | None
    principals: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The answer about two ends.

    verdict   allow: all that was asked about; deny: nothing of it; some
    pairs     one for each two principals; the first hundred
    left_off  how many pairs are not shown; `verdict` speaks of them too
    notes     what else decides beside policy, for people
    """

    source: End = field(key="from")
    destination: End = field(key="to")
    proto: str | int
    port: int | None
    verdict: Answer
    pairs: tuple[Pair, ...]
    left_off: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one principal may with another, over everything.

    allowed  where it is some: what is allowed ("tcp 8080", "icmp"), the first dozen
    rules    ids of the rules that decide anything here, the first dozen; () is the default
    """

    destination: str = field(key="to")
    verdict: Answer
    allowed: tuple[str, ...]
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All cells of one source."""

    source: str = field(key="from")
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Who reaches whom: a part of it.

    total         how many principals there are, in each direction
    destinations  of these rows, in the order of their cells
    """

    total: int
    destinations: tuple[str, ...]
    rows: tuple[Row, ...]


class Index:
    """The rules of one policy by whom they name, so that those of two ends are found at once."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._sources: dict[str, set[int]] = {}
        self._destinations: dict[str, set[int]] = {}
        for i, rule in enumerate(policy.rules):
            self._sources.setdefault(rule.source, set()).add(i)
            self._destinations.setdefault(rule.destination, set()).add(i)
        self._groups: dict[str, list[str]] = {}
        for group, members in policy.groups.items():
            for member in members:
                self._groups.setdefault(member, []).append(group)

    def between(self, source: str, destination: str) -> Policy:
        """The policy with none but the rules that can match the two ends, in their order."""
        return self.restricted(self.sources(source) & self.destinations(destination))

    def sources(self, name: str) -> frozenset[int]:
        """The numbers of the rules whose `from` means NAME."""
        return self._meaning(self._sources, name)

    def destinations(self, name: str) -> frozenset[int]:
        """The numbers of the rules whose `to` means NAME."""
        return self._meaning(self._destinations, name)

    def restricted(self, numbers: frozenset[int]) -> Policy:
        """The policy with those rules alone."""
        return replace(
            self._policy,
            rules=tuple(self._policy.rules[i] for i in sorted(numbers)),
            tests=(),
            quotas=(),
        )

    def _meaning(self, by: Mapping[str, set[int]], name: str) -> frozenset[int]:
        selectors = (ANY, name, *self._groups.get(name, ()))
        return frozenset().union(*(by.get(selector, ()) for selector in selectors))


def explain_pair(
    index: Index, source: str, destination: str, proto: str | int = "any", port: int | None = None
) -> Pair:
    """Everything policy says of SOURCE to DESTINATION on PROTO (as in a rule) and PORT.

    Source and destination are identities, resources, `world` or `unknown`. port None: every port.
    """
    policy = index.between(source, destination)
    slices = tuple(_slices(policy, source, destination, proto, port))
    asked = _protocols(policy, proto)
    matches = tuple(
        _match(rule, source, destination) for rule in policy.rules if _can_match(rule, asked, port)
    )
    return Pair(
        source=source,
        destination=destination,
        verdict=verdict_of(slices),
        slices=slices,
        matches=matches,
    )


def verdict_of(slices: tuple[Slice, ...]) -> Answer:
    """allow, deny, or some of each."""
    said = {one.is_allowed for one in slices}
    return "some" if len(said) == 2 else "allow" if said == {True} else "deny"


def _slices(
    policy: Policy, source: str, destination: str, proto: str | int, port: int | None
) -> Iterator[Slice]:
    for number, name in _protocols(policy, proto).items():
        has_ports, has_types = number in (TCP, UDP), number in (ICMP, ICMPV6)
        end = _LAST_PORT if has_ports else LAST_TYPE if has_types else 0
        held: tuple[int, int, Slice] | None = None
        for first, last in _ranges(policy, number, port if has_ports else None, end):
            flow = Flow(
                source=source,
                destination=destination,
                protocol=number,
                port=first if has_ports else None,
                icmp_type=first if has_types else None,
            )
            decision = decide(policy, flow)
            begin = first
            if held is not None:
                same = (held[2].verdict, held[2].rule) == (decision.verdict.word, decision.rule)
                if same:
                    begin = held[0]
                else:
                    yield held[2]
            some = str(begin) if begin == last else f"{begin}-{last}"
            found = Slice(
                proto=name,
                ports=some if has_ports else None,
                icmp_types=some if has_types else None,
                verdict=decision.verdict.word,
                is_allowed=decision.is_allowed,
                rule=decision.rule,
            )
            held = (begin, last, found)
        if held is not None:
            yield held[2]


def _protocols(policy: Policy, proto: str | int) -> dict[int, str]:
    """One number for each protocol that POLICY can tell from the others, and what to call it."""
    if proto == "icmp":
        numbers = [ICMP, ICMPV6]
    elif proto != "any":
        numbers = [PROTOCOL_NUMBERS[proto] if isinstance(proto, str) else proto]
    else:
        named = {n for rule in policy.rules for n in rule.protocols() or ()}
        numbers = [*_NAMES, *sorted(named - _NAMES.keys())]
    names = {number: _NAMES.get(number, str(number)) for number in numbers}
    if proto == "any":
        # From the end of the range, where nothing is assigned (RFC 3692: 253, 254 for experiments).
        other = next((n for n in range(253, -1, -1) if n not in names), None)
        if other is not None:
            names[other] = "other"
    return names


def _ranges(policy: Policy, protocol: int, port: int | None, end: int) -> list[tuple[int, int]]:
    """The stretches, of ports or ICMP types from 0 to END, that no rule of POLICY divides."""
    if port is not None:
        return [(port, port)]
    begins = {0}
    for rule in policy.rules:
        if (spoken := rule.protocols()) is None or protocol in spoken:
            for first, last in rule.service_ranges(protocol) or ():
                begins |= {first, last + 1}
    marks = sorted(mark for mark in begins if mark <= end)
    return list(zip(marks, [*(mark - 1 for mark in marks[1:]), end], strict=True))


def _can_match(rule: Rule, asked: Mapping[int, str], port: int | None) -> bool:
    spoken = rule.protocols()
    if spoken is not None and not spoken & asked.keys():
        return False
    ranges = rule.port_ranges()
    return port is None or not ranges or any(first <= port <= last for first, last in ranges)


def _match(rule: Rule, source: str, destination: str) -> Match:
    return Match(
        rule=rule.id,
        action=rule.action,
        source=rule.source,
        source_by=_how(rule.source, source),
        destination=rule.destination,
        destination_by=_how(rule.destination, destination),
        proto=rule.proto,
        ports=rule.ports,
        icmp_types=rule.icmp_types,
    )


def _how(selector: str, name: str) -> Literal["name", "group", "any"]:
    return "any" if selector == ANY else "name" if selector == name else "group"
