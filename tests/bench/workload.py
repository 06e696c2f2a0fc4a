"""A network of any size, and flows in it that its policy allows."""

from __future__ import annotations

import random
from dataclasses import dataclass

from agent.datapath.compile import desired_state
from agent.datapath.limits import Limits
from agent.datapath.state import DatapathState
from tests.bench.generator import Tuple
from ztlab.model.config import Identity, NodeConfig, Self
from ztlab.model.policy import Policy, Rule

IDENTITIES = 10_000
FLOWS = 10_000
_SELF = "198.18.0.1"
_PORTS = range(1, 50_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A gateway's configuration, and what runs over it.

    config  every identity has one address; every rule allows one port from one to another identity
    flows   between identities, each allowed by a rule, each of another rule as long as there are
    limits  map sizes that just fit
    """

    config: NodeConfig
    flows: list[Tuple]
    limits: Limits

    def state(self) -> DatapathState:
        """What the maps should hold."""
        return desired_state(self.config, limits=self.limits)


def workload(
    rules: int,
    *,
    identities: int = IDENTITIES,
    flows: int = FLOWS,
    used: int | None = None,
    seed: int = 1,
) -> Workload:
    """RULES between pairs drawn at random, FLOWS among them; the same for the same SEED.

    used  how many of the rules, the first, the flows are spread over; None: all
    The first rules are the same however many follow, and so are flows that are spread over them.
    """
    used = used or rules
    dice = random.Random(seed)
    names = [f"i{number}" for number in range(identities)]
    made: dict[tuple[int, int, int], Rule] = {}
    while len(made) < rules:
        source, destination = dice.sample(range(identities), 2)
        port = dice.choice(_PORTS)
        made[source, destination, port] = Rule(
            id=f"r{len(made)}",
            source=names[source],
            destination=names[destination],
            proto="tcp",
            ports=(port,),
            action="allow",
        )
    allowed = list(made)[:used]
    random.Random(seed).shuffle(allowed)
    config = NodeConfig(
        version=1,
        network_id="2f1f0f5e-0000-4000-8000-000000000001",
        node=Self(
            node_id="2f1f0f5e-0000-4000-8000-000000000002",
            name="gateway",
            role="mesh",
            identity="self",
            addresses=(f"{_SELF}/32",),
        ),
        identities=(
            Identity(name="self", tag=2, prefixes=(f"{_SELF}/32",)),
            *(
                Identity(name=name, tag=number + 3, prefixes=(f"{address(number)}/32",))
                for number, name in enumerate(names)
            ),
        ),
        policy=Policy(default="deny", rules=tuple(made.values())),
    )
    return Workload(
        config=config,
        flows=[
            Tuple(address(source), address(destination), 40_000 + number // used, port)
            for number in range(flows)
            for source, destination, port in (allowed[number % used],)
        ],
        limits=Limits(
            ids=identities + 1, policy=max(rules, 1024), pairs=max(rules, 1024), rules=rules
        ),
    )


def address(identity: int) -> str:
    """The address of an identity, by its number from 0."""
    return f"10.{identity >> 16}.{identity >> 8 & 255}.{identity & 255}"
