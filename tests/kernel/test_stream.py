"""Logging and the two switches under a stream of packets: what is logged changes no verdict."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pytest

from tests.kernel import packets as p
from tests.kernel import testrun
from tests.kernel.conftest import ELSEWHERE, LOOPBACK, Node
from tests.kernel.emptied import empty, zero_counters
from tests.kernel.test_fragments import datagram, pieces
from tests.kernel.test_icmp_errors import error
from tests.unit.agent.datapath.configs import node_config, rule
from ztlab.model.config import NodeConfig
from ztlab.model.verdict import AuthzMode, Hook

pytestmark = [pytest.mark.root, pytest.mark.bpf]

LENGTH = 1000
POLICIES = (
    node_config(rule("web", "web", "api", "allow", proto="tcp"), role="gateway"),
    node_config(
        rule("udp", "*", "*", "allow", proto="udp"),
        rule("no-guest", "guest", "*", "deny"),
        role="gateway",
    ),
    node_config(rule("ping", "*", "*", "allow", proto="icmp"), default="allow", role="gateway"),
)
ENDS = (
    (p.WEB, p.API),
    (p.GUEST, p.API),
    (p.STRANGER, p.API),
    (p.WEB, p.LAN_HOST),
    (p.WEB, p.GUEST),
)
ENDS6 = ((p.WEB6, p.API6), (p.GUEST6, p.API6))


@dataclass(frozen=True)
class Sent:
    """One packet, and where it is seen."""

    hook: Hook
    ingress_ifindex: int
    packet: bytes


def packets(chance: random.Random) -> Iterator[Sent | AuthzMode | NodeConfig]:
    """LENGTH packets of few conversations, with flips and policies between them."""
    for _ in range(LENGTH):
        luck = chance.random()
        if luck < 0.02:
            yield chance.choice(list(AuthzMode))
        elif luck < 0.03:
            yield chance.choice(POLICIES)
        a, b = ends = chance.choice((*ENDS, *ENDS6))
        if chance.random() < 0.4:
            a, b = ends = b, a
        sport, dport = chance.randrange(1, 4), chance.randrange(1, 4)
        kinds = (
            [p.tcp(a, b, sport, dport, chance.choice(("S", "SA", "A", "FA", "R")))] * 4
            + [p.udp(a, b, sport, dport), p.echo_request(a, b, sport), p.echo_reply(a, b, sport)]
            + [p.other(a, b, chance.choice((47, 51, 132)))]
            + [error(a, b, p.tcp(b, a, dport, sport)), error(a, b, p.udp(b, a, dport, sport))]
            + pieces(ends, datagram(64, sport, dport), 24, id=chance.randrange(3))
        )
        packet = chance.choice(kinds)
        if chance.random() < 0.1:  # some byte is another
            at = chance.randrange(len(packet))
            packet = packet[:at] + bytes([chance.randrange(256)]) + packet[at + 1 :]
        hook = chance.choice((Hook.INGRESS, Hook.INGRESS, Hook.EGRESS))
        where = chance.choice((0, ELSEWHERE, LOOPBACK)) if hook is Hook.EGRESS else 0
        yield Sent(hook, where, packet)


def stream(
    node: Node,
    sent: Sequence[Sent | AuthzMode | NodeConfig],
    logging: tuple[bool, Literal["flow", "packet"]],
) -> tuple[list[bool], object, object]:
    """What passed of SENT; and the counters and the flows it left."""
    datapath = node.datapath
    empty(datapath, "flows", "frags")
    zero_counters(datapath)
    datapath.set_authz_mode(AuthzMode.ENFORCE)
    datapath.set_logging(*logging)
    node.configure(POLICIES[0])
    passed = []
    began = time.monotonic()
    for one in sent:
        if isinstance(one, AuthzMode):
            datapath.set_authz_mode(one)
        elif isinstance(one, NodeConfig):
            node.configure(one)
        else:
            outcome = testrun.run(
                datapath.programs[one.hook], one.packet, ingress_ifindex=one.ingress_ifindex
            )
            passed.append(outcome.retval == testrun.PASSED)
            assert outcome.data == one.packet
        if len(passed) % 200 == 0:
            datapath.read_events(0)
    assert time.monotonic() - began < 9, "a closed connection is forgotten after 10 s"
    flows = {
        bytes(key): (list(flow.packets), list(flow.bytes), flow.judged & 0xFF, flow.flags)
        for key, flow in node.flows().items()
    }
    while datapath.read_events(0):
        pass
    return passed, node.counted(), flows


@pytest.mark.parametrize("seed", [1, 2])
def test_the_stream_of_verdicts_is_the_same_whatever_is_logged(node: Node, seed: int) -> None:
    sent = list(packets(random.Random(seed)))
    off = stream(node, sent, (False, "flow"))
    assert stream(node, sent, (True, "flow")) == off
    assert stream(node, sent, (True, "packet")) == off
    passed, counted, flows = off
    assert 0.2 < sum(passed) / len(passed) < 0.9 and flows
    assert len({verdict for _, _, verdict in counted}) >= 8  # type: ignore[attr-defined]
