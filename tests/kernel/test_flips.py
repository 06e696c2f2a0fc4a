"""The two switches and the policy, changed under 10,000 real packets a second of either
family."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from agent.datapath.compile import desired_state
from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from tests.kernel import packets as p
from tests.kernel.conftest import MARKS
from tests.kernel.device import TUN, Tun, fresh_network_namespace, sysctl
from tests.kernel.emptied import empty, zero_counters
from tests.unit.agent.datapath.configs import TAGS, node_config, rule
from ztlab.model.verdict import AuthzMode, Hook, Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

RATE = 10_000  # packets per second
SECONDS = 1.5
CHANGES = 8  # at least so many, however long that takes
EFFECT_S = 0.010
ADDRESSES = {4: (p.API, p.GUEST, p.WEB), 6: (p.API6, p.GUEST6, p.WEB6)}
WEB_OK = rule("web", "web", "api", "allow", proto="udp", ports=(9000,))
NO_GUEST = node_config(WEB_OK)
GUEST_TOO = node_config(WEB_OK, rule("guest", "guest", "api", "allow", proto="udp"))


@pytest.fixture(scope="module")
def l3(loader: str) -> Iterator[Datapath]:
    datapath = Datapath.load(marks=MARKS, limits=Limits(flows=4096), loader=loader)
    yield datapath
    datapath.close()


def _numbered(number: int) -> bytes:
    return struct.pack("!II", number, number ^ 0xFFFFFFFF)


class Wire:
    """Numbered packets come out of the tunnel, in turn from `guest` and from `web`; a socket says
    which arrived."""

    def __init__(self, tun: Tun, family: int) -> None:
        self._tun = tun
        api, *sources = ADDRESSES[family]
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        self._socket = socket.socket(kind, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
        self._socket.bind((api, 9000))
        self._socket.setblocking(False)
        # The number, and its complement: whatever it is, the checksum is that of zeros.
        self._frames = [p.udp(source, api, 1000, 9000, _numbered(0)) for source in sources]
        self.sent_at: list[float] = []
        self.gone_at: list[float] = []  # the sender may be held up in between

    def send_until(self, is_enough: Callable[[], bool], *, at_least_s: float) -> None:
        began = time.monotonic()
        while (now := time.monotonic()) - began < at_least_s or not is_enough():
            assert now - began < 5 * at_least_s, "this machine is too busy"
            due = int((now - began) * RATE)
            # After a pause not all at once: a receive queue has an end.
            for number in range(len(self.sent_at), min(due, len(self.sent_at) + 50)):
                self.sent_at.append(time.monotonic())
                head = self._frames[number % 2][: -len(_numbered(0))]
                self._tun.send(head + _numbered(number))
                self.gone_at.append(time.monotonic())

    def arrived(self) -> set[int]:
        found = set()
        while True:
            try:
                found.add(struct.unpack("!II", self._socket.recv(64))[0])
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=ADDRESSES)
def wire(l3: Datapath, request: pytest.FixtureRequest) -> Iterator[Wire]:
    family: int = request.param
    with fresh_network_namespace():
        # Of itself this end says nothing.
        sysctl("net.ipv6.conf.default.addr_gen_mode", "1")
        sysctl("net.ipv6.conf.default.router_solicitations", "0")
        for which in ("all", "default"):
            sysctl(f"net.ipv4.conf.{which}.rp_filter", "0")
        device = Tun(TUN, f"{ADDRESSES[family][0]}/{64 if family == 6 else 24}")
        l3.set_authz_mode(AuthzMode.ENFORCE)
        configure(l3, NO_GUEST)
        l3.attach(TUN)
        wire = Wire(device, family)
        yield wire
        l3.detach()
        wire.close()
        device.close()
    empty(l3, "flows")
    zero_counters(l3)


def configure(datapath: Datapath, config: object) -> None:
    state = desired_state(config)  # type: ignore[arg-type]
    for phase in (datapath.remove_identities, datapath.apply_policy, datapath.put_identities):
        phase(state)


def under_traffic(wire: Wire, change: object, pause_s: float) -> list[tuple[float, float, bool]]:
    """CHANGE(flag) again and again while packets come; (began, ended, flag) of each."""
    changes: list[tuple[float, float, bool]] = []
    stop = threading.Event()

    def flip() -> None:
        flag = False
        while not stop.wait(pause_s):
            flag = not flag
            began = time.monotonic()
            change(flag)  # type: ignore[operator]
            changes.append((began, time.monotonic(), flag))

    flipper = threading.Thread(target=flip)
    flipper.start()
    try:
        wire.send_until(lambda: len(changes) >= CHANGES, at_least_s=SECONDS)
    finally:
        stop.set()
        flipper.join()
    return changes


def check(
    wire: Wire, l3: Datapath, changes: list[tuple[float, float, bool]], reasons: set[Verdict]
) -> None:
    """Every packet of `web` arrived, and of `guest` exactly those that the state of the moment lets
    through; each packet is counted once, as one of REASONS or as let through."""
    arrived, sent = wire.arrived(), len(wire.sent_at)
    assert sent > RATE * SECONDS / 4, "this machine is too busy to send"
    assert {n for n in range(1, sent, 2)} <= arrived, "an allowed packet was lost"
    moments = [(0.0, 0.0, False), *changes, (float("inf"), float("inf"), False)]
    sure = 0
    for (_, ended, passes), (next_began, _, _) in pairwise(moments):
        for number in range(0, sent, 2):
            if ended + EFFECT_S < wire.sent_at[number] and wire.gone_at[number] < next_began:
                assert (number in arrived) == passes, (wire.sent_at[number] - ended, passes)
                sure += 1
    assert sure > sent / 20
    counted = {(c.tag, c.verdict): c.packets for c in l3.counters() if c.hook is Hook.INGRESS}
    assert sum(counted.values()) == sent
    drops = {verdict for _, verdict in counted if verdict.is_drop}
    assert drops == reasons
    lost = sum(n for (_, verdict), n in counted.items() if verdict.is_drop)
    assert sent - len(arrived) == lost == counted[TAGS["guest"], Verdict.NO_RULE]


def test_a_flip_of_the_mode_takes_effect_at_once_and_nothing_else_happens_to_a_packet(
    l3: Datapath, wire: Wire
) -> None:
    modes = (AuthzMode.ENFORCE, AuthzMode.OBSERVE)
    changes = under_traffic(wire, lambda observe: l3.set_authz_mode(modes[observe]), 0.04)
    check(wire, l3, changes, {Verdict.NO_RULE})


def test_a_policy_that_comes_and_goes_takes_effect_at_once(l3: Datapath, wire: Wire) -> None:
    configs = (NO_GUEST, GUEST_TOO)
    changes = under_traffic(wire, lambda allow: configure(l3, configs[allow]), 0.04)
    check(wire, l3, changes, {Verdict.NO_RULE})


def test_switching_the_log_is_not_noticed_by_any_packet(l3: Datapath, wire: Wire) -> None:
    changes = under_traffic(wire, lambda on: l3.set_logging(on, "packet"), 0.02)
    l3.set_logging(False)
    assert len(changes) >= CHANGES
    arrived, sent = wire.arrived(), len(wire.sent_at)
    assert arrived == set(range(1, sent, 2))
    assert l3.read_events(0)
