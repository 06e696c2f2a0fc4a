"""The real programs, loaded once; every test finds them as they were just after loading."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from agent import abi
from agent.datapath.compile import desired_state
from agent.datapath.datapath import Datapath
from agent.datapath.events import DatapathEvent
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from agent.datapath.state import DatapathState
from tests.kernel import testrun
from tests.kernel.emptied import empty, zero_counters
from ztlab.model.config import NodeConfig
from ztlab.model.verdict import AuthzMode, Hook, Verdict

MARKS = MarkLayout.from_mask(0xFF002000)
LOADERS = ("libbpf", "bcc")
LOOPBACK = 1  # stands for the WireGuard interface: the one interface every namespace has
ELSEWHERE = 4242  # an ifindex that is not the WireGuard interface's


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What became of one packet: `verdict` and the rest as the event says it."""

    passed: bool
    mark: int
    event: DatapathEvent

    @property
    def verdict(self) -> Verdict:
        return self.event.verdict


class Node:
    """One node's data plane, and packets through it."""

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath

    @staticmethod
    def datapath_state(config: NodeConfig) -> DatapathState:
        """What the maps should hold for CONFIG."""
        return desired_state(config)

    def configure(self, config: NodeConfig) -> None:
        """Apply CONFIG in its three phases."""
        state = desired_state(config)
        self.datapath.remove_identities(state)
        self.datapath.apply_policy(state)
        self.datapath.put_identities(state)

    def ingress(self, packet: bytes, *, mark: int = 0, gso: tuple[int, int] = (0, 0)) -> Passage:
        """PACKET comes out of the tunnel; GSO: its number and size of segments."""
        return self._pass(Hook.INGRESS, packet, mark=mark, gso=gso)

    def egress(self, packet: bytes) -> Passage:
        """This node sends PACKET into the tunnel."""
        return self._pass(Hook.EGRESS, packet)

    def from_lan(self, packet: bytes) -> Passage:
        """PACKET came from another interface and is about to enter the tunnel."""
        return self._pass(Hook.EGRESS, packet, ingress_ifindex=ELSEWHERE)

    def transit(self, packet: bytes) -> Passage:
        """PACKET came out of the tunnel and is about to enter it again."""
        return self._pass(Hook.EGRESS, packet, ingress_ifindex=LOOPBACK)

    def _pass(
        self,
        hook: Hook,
        packet: bytes,
        *,
        mark: int = 0,
        ingress_ifindex: int = 0,
        gso: tuple[int, int] = (0, 0),
    ) -> Passage:
        outcome = testrun.run(
            self.datapath.programs[hook],
            packet,
            mark=mark,
            ingress_ifindex=ingress_ifindex,
            ifindex=LOOPBACK,
            gso_segs=gso[0],
            gso_size=gso[1],
        )
        assert outcome.retval in (testrun.PASSED, testrun.DROPPED)
        assert outcome.data == packet, "a program changed the packet"
        (event,) = self.datapath.read_events(0)
        passed = outcome.retval == testrun.PASSED
        assert event.verdict.is_drop != passed, "verdict and action contradict each other"
        return Passage(passed=passed, mark=outcome.mark, event=event)

    def counted(self) -> dict[tuple[int, Hook, Verdict], tuple[int, int]]:
        """(tag, hook, verdict) to packets and bytes."""
        return {(c.tag, c.hook, c.verdict): (c.packets, c.bytes) for c in self.datapath.counters()}

    def flows(self) -> dict[abi.FlowKey, abi.Flow]:
        """The flow table."""
        return {
            abi.FlowKey.from_buffer_copy(key): abi.Flow.from_buffer_copy(value)
            for key, value in self.datapath._maps["zt_flows"].items().items()
        }

    def age_flows(self, seconds: float) -> None:
        """Let every flow have been idle for that much longer; the clock may wrap below zero."""
        older = {}
        for key, flow in self.flows().items():
            flow.last_ns -= int(seconds * 1e9)
            older[bytes(key)] = bytes(flow)
        self.datapath._maps["zt_flows"].put(older)

    def age_fragments(self, seconds: float) -> None:
        """Let every first fragment be that much older."""
        older = {}
        for key, value in self.datapath._maps["zt_frags"].items().items():
            fragment = abi.Frag.from_buffer_copy(value)
            fragment.created_ns -= int(seconds * 1e9)
            older[key] = bytes(fragment)
        self.datapath._maps["zt_frags"].put(older)

    def age_quotas(self, seconds: float) -> None:
        """Let every bucket have filled for that much longer."""
        older = {}
        for key, value in self.datapath._maps["zt_quotas"].items().items():
            quota = abi.Quota.from_buffer_copy(value)
            quota.full_at -= int(seconds * 1e9 * abi.QUOTA_FRACTION)
            older[key] = bytes(quota)
        self.datapath._maps["zt_quotas"].put(older)


@pytest.fixture(scope="session", params=LOADERS)
def loader(request: pytest.FixtureRequest) -> str:
    """Each of the two loaders in turn: whatever uses it, or `node`, runs under both."""
    return str(request.param)


@pytest.fixture(scope="session")
def loaded(loader: str) -> Iterator[Datapath]:
    datapath = Datapath.load(
        marks=MARKS, limits=Limits(), l3_offset=testrun.ETHERNET, loader=loader
    )
    yield datapath
    datapath.close()


@pytest.fixture
def node(loaded: Datapath) -> Iterator[Node]:
    """Enforcing, logging every packet, with empty maps."""
    loaded.set_authz_mode(AuthzMode.ENFORCE)
    loaded.set_logging(True, "packet")
    yield Node(loaded)
    empty(loaded, "ids", "nets", "pairs", "policy", "flows", "frags", "quotas", "names", "totals")
    zero_counters(loaded)
    while loaded.read_events(0):
        pass
