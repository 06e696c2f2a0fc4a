"""What a step does, one class per action; `ztlab.scenario.expect` has what it must show.

`from` is the node that acts, `to` a node, a host or an address. Exactly one of `tcp`, `udp` (a
port) and, for a probe, `icmp` says what is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal

from ztlab.model.codec import field
from ztlab.model.flow import ICMP, ICMPV6, TCP, UDP
from ztlab.model.policy import Action, PolicyTest, Quota, Rule
from ztlab.model.verdict import AuthzMode
from ztlab.scenario.expect import Expect

Family = Literal[4, 6]


def _check_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise ValueError(f"want a port from 1 to 65535, got {port}")


def _check_count(count: int) -> None:
    if not 1 <= count <= 1000:
        raise ValueError(f"want from 1 to 1000, got {count}")


def check_seconds(value: float) -> None:
    """More than no time, at most five minutes."""
    if not 0 < value <= 300:
        raise ValueError(f"want seconds, more than 0 and at most 300, got {value:g}")


def check_address(text: str) -> None:
    """A literal IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        raise ValueError(f"want an IP address, got {text!r}") from None


def _exactly_one(**given: Any) -> None:
    names = [name for name, value in given.items() if value]
    if len(names) != 1:
        found = " and ".join(names) or "none of them"
        raise ValueError(f"want exactly one of {', '.join(given)}, got {found}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an action is aimed at: TO, over one protocol, one port, one IP family."""

    to: str
    proto: Literal["tcp", "udp", "icmp"]
    port: int | None
    family: Family

    @property
    def protocol(self) -> int:
        """The IP protocol number."""
        if self.proto == "icmp":
            return ICMP if self.family == 4 else ICMPV6
        return TCP if self.proto == "tcp" else UDP

    def __str__(self) -> str:
        family = " over IPv6" if self.family == 6 else ""
        port = f"/{self.port}" if self.port else ""
        return f"{self.to} {self.proto}{port}{family}"


def _target(to: str, tcp: int | None, udp: int | None, family: Family) -> Target:
    if tcp:
        return Target(to=to, proto="tcp", port=tcp, family=family)
    return Target(to=to, proto="udp" if udp else "icmp", port=udp, family=family)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A real client in the node FROM, and what came back.

    count      so many messages on one socket; with TCP, so many connections one after the other
    timeout_s  how long to wait for each answer; by default 5 s where an answer is expected, else
               0.9 s, which is less than TCP's first retransmission: one SYN is one packet
    source     bind to this address first; by default the system chooses
    """

    source_node: str = field(key="from")
    to: str
    tcp: int | None = field(default=None, check=_check_port)
    udp: int | None = field(default=None, check=_check_port)
    icmp: bool = False
    family: Family = 4
    count: int = field(default=1, check=_check_count)
    timeout_s: float | None = field(default=None, check=check_seconds)
    source: str | None = field(default=None, check=check_address)

    def __post_init__(self) -> None:
        _exactly_one(tcp=self.tcp, udp=self.udp, icmp=self.icmp)

    @property
    def target(self) -> Target:
        return _target(self.to, self.tcp, self.udp, self.family)

    def __str__(self) -> str:
        times = f", {self.count} times" if self.count > 1 else ""
        return f"probe {self.source_node} -> {self.target}{times}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """iperf3 from FROM to TO on that port, whose listener steps aside meanwhile."""

    source_node: str = field(key="from")
    to: str
    tcp: int = field(check=_check_port)
    seconds: int = field(default=2, check=check_seconds)
    family: Family = 4

    @property
    def target(self) -> Target:
        return _target(self.to, self.tcp, None, self.family)

    def __str__(self) -> str:
        return f"transfer {self.source_node} -> {self.target}, {self.seconds} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """An echo conversation, 50 messages/s, that goes on until `stop_stream` or the end."""

    id: str
    source_node: str = field(key="from")
    to: str
    tcp: int | None = field(default=None, check=_check_port)
    udp: int | None = field(default=None, check=_check_port)
    family: Family = 4

    def __post_init__(self) -> None:
        _exactly_one(tcp=self.tcp, udp=self.udp)

    @property
    def target(self) -> Target:
        return _target(self.to, self.tcp, self.udp, self.family)

    def __str__(self) -> str:
        return f"stream {self.id}: {self.source_node} -> {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLocal:
    """`zt-agent set` in a node: its two local switches."""

    node: str
    authz_mode: AuthzMode | None = None
    logging_enabled: bool | None = None

    def __post_init__(self) -> None:
        if self.authz_mode is None and self.logging_enabled is None:
            raise ValueError("want authz_mode, logging_enabled or both, got neither")

    def __str__(self) -> str:
        parts = []
        if self.authz_mode is not None:
            parts.append(f"authz_mode {self.authz_mode.word}")
        if self.logging_enabled is not None:
            parts.append(f"logging {'on' if self.logging_enabled else 'off'}")
        return f"set {self.node}: {', '.join(parts)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """A whole new policy through the management API; `default` absent means as it is."""

    default: Action | None = None
    rules: tuple[Rule, ...]
    tests: tuple[PolicyTest, ...] = ()
    quotas: tuple[Quota, ...] = ()

    def __str__(self) -> str:
        default = f", default {self.default}" if self.default else ""
        return f"policy: {', '.join(rule.id for rule in self.rules) or 'no rules'}{default}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Other gateways are preferred to this one for what they offer as well; or not any more."""

    gateway: str
    is_drained: bool = True

    def __str__(self) -> str:
        return f"drain {self.gateway}{'' if self.is_drained else ' no longer'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forge:
    """Packets with another's inner source, put on FROM's tunnel interface by a raw socket.

    as_  a node whose address is stolen, or any address
    The packets bypass FROM's own egress program (PACKET_QDISC_BYPASS), so that it is not what
    stops them, and one packet sent the same way under FROM's true address must arrive.
    """

    source_node: str = field(key="from")
    as_: str = field(key="as")
    to: str
    tcp: int | None = field(default=None, check=_check_port)
    udp: int | None = field(default=None, check=_check_port)
    count: int = field(default=5, check=_check_count)
    family: Family = 4

    def __post_init__(self) -> None:
        _exactly_one(tcp=self.tcp, udp=self.udp)

    @property
    def target(self) -> Target:
        return _target(self.to, self.tcp, self.udp, self.family)

    def __str__(self) -> str:
        return f"forge {self.count} packets of {self.source_node} as {self.as_} -> {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """A command inside a node; a text is given to `sh -c`, a list is run as it stands."""

    node: str
    command: str | tuple[str, ...]
    timeout_s: float = field(default=30.0, check=check_seconds)

    @property
    def argv(self) -> tuple[str, ...]:
        if isinstance(self.command, str):
            return ("sh", "-c", self.command)
        return self.command

    def __str__(self) -> str:
        text = self.command if isinstance(self.command, str) else " ".join(self.command)
        return f"run on {self.node}: {text}"


Action_ = Probe | Transfer | Stream | SetLocal | PolicyChange | Drain | Forge | RunCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing done and what must then be true; without an action, only the latter."""

    name: str
    probe: Probe | None = None
    transfer: Transfer | None = None
    stream: Stream | None = None
    stop_stream: str | None = None
    set: SetLocal | None = None
    policy: PolicyChange | None = None
    drain: Drain | None = None
    forge: Forge | None = None
    run: RunCommand | None = None
    expect: Expect = field(default_factory=Expect)

    def __post_init__(self) -> None:
        given = [name for name in _ACTIONS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"want one action per step, got {' and '.join(given)}")
        if not given and self.expect == Expect():
            raise ValueError(f"want an action ({', '.join(_ACTIONS)}) or something to expect")

    @property
    def action(self) -> Action_ | str | None:
        """The one action; a text is the id of the stream to stop; None: only expectations."""
        for name in _ACTIONS:
            value: Action_ | str | None = getattr(self, name)
            if value is not None:
                return value
        return None

    def __str__(self) -> str:
        action = self.action
        if isinstance(action, str):
            return f"stop stream {action}"
        return str(action) if action is not None else "look"


_ACTIONS = ("probe", "transfer", "stream", "stop_stream", "set", "policy", "drain", "forge", "run")
