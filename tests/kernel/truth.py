"""The truth table of ARCHITECTURE.md in plain Python: what must become of each packet of a story.

What policy says is `ztlab.model.policy.decide()` of the policy as written; this adds what the table
says of flows, fragments, ICMP errors and modes. Nothing here knows the C code or compiled entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_network

from tests.kernel.reading import FIN, RST, Conversation, Piece, Reading, read
from ztlab.model.config import NodeConfig
from ztlab.model.flow import TCP, UDP, Flow
from ztlab.model.identity import UNKNOWN, WORLD
from ztlab.model.policy import Decision, Policy, decide
from ztlab.model.verdict import AuthzMode, Verdict

FRAGMENT_LIFE_S = 30
HOLES = 3
_SECOND = 16 * 10**9  # what buckets are measured in: sixteenths of a nanosecond, rounded down
_NO_MORE = Decision(verdict=Verdict.ALLOWED)


class Way(Enum):
    """Where a packet comes from, and thereby which program sees it."""

    TUNNEL = "tunnel"  # wg ingress
    LAN = "lan"  # wg egress, from another interface
    LOCAL = "local"  # wg egress, this node's own
    TRANSIT = "transit"  # wg egress, out of the tunnel and into it again


class Kind(Enum):
    """What an address is."""

    NONE, SELF, NODE, RESOURCE, VIA = range(5)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose address it is; name None: of no identity."""

    kind: Kind
    name: str | None


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a packet.

    rule                 the one that decided
    source, destination  names, "world" or "unknown"; None: not said where the packet is malformed
    packets, size        how many it is on the wire, and their bytes; None: not said where it is a
                         super-packet whose form is at fault
    """

    verdict: Verdict
    rule: str | None
    source: str | None
    destination: str | None
    packets: int | None
    size: int | None


@dataclass(slots=True)
class Entry:
    """A flow: who began it and how, what was said of it in which epoch, when it last went on."""

    talk: Conversation
    way: Way
    decision: Decision
    epoch: int
    last: float = 0.0
    finished: set[bool] = field(default_factory=set)  # True: who began it
    is_reset: bool = False

    @property
    def is_tombstone(self) -> bool:
        return self.decision.verdict.is_drop

    @property
    def is_closing(self) -> bool:
        return self.is_reset or len(self.finished) == 2

    def is_expired(self, now: float) -> bool:
        if self.talk.protocol == TCP:
            return now - self.last > (10 if self.is_closing else 3600)
        return now - self.last > (180 if self.talk.protocol == UDP else 30)

    def is_forward(self, talk: Conversation) -> bool:
        return talk.source == self.talk.source


@dataclass(slots=True)
class Whole:
    """A packet in fragments, of which the first was seen; units of 8 bytes."""

    first: Reading
    since: float
    units: set[int]
    total: int | None = None
    is_poisoned: bool = False

    def is_over(self, now: float) -> bool:
        return len(self.units) == self.total or now - self.since > FRAGMENT_LIFE_S

    def runs(self) -> int:
        """How many separate stretches are covered behind the one that the first begins."""
        return sum(unit - 1 not in self.units for unit in self.units if unit)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a program looked at the clock: in nanoseconds, at the earliest and at the latest.

    is_over  was the packet over its quota then? It says so where the time is not exact enough to
    """

    earliest: int = 0
    latest: int = 0
    is_over: bool = False

    @property
    def ticks(self) -> tuple[int, int]:
        """As buckets count."""
        return self.earliest * _SECOND // 10**9, self.latest * _SECOND // 10**9


NEVER = Moment()


@dataclass(slots=True)
class Bucket:
    """What a quota leaves an identity (bytes per second, and at once); full, where it never was
    used. While there is anything in it a packet passes, and may leave a debt.

    full_at  when it is full again, at the earliest and at the latest: as exact as the times are
    """

    rate: int
    burst: int
    full_at: tuple[int, int] = (0, 0)

    def is_empty(self, at: Moment) -> bool | None:
        """Is there nothing in it? None: it depends on when exactly that is."""
        depth, (early, late) = self.burst * _SECOND // self.rate, at.ticks
        if self.full_at[0] - late >= depth:
            return True
        return False if self.full_at[1] - early < depth else None

    def take(self, at: Moment, size: int) -> None:
        """SIZE bytes pass."""
        cost = size * _SECOND // self.rate
        early, late = map(max, self.full_at, at.ticks)
        self.full_at = early + cost, late + cost

    def elapse(self, seconds: float) -> None:
        early, late = self.full_at
        self.full_at = early - int(seconds * _SECOND), late - int(seconds * _SECOND)


