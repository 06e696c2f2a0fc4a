"""Policy as people write it, and `decide`, the one function that says what it means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ztlab.model import codec, icmp
from ztlab.model.codec import did_you_mean, field, restricted
from ztlab.model.element import Element, listed, outline
from ztlab.model.flow import ICMP, ICMPV6, PROTOCOL_NUMBERS, TCP, UDP, Flow
from ztlab.model.identity import ANY, UNKNOWN, WORLD
from ztlab.model.quota import BURST_PATTERN, RATE_PATTERN, parse_burst, parse_rate
from ztlab.model.verdict import Verdict

Action = Literal["allow", "deny"]
_OTHER_PROTOCOL = 253  # RFC 3692: for experiments, so no rule names it by accident
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


@restricted(pattern=f"^{_NAME.pattern}$")
def check_name(name: str) -> None:
    """A name of an identity, group, resource, node or rule: 1 to 63 letters, digits, `-_.`."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"want a name of 1 to 63 letters, digits, '-', '_' or '.', "
            f"beginning and ending with a letter or digit, got {name!r}"
        )


def parse_ports(text: int | str) -> tuple[int, int]:
    """8080 or "9000-9010" as (first, last), both 0..65535; ValueError otherwise."""
    if isinstance(text, int):
        first = last = text
    else:
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
        if match is None:
            raise ValueError(f'want a port or a range like "9000-9010", got {text!r}')
        first, last = int(match[1]), int(match[2] or match[1])
    if not 0 <= first <= last <= 65535:
        raise ValueError(f"want ports from 0 to 65535, first before last, got {text!r}")
    return first, last


_PORT = {"type": "integer", "minimum": 0, "maximum": 65535}
_PORTS = {"type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$"}


@restricted(items={"anyOf": [_PORT, _PORTS]})
def _check_ports(ports: tuple[int | str, ...]) -> None:
    for port in ports:
        parse_ports(port)


@restricted(items=icmp.SCHEMA)
def _check_icmp_types(kinds: tuple[int | str, ...]) -> None:
    for kind in kinds:
        icmp.check_icmp_type(kind)


@restricted(minimum=0, maximum=65535)
def _check_port(port: int) -> None:
    parse_ports(port)


@restricted(anyOf=[*icmp.SCHEMA["anyOf"], {"type": "null"}])
def _check_icmp_type(kind: int | str | None) -> None:
    if kind is not None:
        icmp.check_icmp_type(kind)


@restricted(pattern=RATE_PATTERN)
def _check_rate(text: str) -> None:
    parse_rate(text)


@restricted(pattern=BURST_PATTERN)
def _check_burst(text: str) -> None:
    parse_burst(text)


