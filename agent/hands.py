"""The steps of a change, done one by one to the interface and the datapath."""

from __future__ import annotations

from dataclasses import dataclass

from agent import reconcile
from agent.datapath.datapath import Datapath
from agent.datapath.state import DatapathState
from agent.reconcile import Step
from agent.wireguard.backend import Backend
from agent.wireguard.links import Links


@dataclass(frozen=True, slots=True)
class Hands:
    """What a step is done to."""

    interface: str
    datapath: Datapath
    wireguard: Backend
    links: Links

    def do(self, step: Step, state: DatapathState) -> None:
        """Carry out STEP; STATE is what the datapath shall come to."""
        match step:
            case reconcile.RemoveIdentities():
                self.datapath.remove_identities(state)
            case reconcile.ApplyPolicy():
                self.datapath.apply_policy(state)
            case reconcile.PutIdentities():
                self.datapath.put_identities(state)
            case reconcile.RemovePeers(public_keys):
                self.wireguard.remove_peers(public_keys)
            case reconcile.NarrowPeer(public_key, prefixes):
                self.wireguard.remove_prefixes(public_key, prefixes)
            case reconcile.SetPeers(peers):
                self.wireguard.set_peers(peers)
            case reconcile.RemoveAddress(prefix):
                self.links.remove_address(self.interface, prefix)
            case reconcile.AddAddress(prefix):
                self.links.add_address(self.interface, prefix)
            case reconcile.SetOutside(addresses):
                self.links.set_outside(self.interface, addresses)
            case reconcile.AddRoute(route):
                self.links.add_route(self.interface, route)
            case reconcile.RemoveRoute(route):
                self.links.remove_route(self.interface, route)
