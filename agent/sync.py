"""The interface and the datapath of this node: made, changed step by step, watched, taken down.

One thread of its own does all of it, one call after the other; whoever asks waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from agent import handshakes, host, reconcile, removal
from agent import state as state_files
from agent.compiler import Compiler
from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from agent.datapath.marks import MarkLayout
from agent.datapath.pins import Pins
from agent.datapath.state import DatapathState
from agent.drift import drift
from agent.gate import Gate
from agent.hands import Hands
from agent.handshakes import Handshakes
from agent.health import Health
from agent.keys import NodeKey
from agent.owner import Owner, owned
from agent.reconcile import Desired, Observed, Step
from agent.settings import Settings
from agent.wireguard import preshared
from agent.wireguard.backend import Address, Backend, PeerSpec, WgPeer, WgState
from agent.wireguard.choose import open_backend
from agent.wireguard.links import FWMARK, Links
from agent.wireguard.preshared import PresharedKey
from ztlab.errors import HostUnfit, ZtError
from ztlab.model.config import NodeConfig
from ztlab.model.verdict import AuthzMode, Hook

log = logging.getLogger(__name__)


class Synchronizer:
    """Keeps one interface and one datapath equal to one configuration."""

    def __init__(
        self,
        settings: Settings,
        key: NodeKey,
        marks: MarkLayout,
        limits: Limits,
        pins: Pins | None = None,
    ) -> None:
        self._settings = settings
        self._pins = pins
        self._key = key
        self.compiled = Compiler(limits, marks).compiled
        self._interface = settings.wireguard.interface
        self._preshared = self._read_preshared()
        self.owner = Owner("sync")
        self._links = self.owner.run(Links)
        self._backend: Backend | None = None
        self._datapath: Datapath | None = None
        self._host = host.Surroundings(settings)
        self._handshakes = Handshakes(random.random)
        self._index: int | None = None  # another one: the interface was made anew by somebody
        self._config: NodeConfig | None = None
        self._applied: Desired | None = None
        self._compiled: DatapathState | None = None
        self._found = host.Found()  # of _config
        self._is_rebuilding = False
        self._gate = Gate(self._interface, marks, settings.authz_mode)
        self._health = Health(attached=dict.fromkeys(Hook, False), belt_installed=False, drift=0)
        self._is_closed = self._is_live = self._has_made_it = False

    # --- start and end ---

    @owned
    def open_interface(self, also_ours: frozenset[str] = frozenset()) -> None:
        """Make or adopt the interface, keyed but without peers of its own yet.

        also_ours  public keys it may have been left with while the key was being changed
        """
        host.check_marks(self._settings.datapath.mark_mask, self._links.mark_rules())
        self._has_made_it = self._links.kind(self._interface) is None
        backend = open_backend(self._settings.wireguard.backend, self._interface, self._links)
        found = backend.state()
        if found.public_key not in {"", self._key.public_key, *also_ours}:
            # Not taken over, and so not taken back either: it stays as it is.
            raise HostUnfit(
                f"{self._interface} has another private key: it is somebody else's",
                hint=f"set another [wireguard] interface, or `ip link delete {self._interface}`",
            )
        self._backend = backend
        self._index = self._links.index(self._interface)
        self._configure()
        if found.public_key in also_ours - {self._key.public_key}:
            self._make_anew(handshakes.as_they_are(found.peers))

    @owned
    def go_live(
        self, datapath: Datapath, mode: AuthzMode, *, logging_enabled: bool, last: NodeConfig | None
    ) -> None:
        """Attach DATAPATH, knowing whoever LAST names, then bring the interface up.

        The maps are filled before the programs are attached: adopting an interface whose peers are
        live must not drop what the predecessor let through.
        """
        self._datapath = datapath
        self._gate.open(datapath, mode)
        self.set_logging(enabled=logging_enabled)
        if last is not None:
            state = self.compiled(last)
            datapath.apply_policy(state)
            datapath.put_identities(state)
        self._bring_up()
        self._is_live = True
        self._look()

    def close(self, *, remove: bool = False) -> None:
        """Let go of everything; all stays in force, unless REMOVE, or a start that failed made the
        interface. Safe to repeat."""
        if not self._is_closed:
            self._let_go(remove or (self._has_made_it and not self._is_live))
            self.owner.stop()

    @owned
    def _let_go(self, remove: bool) -> None:
        self._is_closed = True
        self._gate.close()
        # Without a backend nothing was made, and what is there is somebody else's.
        if self._backend is not None and remove:
            removal.take_back(self._settings, self._links, self._backend, self._pins)
        if self._datapath is not None and self._is_live:
            self._datapath.close()
        elif self._datapath is not None:
            self._datapath.abandon()
        self._links.close()

    def _configure(self) -> None:
        self._wg.configure(
            private_key=self._key.private_key(),
            listen_port=self._settings.wireguard.listen_port,
            fwmark=FWMARK,
        )

    def _bring_up(self) -> None:
        self._dp.attach(self._interface)
        self._gate.fit_belt()
        wireguard = self._settings.wireguard
        self._links.set_up(self._interface, mtu=wireguard.mtu, listen_port=wireguard.listen_port)

    # --- one change ---

    def apply(self, config: NodeConfig) -> bool:
        """Make the node what CONFIG says; ZtError says why not, and then it is what it was.

        False where only the datapath had to change, and every peer is as it was.
        """
        # Never in the owner's thread: a slow resolver would hold up switches and repair.
        found = self._found.looked_up(config, self._coordinator_addresses())
        if self._apply_to_datapath(config, found):
            return False
        self._apply(config, found)
        return True

    @owned
    def _apply(self, config: NodeConfig, found: host.Found) -> None:
        if self._is_closed:
            raise ZtError("the agent is stopping")
        state = self.compiled(config)
        wanted = self._desired(config, found)
        try:
            self._read_back(config, state, self._carry_out(config, wanted, state))
        except Exception:
            self._go_back()
            raise
        self._config, self._applied = config, wanted
        self._compiled, self._found = state, found
        told = {key: str(peer.endpoint) for key, peer in wanted.peers.items() if peer.endpoint}
        state_files.write_json(self._settings.run_path / "endpoints.json", told)
        self._look()

    @owned
    def _apply_to_datapath(self, config: NodeConfig, found: host.Found) -> bool:
        """Apply CONFIG if it asks nothing new of the interface: most changes are of policy, and to
        read all routes back before packets meet it takes longer than all the rest. False where it
        does, or where peers and maps do not read back as they shall be."""
        last, before = self._config, self._compiled
        if self._is_closed or self._is_rebuilding or last is None or last.node != config.node:
            return False
        state = self.compiled(config)
        if before is None or self._applied is None or self._desired(config, found) != self._applied:
            return False
        try:
            self._fill(state)
            there = self._wg.state()
            is_whole = not any(self._read_back(config, state, there))
        except Exception:
            self._fill(before)  # it alone: nothing else was touched, or can be read, maybe
            raise
        if not is_whole or reconcile.astray(self._applied, there):
            return False  # it is what it was until all of it is done
        self._config, self._compiled, self._found = config, state, found
        return True

    def _fill(self, state: DatapathState) -> None:
        """Have packets judged by STATE."""
        hands = Hands(self._interface, self._dp, self._wg, self._links)
        for step in reconcile.DATAPATH:
            hands.do(step, state)

    def _desired(self, config: NodeConfig, found: host.Found) -> Desired:
        return reconcile.desired(
            config,
            endpoints=found.endpoints,
            coordinator=found.outside,
            own_key=self._key.public_key,
            preshared=self._preshared,
        )

    def _carry_out(self, config: NodeConfig, wanted: Desired, state: DatapathState) -> WgState:
        """Do what is to be done; the interface's peers, read back."""
        self._host.prepare(config, self._config, diverts=wanted.outside is not None)
        before = self._applied
        if self._config is None:  # the first: a predecessor's peers may roam as well as ours
            told = state_files.read_json(self._settings.run_path / "endpoints.json")
            before = reconcile.as_told(wanted, told if isinstance(told, dict) else {})
        hands = Hands(self._interface, self._dp, self._wg, self._links)
        for step in reconcile.plan(wanted, self._observed(), before=before):
            log.debug("%s", step)
            hands.do(step, state)
        there = self._wg.state()
        astray = reconcile.astray(wanted, there)
        if astray:
            raise ZtError(
                f"{self._interface} does not have what it was told: {len(astray)} peers differ",
                hint="does somebody else change it (wg, wg-quick)?",
            )
        return there

    def _go_back(self) -> None:
        """After a change that failed half-way: what was applied before, whole."""
        if self._config is None or self._applied is None:
            return
        before = self._applied
        self._applied = None  # nothing is known any more but what is read back
        try:
            self._carry_out(self._config, before, self.compiled(self._config))
        except Exception as error:
            log.error("the last good configuration does not come back either: %s", error)
        finally:
            self._applied = before

    def _coordinator_addresses(self) -> frozenset[Address]:
        coordinator = self._settings.coordinator
        urls = coordinator.urls if coordinator else ()
        return frozenset().union(*(host.addresses_of(url) for url in urls))

    # --- preshared keys ---

    def _read_preshared(self) -> Mapping[str, PresharedKey]:
        path = self._settings.wireguard.preshared_keys
        return preshared.load(Path(path)) if path else {}

    def reload_preshared(self) -> None:
        """Read their file again and give the peers what it says; ZtError, and all stays as it was,
        where it cannot be read or applied."""
        self._take_preshared(self._read_preshared())

    @owned
    def _take_preshared(self, found: Mapping[str, PresharedKey]) -> None:
        before, self._preshared = self._preshared, found
        try:
            if self._config is not None:
                self._apply(self._config, self._found)
        except Exception:
            self._preshared = before
            raise

    # --- the private key ---

    @owned
    def use_key(self, key: NodeKey) -> None:
        """Give the interface KEY. Sessions under the old one are void, and WireGuard alone would
        take seconds to notice under traffic: each peer is made anew, and begins with a handshake.
        """
        if self._is_closed:
            raise ZtError("the agent is stopping")
        self._key = key
        self._configure()
        self._make_anew(handshakes.as_they_are(self._wg.state().peers))
        self._handshakes.forget()

    # --- the local switches: they wait for no change that is being applied ---

    @property
    def authz_mode(self) -> AuthzMode:
        """What the programs do now."""
        return self._gate.mode

    def set_authz_mode(self, mode: AuthzMode) -> None:
        """Switch programs and belt, without a gap."""
        self._gate.set_mode(mode)

    def set_logging(self, *, enabled: bool) -> None:
        """Takes effect with the next packet."""
        settings = self._settings
        self._gate.set_logging(
            enabled, settings.log_granularity, denials_per_s=settings.log.denials_per_s
        )

    # --- watching ---

    @owned
    def repair(self) -> bool:
        """Put back what somebody removed, and count it; ZtError where that does not succeed.

        True where the agent still runs. Cheap: peers and maps are `check_drift`'s.
        """
        if self._is_closed:
            return False
        is_another = self._links.index(self._interface) != self._index
        if self._is_rebuilding or is_another or not self._wg.is_alive():
            self._rebuild()
            self._count_repair("interface")
        gone = self._dp.repair()
        if gone:
            words = ", ".join(hook.word for hook in gone)
            log.warning("the programs were removed from %s: attached again", words)
            self._count_repair("programs")
        if self._gate.repair_belt():
            log.warning("the belt was removed: installed again")
            self._count_repair("belt")
        if self._config is not None:
            self._repair_rest(self._config)
        self._look()
        return True

    def _repair_rest(self, config: NodeConfig) -> None:
        for what in self._host.repair(config, diverts=self._diverts):
            self._count_repair(what)
        if not self._links.is_up(self._interface):
            log.warning("%s was taken down: up again", self._interface)
            self._bring_up()
            self._apply(config, self._found)
            self._count_repair("link")

    @owned
    def check_drift(self) -> None:
        """Read interface and maps back, and apply the configuration again where they are not as it
        says; ZtError where they are not so even then."""
        config, wanted, state = self._config, self._applied, self._compiled
        if self._is_closed or self._is_rebuilding:
            return
        if config is None or wanted is None or state is None:
            return

        def astray() -> tuple[tuple[int, int], tuple[Step, ...]]:
            found = self._read_back(config, state, self._wg.state())
            steps = reconcile.plan(wanted, self._observed(), before=wanted)
            return found, tuple(step for step in steps if step not in reconcile.DATAPATH)

        found, steps = astray()
        if not any(found) and not steps:
            return
        if any(found):
            log.warning("%d prefixes and %d policy entries were changed: put back", *found)
        for step in steps:
            log.warning("to be done again on %s: %s", self._interface, step)
        # There is nothing to go back to, and to try would dial peers that moved where they were.
        self._carry_out(config, wanted, state)
        self._look()
        self._count_repair("drift")
        found, steps = astray()
        if any(found) or steps:
            raise ZtError(
                f"{found[0]} prefixes, {found[1]} policy entries and {len(steps)} more things of "
                f"{self._interface} are still astray"
            )

    def _read_back(
        self, config: NodeConfig, state: DatapathState, there: WgState
    ) -> tuple[int, int]:
        """(prefixes, policy entries) that peers, which are as they are THERE, and maps have
        otherwise than CONFIG, compiled to STATE, says."""
        identities, policy = self._dp.drift(state)
        found = self._dp.identities() if identities else state.identities
        prefixes = drift(config, state, there, found)
        self._health = replace(self._health, drift=prefixes, policy_drift=policy)
        return prefixes, policy

    def _count_repair(self, what: str) -> None:
        repairs = {**self._health.repairs, what: self._health.repairs.get(what, 0) + 1}
        self._health = replace(self._health, repairs=repairs)

    def _rebuild(self) -> None:
        if self._wg.is_alive() and self._wg.state().public_key not in ("", self._key.public_key):
            raise ZtError(f"{self._interface} was replaced by somebody else's, with another key")
        log.warning("%s is gone: made again", self._interface)
        self._is_rebuilding = True  # until all of it went well: half of it would never be finished
        self._applied = None
        self._wg.close()
        self._wg.open()
        self._index = self._links.index(self._interface)
        self._configure()
        self._handshakes.forget()
        self._bring_up()
        if self._config is not None:
            self._apply(self._config, self._found)
        self._is_rebuilding = False

    def resolve_again(self) -> None:
        """Dial the peers whose names did not resolve before, if they do now, and keep the
        coordinator outside the tunnel where it is now."""
        config, last = self._config, self._found
        if config is None:
            return
        found = last.completed(config, self._coordinator_addresses())
        if found != last:
            self._apply_still(config, found)

    @owned
    def _apply_still(self, config: NodeConfig, found: host.Found) -> None:
        """Apply CONFIG, unless a newer one came while its names were looked up."""
        if config is self._config:
            self._apply(config, found)

    @owned
    def hasten_handshakes(self) -> float | None:
        """Make late peers anew; in how many seconds to look again, None: nobody is awaited."""
        if self._applied is None or self._is_closed:
            return None
        now, peers = time.monotonic(), self._wg.state().peers
        late = self._handshakes.late(now, self._applied.peers.values(), peers)
        for peer in late:
            log.debug("first handshake with %s is late: making it anew", peer.endpoint)
        self._make_anew(late)
        return self._handshakes.look_in_s(now)

    def _make_anew(self, peers: Iterable[PeerSpec]) -> None:
        for peer in peers:
            self._wg.remove_peers((peer.public_key,))
            self._wg.set_peers((peer,))

    # --- what others may know ---

    @property
    def config(self) -> NodeConfig | None:
        """What is applied."""
        return self._config

    @property
    def backend_kind(self) -> str:
        """kernel or userspace."""
        return self._wg.kind

    @property
    def health(self) -> Health:
        """As of the last look, after each change of ours or of somebody else; the belt's count as
        of now."""
        gate = self._gate
        return replace(self._health, belt_installed=gate.is_belted, belt_drops=gate.belt_drops())

    @owned
    def peers(self) -> Mapping[str, WgPeer]:
        """The peers of the interface, read back; none while it cannot be read."""
        with contextlib.suppress(ZtError):
            return self._wg.state().peers
        return {}

    def _look(self) -> None:
        self._gate.look()
        self._health = replace(self._health, attached=self._dp.is_attached())

    def _observed(self) -> Observed:
        wg: WgState = self._wg.state()
        return Observed(
            wg=wg,
            addresses=self._links.addresses(self._interface),
            routes=self._links.routes(self._interface),
            outside=self._links.outside(self._interface),
        )

    @property
    def _diverts(self) -> bool:
        """Does a default route, or one that covers an endpoint, go into the tunnel?"""
        return self._applied is not None and self._applied.outside is not None

    @property
    def _wg(self) -> Backend:
        assert self._backend is not None, "open_interface comes first"
        return self._backend

    @property
    def _dp(self) -> Datapath:
        assert self._datapath is not None, "go_live comes first"
        return self._datapath