class Truth:
    """One node, as the table has it. `pass_on` is the packet, `configure`, `set_mode` and `elapse`
    the rest of the world.

    flows  how many it has room for, where none is ever forgotten for another; None: enough
    """

    def __init__(self, config: NodeConfig, mode: AuthzMode, flows: int | None = None) -> None:
        self.mode, self.now = mode, 0.0
        self._room = flows
        self._buckets: dict[str, Bucket] = {}
        self._epoch = 1
        self._flows: dict[object, Entry] = {}
        self._wholes: dict[object, Whole] = {}
        self.configure(config)

    def configure(self, config: NodeConfig) -> None:
        self._config, self._epoch = config, self._epoch + 1
        self._is_client = config.node.role == "client"
        self._policy = config.policy or Policy()
        held = self._buckets
        self._buckets = {}
        for quota in self._policy.quotas:
            bucket = Bucket(quota.rate_bytes_s, quota.burst_bytes)
            was = held.get(quota.identity)
            is_same = was is not None and (was.rate, was.burst) == (bucket.rate, bucket.burst)
            self._buckets[quota.identity] = was if was and is_same else bucket
        self._prefixes = list(_prefixes(config))
        self._owners: dict[bytes, Owner] = {}

    def set_mode(self, mode: AuthzMode) -> None:
        if mode is AuthzMode.ENFORCE:
            self._epoch += 1
        self.mode = mode

    def elapse(self, seconds: float) -> None:
        self.now += seconds
        for bucket in self._buckets.values():
            bucket.elapse(seconds)

    def levels(self) -> dict[str, tuple[int, int]]:
        """When each bucket is full again, at the earliest and at the latest."""
        return {name: bucket.full_at for name, bucket in self._buckets.items()}

    def pass_on(
        self,
        way: Way,
        packet: bytes,
        gso: tuple[int, int] = (0, 0),
        at: Moment = NEVER,
    ) -> Fate:
        """What becomes of PACKET, and of what is remembered.

        gso  number and size of its segments; no number: as many as its payload makes
        """
        if way is Way.LAN and self._is_client:
            way = Way.LOCAL  # row 13: what it forwards counts as its own
        reading = read(packet, is_super=gso[1] > 0)
        on_wire = _on_wire(reading, len(packet), gso)
        if reading.fault is Verdict.MALFORMED:
            is_dropped = self.mode is AuthzMode.ENFORCE and way is not Way.TRANSIT
            verdict = Verdict.MALFORMED if is_dropped else Verdict.OBSERVED
            return Fate(verdict, None, None, None, *on_wire)
        assert reading.talk is not None
        source, destination = self._ends(way, reading.talk)
        self._bucket = self._buckets.get(source) if way is Way.TUNNEL else None
        self._at, self._size = at, on_wire[1] or 0
        decision = self._decision(way, reading, source)
        return Fate(decision.verdict, decision.rule, source, destination, *on_wire)

    # --- whose ---

    def _owner(self, address: bytes) -> Owner:
        if address not in self._owners:
            number, bits = int.from_bytes(address), len(address) * 8
            best, owner = -1, Owner(Kind.NONE, None)
            for width, base, length, candidate in self._prefixes:
                if width == bits and length > best and (number ^ base) >> (bits - length) == 0:
                    best, owner = length, candidate
            self._owners[address] = owner
        return self._owners[address]

    def _ends(self, way: Way, talk: Conversation) -> tuple[str, str]:
        """The names of both ends of a packet that goes this WAY."""
        source = self._owner(talk.source[0]).name or UNKNOWN
        destination = self._owner(talk.destination[0]).name or UNKNOWN
        if way is Way.LOCAL:
            source = UNKNOWN if self._is_client else self._config.node.identity
        elif way is Way.LAN and source == UNKNOWN:
            source = WORLD
        elif way is Way.TUNNEL and destination == UNKNOWN:
            destination = WORLD
        return source, destination

    def _is_stolen(self, way: Way, address: bytes) -> bool:
        """Row 11."""
        kind = self._owner(address).kind
        if way is Way.LAN:
            return kind in (Kind.SELF, Kind.NODE)
        return way is Way.TUNNEL and kind is Kind.SELF

    # --- judging ---

    def _judge(self, way: Way, talk: Conversation) -> Decision:
        """May a conversation that begins so be? Rows 3, 4, 9, 11 to 13."""
        source, destination = self._ends(way, talk)
        if self._is_client:
            return _NO_MORE if way is Way.LOCAL else Decision(verdict=Verdict.NOT_ESTABLISHED)
        if self._is_stolen(way, talk.source[0]):
            return Decision(verdict=Verdict.SPOOFED_SOURCE)
        if way is Way.LOCAL:
            is_nowhere = destination == UNKNOWN
            return Decision(verdict=Verdict.UNKNOWN_DESTINATION) if is_nowhere else _NO_MORE
        has_port = talk.protocol in (TCP, UDP)
        flow = Flow(
            source=source,
            destination=destination,
            protocol=talk.protocol,
            port=talk.destination[1] if has_port else None,
            icmp_type=talk.icmp_type,
        )
        return decide(self._policy, flow)

    def _decision(self, way: Way, reading: Reading, source: str) -> Decision:
        assert reading.talk is not None
        observed = Decision(verdict=Verdict.OBSERVED)
        if way is Way.TRANSIT:  # row 10
            return observed
        is_stolen = self._is_stolen(way, reading.talk.source[0])
        is_known = self._is_client or source != UNKNOWN
        fault = reading.fault
        if fault is None and reading.piece is not None:
            reading, fault = self._joined(way, reading, may_keep=is_known and not is_stolen)
        if self.mode is AuthzMode.ENFORCE and (fault or is_stolen):  # row 2
            if is_stolen:
                return Decision(verdict=Verdict.SPOOFED_SOURCE)
            if way is Way.LOCAL:
                return observed
            return Decision(verdict=fault if fault and is_known else Verdict.UNKNOWN_SOURCE)
        if fault or is_stolen:
            return observed
        if reading.quoted is not None:
            entry = self._complained_about(way, reading)
            if entry is not None:
                return self._quoting(way, reading.quoted, entry)
        entry = self._living(reading) if reading.is_tracked else None
        return self._follow(way, reading, entry)

    def _living(self, reading: Reading) -> Entry | None:
        assert reading.talk is not None
        entry = self._flows.get(reading.talk.key)
        if entry is None or entry.is_expired(self.now):
            return None
        if reading.is_syn:  # row 7, and a new connection where one is over or from the other end
            is_other = not entry.is_forward(reading.talk)
            if entry.is_tombstone or entry.is_closing or is_other:
                return None
        return entry

    def _follow(self, way: Way, reading: Reading, entry: Entry | None) -> Decision:
        """Rows 4 to 9, 12 and 13."""
        talk = reading.talk
        assert talk is not None
        opens = reading.opens
        if way is Way.LOCAL and talk.protocol == TCP and not reading.is_syn:
            opens = False  # row 9
        if self.mode is AuthzMode.OBSERVE:
            verdict = Verdict.ESTABLISHED
            if entry is None or entry.is_tombstone:
                verdict = Verdict.OBSERVED
            if entry is None and opens and self._has_room(talk):
                entry = self._open(way, talk, _NO_MORE, epoch=0)
            if entry is not None:
                if entry.is_tombstone:
                    entry.decision, entry.epoch = _NO_MORE, 0
                self._touch(entry, reading)
            return Decision(verdict=verdict)
        if entry is not None:
            decision = self._limited(self._judged(way, entry))
            if not decision.verdict.is_drop:
                self._touch(entry, reading)
            return decision
        decision = self._limited(self._judge(way, talk))
        if decision.verdict.is_drop:
            return decision
        if opens and not self._has_room(talk):
            return Decision(verdict=Verdict.MAP_FULL)
        if opens:
            self._touch(self._open(way, talk, decision, self._epoch), reading)
        return Decision(verdict=Verdict.OBSERVED) if way is Way.LOCAL else decision

    def _judged(self, way: Way, entry: Entry) -> Decision:
        """Rows 5 to 8."""
        if entry.epoch != self._epoch:
            entry.decision, entry.epoch = self._judge(entry.way, entry.talk), self._epoch
        if not entry.is_tombstone:
            return Decision(verdict=Verdict.ESTABLISHED, rule=entry.decision.rule)
        if entry.way is Way.LOCAL and way is Way.TUNNEL:
            return Decision(verdict=Verdict.UNKNOWN_SOURCE)
        return entry.decision

    def _limited(self, decision: Decision) -> Decision:
        """DECISION, or that the source's bucket is empty, where it lets the packet on."""
        if decision.verdict.is_drop or self._bucket is None:
            return decision
        is_empty = self._bucket.is_empty(self._at)
        if self._at.is_over if is_empty is None else is_empty:
            return Decision(verdict=Verdict.OVER_QUOTA, rule=decision.rule)
        self._bucket.take(self._at, self._size)
        return decision

    def _has_room(self, talk: Conversation) -> bool:
        return self._room is None or talk.key in self._flows or len(self._flows) < self._room

    def _open(self, way: Way, talk: Conversation, decision: Decision, epoch: int) -> Entry:
        entry = Entry(talk, way, decision, epoch)
        self._flows[talk.key] = entry
        return entry

    def _touch(self, entry: Entry, reading: Reading) -> None:
        assert reading.talk is not None
        entry.last = self.now
        if reading.tcp_flags & FIN:
            entry.finished.add(entry.is_forward(reading.talk))
        entry.is_reset |= bool(reading.tcp_flags & RST)

    # --- ICMP errors: row 14 ---

    def _complained_about(self, way: Way, reading: Reading) -> Entry | None:
        quoted, talk = reading.quoted, reading.talk
        assert quoted is not None and talk is not None
        entry = self._flows.get(quoted.key)
        if way is Way.LOCAL or entry is None or entry.is_expired(self.now):
            return None
        if talk.destination[0] != quoted.source[0]:  # its receiver did not send that
            return None
        is_to_node = self._owner(quoted.destination[0]).kind is Kind.NODE
        is_forward = entry.is_forward(quoted)
        # Where did the quoted packet go? What came out of the tunnel went to this node or behind
        # it, or to another node, into the tunnel again; its answers, and all else, went in.
        went_in = is_forward
        if entry.way is Way.TUNNEL:
            went_in = not is_forward or is_to_node
        if way is Way.TUNNEL:
            is_receiver = talk.source[0] == quoted.destination[0]
            return entry if went_in and (is_receiver or not is_to_node) else None
        return entry if not went_in and entry.way is not Way.LOCAL else None

    def _quoting(self, way: Way, quoted: Conversation, entry: Entry) -> Decision:
        if self.mode is AuthzMode.OBSERVE:
            return Decision(verdict=Verdict.ESTABLISHED)
        return self._limited(self._judged(way, entry))

    # --- fragments: row 15 ---

    def _joined(
        self, way: Way, reading: Reading, *, may_keep: bool
    ) -> tuple[Reading, Verdict | None]:
        """READING with what its first fragment says, and what is wrong with it."""
        piece, talk = reading.piece, reading.talk
        assert piece is not None and talk is not None
        if not may_keep or reading.quoted is not None:
            return reading, Verdict.FRAGMENT if piece.start else None
        protocol = talk.protocol if len(talk.source[0]) == 4 else None
        key = (way, talk.source[0], talk.destination[0], piece.id, protocol)
        whole = self._wholes.get(key)
        if whole is not None and whole.is_over(self.now):
            whole = None
        units = set(range(piece.start // 8, (piece.end + 7) // 8))
        if piece.start == 0:
            if whole is not None:
                whole.is_poisoned = True
                return reading, Verdict.FRAGMENT
            self._wholes[key] = Whole(reading, self.now, units)
            return reading, None
        if whole is None or not _takes(whole, units, piece):
            return reading, Verdict.FRAGMENT
        later = Reading(talk=whole.first.talk, is_tracked=whole.first.is_tracked, piece=piece)
        return later, None


def _on_wire(reading: Reading, length: int, gso: tuple[int, int]) -> tuple[int | None, int | None]:
    """How many packets LENGTH bytes are on the wire, and how many bytes they have there: each has
    the headers."""
    number, size = gso
    if (number or size) and reading.fault is not None:
        return None, None
    if not number and size:
        number = (length - reading.headers + size - 1) // size
    number = max(number, 1)
    return number, length + (number - 1) * reading.headers


def _takes(whole: Whole, units: set[int], piece: Piece) -> bool:
    """Add a later piece; False where it is out of place."""
    end = max(units) + 1
    overlaps = bool(whole.units & units)
    if piece.is_last:
        overlaps |= whole.total is not None or max(whole.units) >= end
    elif whole.total is not None:
        overlaps |= end > whole.total
    whole.is_poisoned |= overlaps and not whole.is_poisoned
    if whole.is_poisoned:
        return False
    grown = Whole(whole.first, whole.since, whole.units | units)
    if grown.runs() > HOLES:
        return False
    whole.units = grown.units
    if piece.is_last:
        whole.total = end
    return True


def _prefixes(config: NodeConfig) -> Iterator[tuple[int, int, int, Owner]]:
    """(bits of the family, address, length, whose); of one prefix the first holds."""
    if config.node.role == "client":
        return
    found: list[tuple[str, Owner]] = []
    own = config.node.identity
    found += [(prefix, Owner(Kind.SELF, own)) for prefix in config.node.addresses]
    for identity in config.identities:
        found += [(prefix, Owner(Kind.NODE, identity.name)) for prefix in identity.prefixes]
    for resource in config.resources:
        found.append((resource.cidr, Owner(Kind.RESOURCE, resource.name)))
    for resource in config.resources:
        found += [(prefix, Owner(Kind.VIA, None)) for prefix in resource.via]
    for prefix, owner in found:
        network = ip_network(prefix)
        bits = network.max_prefixlen
        yield bits, int(network.network_address), network.prefixlen, owner