@restricted(
    anyOf=[
        {"enum": [*PROTOCOL_NUMBERS, "any"]},
        {"type": "integer", "minimum": 0, "maximum": 255},
    ]
)
def check_protocol(proto: str | int) -> None:
    """ValueError unless PROTO is tcp, udp, icmp, any, or an IP protocol number."""
    if isinstance(proto, int):
        if not 0 <= proto <= 255:
            raise ValueError(f"want a protocol number from 0 to 255, got {proto}")
    elif proto not in (*PROTOCOL_NUMBERS, "any"):
        known = (*PROTOCOL_NUMBERS, "any")
        raise ValueError(
            f"want {' | '.join(known)} or a number, got {proto!r}{did_you_mean(proto, known)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Element):
    """One line of policy. The order of rules never matters: deny beats allow.

    source, destination  an identity, a group, a resource, `world`, or `*`
    proto                tcp, udp, icmp (both families), any, or an IP protocol number
    ports                destination ports and ranges; empty means every port; only with tcp, udp
    icmp_types           names, or with proto 1 or 58 also numbers; empty means every type
    """

    id: str = field(check=check_name)
    source: str = field(key="from")
    destination: str = field(key="to")
    action: Action
    proto: str | int = field(default="any", check=check_protocol)
    ports: tuple[int | str, ...] = field(default=(), check=_check_ports)
    icmp_types: tuple[int | str, ...] = field(default=(), check=_check_icmp_types)

    def __post_init__(self) -> None:
        if self.ports and self.proto not in ("tcp", "udp", TCP, UDP):
            raise ValueError(f"rule {self.id}: ports need proto tcp or udp, not {self.proto}")
        if wrong := icmp.complaint(self.proto, self.icmp_types):
            raise ValueError(f"rule {self.id}: {wrong}")

    def protocols(self) -> frozenset[int] | None:
        """The IP protocol numbers it speaks of; None means every one."""
        if self.proto == "any":
            return None
        if self.proto == "icmp":
            return frozenset({ICMP, ICMPV6})
        if isinstance(self.proto, str):
            return frozenset({PROTOCOL_NUMBERS[self.proto]})
        return frozenset({self.proto})

    def port_ranges(self) -> tuple[tuple[int, int], ...]:
        """(first, last) pairs; empty means every port."""
        return tuple(parse_ports(port) for port in self.ports)

    def service_ranges(self, protocol: int) -> tuple[tuple[int, int], ...] | None:
        """(first, last) pairs of destination ports, or of ICMP types, that it names of PROTOCOL.

        None: it does not tell them apart. Empty: of this protocol there are none.
        """
        if self.icmp_types:
            meant = frozenset({protocol})
            types = {n for kind in self.icmp_types for _, n in icmp.types_of(kind, meant)}
            return tuple((n, n) for n in sorted(types))
        return self.port_ranges() or None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTest:
    """A claim that a policy must keep: a write that breaks one is refused."""

    source: str = field(key="from")
    destination: str = field(key="to")
    proto: str | int = field(default="any", check=check_protocol)
    port: int | None = field(default=None, check=_check_port)
    icmp_type: int | str | None = field(default=None, check=_check_icmp_type)
    expect: Action

    def __post_init__(self) -> None:
        kinds = () if self.icmp_type is None else (self.icmp_type,)
        if wrong := icmp.complaint(self.proto, kinds):
            raise ValueError(wrong)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota(Element):
    """How much may come out of the tunnel from one identity, on each node that it sends to.

    rate   in the long run: "10mbit" (bit, kbit, mbit, gbit; decimal)
    burst  at once, after a pause: "256kB" (B, kB, MB, KiB, MiB)
    """

    identity: str = field(check=check_name)
    rate: str = field(check=_check_rate)
    burst: str = field(check=_check_burst)

    @property
    def rate_bytes_s(self) -> int:
        return parse_rate(self.rate)

    @property
    def burst_bytes(self) -> int:
        return parse_burst(self.burst)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(Element):
    """Who may talk to whom.

    default  what happens to a packet between known identities that no rule matches
    quotas   at most one for an identity; whom it allows they limit, whom it denies they do not help
    groups   name to the identities (or resources) in it; a name has one meaning in a network
    """

    default: Action = field(default="deny")
    rules: tuple[Rule, ...] = field(default=())
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tests: tuple[PolicyTest, ...] = field(default=())
    quotas: tuple[Quota, ...] = field(default=())

    def __post_init__(self) -> None:
        if len({rule.id for rule in self.rules}) < len(self.rules):
            uses = Counter(rule.id for rule in self.rules)
            twice = sorted(name for name, count in uses.items() if count > 1)
            raise ValueError(f"want a different id for each rule, got twice: {', '.join(twice)}")
        limited = Counter(quota.identity for quota in self.quotas)
        if twice := sorted(name for name, count in limited.items() if count > 1):
            raise ValueError(f"want one quota for an identity, got two for: {', '.join(twice)}")

    def hashed(self) -> bytes:
        """The canonical form, but with the digest of each rule, quota and group in its place."""
        groups = {name: codec.digest(members) for name, members in self.groups.items()}
        return self._form(groups, outline(self.quotas), outline(self.rules)).encode("ascii")

    def _written(self) -> str:
        return self._form(self.groups, listed(self.quotas), listed(self.rules))

    def _form(self, groups: Mapping[str, object], quotas: str, rules: str) -> str:
        default, named, tests = (
            codec.canonical(part).decode("ascii") for part in (self.default, groups, self.tests)
        )
        return (
            f'{{"default":{default},"groups":{named},"quotas":{quotas},"rules":{rules},'
            f'"tests":{tests}}}'
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What policy says, and by which rule (None: the default, or no identity)."""

    verdict: Verdict
    rule: str | None = None

    @property
    def is_allowed(self) -> bool:
        return not self.verdict.is_drop


def decide(policy: Policy, flow: Flow) -> Decision:
    """What POLICY, as written, says about a new FLOW.

    Unknown ends are refused before any rule is read. Of several matching rules a deny wins; the
    one named is the first of the winning action in written order.
    """
    if flow.source == UNKNOWN:
        return Decision(verdict=Verdict.UNKNOWN_SOURCE)
    if flow.destination == UNKNOWN:
        return Decision(verdict=Verdict.UNKNOWN_DESTINATION)
    allowed_by: str | None = None
    for rule in policy.rules:
        if not _matches(policy, rule, flow):
            continue
        if rule.action == "deny":
            return Decision(verdict=Verdict.DENY_RULE, rule=rule.id)
        allowed_by = allowed_by or rule.id
    if allowed_by is not None:
        return Decision(verdict=Verdict.ALLOWED, rule=allowed_by)
    if policy.default == "allow":
        return Decision(verdict=Verdict.ALLOWED)
    return Decision(verdict=Verdict.NO_RULE)


def _matches(policy: Policy, rule: Rule, flow: Flow) -> bool:
    protocols = rule.protocols()
    if protocols is not None and flow.protocol not in protocols:
        return False
    ranges = rule.service_ranges(flow.protocol)
    asked = flow.port or flow.icmp_type or 0
    if ranges is not None and not any(first <= asked <= last for first, last in ranges):
        return False
    return is_named(policy, rule.source, flow.source) and is_named(
        policy, rule.destination, flow.destination
    )


def is_named(policy: Policy, selector: str, name: str) -> bool:
    """Does SELECTOR, as a rule writes it, mean the identity NAME?"""
    return selector == ANY or selector == name or name in policy.groups.get(selector, ())


def dangling_names(policy: Policy, known: frozenset[str]) -> Iterator[str]:
    """One line for each name in POLICY that is no identity, resource or group, with its path."""
    names = known | policy.groups.keys() | {WORLD, ANY}
    members = known | {WORLD}
    for group, content in policy.groups.items():
        for name in content:
            if name not in members:
                yield f"groups.{group}: no identity {name!r}{did_you_mean(name, members)}"
    used = {rule.source for rule in policy.rules} | {rule.destination for rule in policy.rules}
    is_dangling = not used <= names  # of ten thousand rules none is, most of the time
    for i, rule in enumerate(policy.rules if is_dangling else ()):
        for key, name in (("from", rule.source), ("to", rule.destination)):
            if name not in names:
                yield f"rules[{i}].{key}: nobody is called {name!r}{did_you_mean(name, names)}"
    for i, quota in enumerate(policy.quotas):
        if quota.identity not in known:
            close = did_you_mean(quota.identity, known)
            yield f"quotas[{i}].identity: no identity {quota.identity!r}{close}"
    for i, test in enumerate(policy.tests):
        for key, name in (("from", test.source), ("to", test.destination)):
            if name not in members:
                yield f"tests[{i}].{key}: nobody is called {name!r}{did_you_mean(name, members)}"


def broken_tests(policy: Policy, tests: tuple[PolicyTest, ...]) -> Iterator[str]:
    """One line for each of TESTS that POLICY does not keep, with its path and what decided."""
    for i, test in enumerate(tests):
        line = broken_test(policy, test)
        if line is not None:
            yield f"tests[{i}]: {line}"


def broken_test(policy: Policy, test: PolicyTest) -> str | None:
    """What is wanted, and what decided otherwise, if POLICY does not keep TEST; None if it does."""
    for flow in tested_flows(test):
        decision = decide(policy, flow)
        if decision.is_allowed != (test.expect == "allow"):
            by = f"rule {decision.rule}" if decision.rule else f"default {policy.default}"
            service = test.port if test.port is not None else test.icmp_type
            port = "" if service is None else f"/{service}"
            return (
                f"want {test.source} -> {test.destination} {test.proto}{port} "
                f"{test.expect}, got {decision.verdict.word} by {by}"
            )
    return None


def tested_flows(test: PolicyTest) -> list[Flow]:
    """The flows TEST speaks of: icmp is both families, any is every kind there is.

    Where it names no ICMP type, one that no rule names.
    """
    if test.proto == "any":
        numbers = [TCP, UDP, ICMP, ICMPV6, _OTHER_PROTOCOL]
    elif test.proto == "icmp":
        numbers = [ICMP, ICMPV6]
    else:
        numbers = [PROTOCOL_NUMBERS[test.proto] if isinstance(test.proto, str) else test.proto]
    types = {n: t for n, t in icmp.OTHER_TYPE.items() if n in numbers}
    if test.icmp_type is not None:
        types = dict(icmp.types_of(test.icmp_type, frozenset(types)))
        numbers = [*types]
    return [
        Flow(
            source=test.source,
            destination=test.destination,
            protocol=number,
            port=test.port if number in (TCP, UDP) else None,
            icmp_type=types.get(number),
        )
        for number in numbers
    ]
