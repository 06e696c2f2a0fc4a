"""The kernel program and `decide()` agree: random policies, random packets."""

from __future__ import annotations

import random

import pytest

from tests.kernel import packets as p
from tests.kernel import testrun
from tests.kernel.conftest import Node
from tests.unit.agent.datapath.configs import node_config, rule
from ztlab.model.flow import ICMP, ICMPV6, TCP, UDP, Flow
from ztlab.model.policy import Rule, decide
from ztlab.model.verdict import Hook

pytestmark = [pytest.mark.root, pytest.mark.bpf]

GROUPS = {"staff": ("web", "api"), "outside": ("world", "guest", "lan")}
SELECTORS = ("web", "api", "guest", "lan", "printer", "world", "staff", "outside", "*")
SOURCES = {
    "web": (p.WEB, p.WEB6),
    "guest": (p.GUEST, p.GUEST6),
    "unknown": (p.STRANGER, p.STRANGER6),
}
DESTINATIONS = {
    "api": (p.API, p.API6),
    "web": (p.WEB, p.WEB6),
    "lan": (p.LAN_HOST,),
    "printer": (p.PRINTER,),
    "world": (p.WORLD_HOST, p.WORLD_HOST6),
}
PORTS = (0, 1, 53, 8079, 8080, 8081, 9000, 9999, 10000, 32768, 65535)
POLICIES, PACKETS = 60, 60


def random_rules(chance: random.Random) -> tuple[Rule, ...]:
    rules = []
    for i in range(chance.randrange(8)):
        proto = chance.choice(("any", "tcp", "udp", "icmp", 47))
        ports: list[int | str] = []
        if proto in ("tcp", "udp"):
            for _ in range(chance.randrange(3)):
                first, last = sorted(chance.choices(PORTS, k=2))
                ports.append(f"{first}-{last}")
        rules.append(
            rule(
                f"r{i}",
                chance.choice(SELECTORS),
                chance.choice(SELECTORS),
                chance.choice(("allow", "deny")),
                proto=proto,
                ports=tuple(ports),
            )
        )
    return tuple(rules)


def random_packet(chance: random.Random) -> tuple[bytes, Flow]:
    source, destination = chance.choice(list(SOURCES)), chance.choice(list(DESTINATIONS))
    family = chance.randrange(len(DESTINATIONS[destination]))
    ends = SOURCES[source][family], DESTINATIONS[destination][family]
    protocol = chance.choice((TCP, UDP, ICMPV6 if family else ICMP, 47, 132))
    port = chance.choice((*PORTS, chance.randrange(65536)))
    sport = chance.randrange(1, 65536)
    if protocol == TCP:
        packet = p.tcp(*ends, sport, port, chance.choice(("S", "A", "SA")))
    elif protocol == UDP:
        packet = p.udp(*ends, sport, port)
    elif protocol in (ICMP, ICMPV6):
        packet = p.echo_request(*ends, id=sport)
    else:
        packet = p.other(*ends, protocol)
    flow = Flow(
        source=source,
        destination=destination,
        protocol=protocol,
        port=port if protocol in (TCP, UDP) else None,
    )
    return packet, flow


def test_the_program_says_of_every_new_packet_what_decide_says(node: Node) -> None:
    chance = random.Random(20240229)
    verdicts = set()
    for _ in range(POLICIES):
        config = node_config(
            *random_rules(chance), default=chance.choice(("allow", "deny")), groups=GROUPS
        )
        assert config.policy is not None
        node.configure(config)
        sent = [random_packet(chance) for _ in range(PACKETS)]
        flows = node.datapath._maps["zt_flows"]
        for packet, _ in sent:
            testrun.run(node.datapath.programs[Hook.INGRESS], packet)
            flows.delete(flows.items())  # each one is new
        events = node.datapath.read_events(0)
        assert len(events) == len(sent)
        for event, (_, flow) in zip(events, sent, strict=True):
            wanted = decide(config.policy, flow)
            assert (event.verdict, event.rule) == (wanted.verdict, wanted.rule), (config, flow)
            verdicts.add(event.verdict)
    assert len(verdicts) == 4, "not every verdict came up"
