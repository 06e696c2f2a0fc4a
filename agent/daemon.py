"""The agent: every part in its thread, started in order and stopped in the reverse.

main       signals; starts and stops everything else
load       compiles and loads the programs, while this is imported, the interface is made, and the
           node enrols (agent/loading.py)
watch      repairs what somebody removed, when the kernel tells of it (else within 10 s); reads
           peers and maps back (30 s); makes late peers anew (agent/handshakes.py)
names      looks up again what did not resolve (30 s); apart, since a resolver may be slow
session    talks to the coordinator and applies what it sends
flowlog    reads the ring;  flowsweep  goes through the flows (10 s);  logpush  pushes batches
control    accepts on the control socket; a thread per connection
metrics    serves /metrics; a thread per scrape
"""

from __future__ import annotations

import importlib
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agent import standalone, state
from agent.applied import Applied, LastGood
from agent.events import Names
from agent.keyfiles import KeyFiles
from agent.keys import NodeKey
from agent.ledger import Ledger
from agent.loading import Loading
from agent.settings import LocalSwitches, Settings
from agent.status import in_one_line, status
from agent.sync import Synchronizer
from agent.watch import HostWatch
from ztlab.errors import ZtError
from ztlab.model import codec
from ztlab.model.config import NodeConfig, Revision
from ztlab.model.logbatch import MAX_EVENTS
from ztlab.model.verdict import AuthzMode
from ztlab.notify import Notifier

if TYPE_CHECKING:  # imported by who makes them, while the kernel verifies the programs
    from agent.metrics import Snapshot
    from agent.rotation import Rotation
    from agent.session import Session
    from agent.sinks import Sink

log = logging.getLogger(__name__)
T = TypeVar("T")

WATCH_S = 1.0
LOOK_S = 10.0  # between looks at the host that nothing called for
DRIFT_S = 30.0  # between readings of all peers and maps
RESOLVE_S = 30.0


class Agent:
    """One node's data plane."""

    def __init__(
        self,
        settings: Settings,
        standalone_path: Path | None,
        notifier: Notifier,
        programs: Loading,
    ) -> None:
        self.settings = settings
        self.programs = programs
        self._notifier = notifier
        state.private_directory(settings.state_path)
        self.switches = LocalSwitches(settings)
        self._key_files = KeyFiles(settings.state_path)
        self.key = self._key_files.current
        self.last_good = LastGood(settings.state_path / "config.json")
        self.names = Names()
        self.applies = {"applied": 0, "refused": 0}
        self.last_refusal: str | None = None
        self.sync = Synchronizer(settings, self.key, programs.marks, programs.limits, programs.pins)
        self._ledger = Ledger(settings.run_path / "log.counts")
        self._standalone_path = standalone_path
        self._apply_lock, self._switch_lock = threading.Lock(), threading.Lock()
        self._live, self._stopping = threading.Event(), threading.Event()
        self._look_now = threading.Event()
        self._host = HostWatch(settings.wireguard.interface)
        self._shall_reload = False
        self._watch = threading.Thread(target=self._watch_over, name="watch", daemon=True)
        self._undo: list[Callable[[], object]] = [self._ledger.close, self._host.close]
        self.session: Session | None = None
        self.rotation: Rotation | None = None
        self.sink: Sink | None = None

    @property
    def version(self) -> str:
        """Of this software, as installed."""
        from importlib.metadata import version  # as slow as a letter's parser, which it is

        return version("ztlab")

    def _session(self) -> Session | None:
        if self.settings.coordinator is None:
            return None
        from agent.session import Session

        return Session(
            self.settings,
            self.settings.coordinator,
            self.key,
            apply=self._apply_pushed,
            confirm=self._confirm,
            have=lambda: self.last_good.current.config if self.last_good.current else None,
            dice=random.random,
        )

    def _rotation(self, session: Session) -> Rotation:
        from agent.rotation import Rotation

        return Rotation(self._key_files, ask=session.ask, use=self._use_key)

    # --- start and end ---

    def start(self, stop: threading.Event) -> None:
        """Up to a state in which everything configured is enforced, or STOP is set."""
        first = self._first_configuration()
        self.sync.open_interface(self._key_files.public_keys)
        if self._standalone_path is None:
            self.session = self._session()
            self.rotation = self._rotation(self.session) if self.session else None
        _import_services()
        if self.session is not None and first is None:
            # Nothing to apply first: enrolment takes as long as loading, and needs no datapath.
            self._begin(self.session)
        self.datapath = self.programs.take()
        if stop.is_set():
            self.datapath.abandon()
            return
        switches = self.switches.current
        self.sync.go_live(
            self.datapath,
            switches.authz_mode,
            logging_enabled=switches.logging_enabled,
            last=first.config if first else None,
        )
        if first is not None:
            self._apply_first(first)
        self._start_services()
        self._live.set()
        self._notifier.ready(in_one_line(self))
        if self.session is not None and first is not None:
            self._begin(self.session)
        if self.rotation is not None:
            self.rotation.start()
            self._undo.append(self.rotation.stop)
        log.info("ready: %s, client ID %s", self.settings.name, self.key.client_id)

    def _first_configuration(self) -> Applied | None:
        """What to apply before anybody is asked: the file, or what was applied last."""
        if self._standalone_path is not None:
            config = standalone.load(self._standalone_path)
            revision = Revision(epoch=standalone.EPOCH, number=1)
            return Applied(revision=revision, config=config)
        last = self.last_good.load()
        if last is not None:
            try:
                self.sync.compiled(last.config)
            except ZtError as error:
                log.warning("the last good configuration does not fit any more: %s", error)
                return None
        return last

    def _apply_first(self, first: Applied) -> None:
        try:
            self._apply(first, on_disk=False)
        except ZtError as error:
            if self._standalone_path is not None:
                raise
            log.warning("the last good configuration is not applied: %s", error)

    def _begin(self, session: Session) -> None:
        session.start()
        self._undo.append(session.stop)

    def _start_services(self) -> None:
        from agent import sinks
        from agent.control_server import ControlServer
        from agent.feed import DatapathFeed
        from agent.flowlog import EventBuffer, FlowLog
        from agent.metrics import MetricsServer

        self.feed = DatapathFeed(self.datapath, self.names)
        log_settings = self.settings.log
        self.sink = sinks.sink(self)
        last = self.datapath.replaced_log
        if last is not None:
            self._ledger.begin(account=last.account, consumed=last.consumed)
            self._ledger.update(lambda: (last.emitted + last.ring_full, last.ring_full))
        self._ledger.begin(
            account=self.datapath.log_account, consumed=self.datapath.consumed_events
        )
        buffer = EventBuffer(
            self._ledger,
            capacity=log_settings.buffer_bytes,
            flush_at=int(log_settings.buffer_bytes * log_settings.flush_share),
            flush_after_s=log_settings.flush_after_s,
            batch_events=self.sink.batch_events if self.sink else MAX_EVENTS,
        )
        self.flowlog = FlowLog(
            self._ledger,
            buffer,
            read=self.feed.read,
            emitted=self.feed.emitted,
            push=self.sink.push if self.sink else None,
            is_ready=lambda: self.sink is not None and self.sink.is_ready,
            sweep=self.feed.flow_records,
            sweep_s=log_settings.flow_records_s,
        )
        self.flowlog.start()
        self._undo.append(self.flowlog.stop)
        if self.sink is not None:
            self._undo.append(self.sink.stop)
        self._watch.start()
        self._undo.append(self._watch.join)
        threading.Thread(target=self._look_up_names, name="names", daemon=True).start()
        metrics = MetricsServer(self.settings.metrics.listen, self._snapshot)
        self._undo.append(metrics.stop)
        control = ControlServer(
            self.settings.socket_path,
            {
                "status": lambda _: status(self),
                "apply": self._apply_by_hand,
                "set-authz-mode": self._set_authz_mode,
                "set-logging": self._set_logging,
                "rotate-key": self._rotate_key,
                "rotation": lambda _: codec.encode(self._rotating().status),
            },
            subscribe=self.flowlog.subscribe,
            unsubscribe=self.flowlog.unsubscribe,
        )
        control.start()
        self._undo.append(control.stop)

    def stop(self, *, remove: bool = False) -> None:
        """End every part, last first; what fails is logged, and the rest still ended.

        What is in force on the host stays so, unless REMOVE.
        """
        self._undo.insert(1, lambda: self.sync.close(remove=remove))
        stays = self._live.is_set() and not remove
        self._stopping.set()
        self._host.wake()
        while self._undo:
            try:
                self._undo.pop()()
            except Exception:
                log.exception("not everything could be ended")
        if stays:
            log.info("stopped; what is in force stays in force (`zt-agent remove` takes it back)")

    def reload_soon(self) -> None:
        """Have the watch read the preshared keys again. Safe in a signal handler, which must not
        take a lock that the thread it interrupts may hold."""
        self._shall_reload = True
        self._host.wake()

    def _reload(self) -> None:
        self._shall_reload = False
        try:
            self.sync.reload_preshared()
            log.info("the preshared keys were read again")
        except ZtError as error:
            log.error("the preshared keys stay as they were: %s", error)

    def _watch_over(self) -> None:
        look_at, read_at = 0.0, time.monotonic() + DRIFT_S
        hasten_in_s: float | None = 0.0
        while not self._stopping.is_set():
            is_concerned = self._host.wait(WATCH_S if hasten_in_s is None else hasten_in_s)
            if self._shall_reload:
                self._reload()
            now = time.monotonic()
            if is_concerned or now >= look_at:
                is_whole = self._attempt(self.sync.repair)
                look_at = now + (LOOK_S if is_whole else WATCH_S)
            if now >= read_at:
                self._attempt(self.sync.check_drift)
                read_at = now + DRIFT_S
            if hasten_in_s is not None or is_concerned or self._look_now.is_set():
                self._look_now.clear()
                hasten_in_s = self._attempt(self.sync.hasten_handshakes)
            self._notifier.alive()
            self._notifier.status(in_one_line(self))

    def _look_up_names(self) -> None:
        while not self._stopping.wait(RESOLVE_S):
            self._attempt(self.sync.resolve_again)

    def _attempt(self, what: Callable[[], T]) -> T | None:
        """Do WHAT; a failure is logged, and the next second is another chance."""
        try:
            return what()
        except ZtError as error:
            log.warning("not repaired yet: %s", error)
        except Exception:
            log.exception("the watch failed on a bug; it goes on")
        return None

    # --- configurations ---

    def _apply_pushed(self, revision: Revision, config: NodeConfig) -> None:
        while not self._live.wait(0.1):
            if self._stopping.is_set():
                raise ZtError("the agent is stopping")
        self._apply(Applied(revision=revision, config=config), on_disk=True)

    def _confirm(self, revision: Revision, digest: str) -> None:
        self.last_good.confirm(revision, digest)

    def _apply_by_hand(self, request: Mapping[str, Any]) -> Any:
        if self.session is not None:
            raise ZtError(
                "this node gets its configuration from its coordinator",
                hint="`apply` is for `zt-agent run --standalone`",
            )
        config = codec.decode(NodeConfig, request.get("config"))
        current = self.last_good.current
        revision = Revision(
            epoch=standalone.EPOCH, number=current.revision.number + 1 if current else 1
        )
        self._apply(Applied(revision=revision, config=config), on_disk=False)
        return codec.encode(revision)

    def _apply(self, wanted: Applied, *, on_disk: bool) -> None:
        with self._apply_lock:
            try:
                self.last_good.check(wanted.revision)
                self.names.learn(wanted.config, self.sync.compiled(wanted.config))
                has_new_peers = self.sync.apply(wanted.config)
            except Exception as error:
                self.applies["refused"] += 1
                self.last_refusal = str(error)
                current = self.last_good.current
                if current is not None:
                    self.names.learn(current.config, self.sync.compiled(current.config))
                raise
            self.last_good.store(wanted, on_disk=on_disk)
            self.applies["applied"] += 1
            self.last_refusal = None
            if has_new_peers:  # whose first handshakes may be late
                self._look_now.set()
                self._host.wake()
            log.info(
                "revision %d of %s applied: %d peers",
                wanted.revision.number,
                wanted.revision.epoch,
                len(wanted.config.peers),
            )

    # --- the local switches ---

    def _set_authz_mode(self, request: Mapping[str, Any]) -> Any:
        try:
            mode = AuthzMode[str(request.get("mode")).upper()]
        except KeyError:
            raise ZtError(f"want observe or enforce, got {request.get('mode')!r}") from None
        # On file first: a switch that a restart would undo is not thrown at all.
        with self._switch_lock:
            self.switches.set_authz_mode(mode)
            try:
                self.sync.set_authz_mode(mode)
            except Exception:
                self.switches.set_authz_mode(self.sync.authz_mode)
                raise
        log.info("authz_mode is %s", mode.word)
        return None

    def _set_logging(self, request: Mapping[str, Any]) -> Any:
        enabled = request.get("enabled")
        if not isinstance(enabled, bool):
            raise ZtError(f"want true or false, got {enabled!r}")
        with self._switch_lock:
            self.switches.set_logging(enabled)
            self.sync.set_logging(enabled=enabled)
        log.info("logging is %s", "on" if enabled else "off")
        return None

    # --- the key ---

    def _rotate_key(self, request: Mapping[str, Any]) -> Any:
        from agent.rotation import WAIT_S

        wait_s = request.get("wait_s", WAIT_S)
        if not isinstance(wait_s, int) or isinstance(wait_s, bool):
            raise ZtError(f"want a number of seconds, got {wait_s!r}")
        rotation = self._rotating()
        there, current = self.sync.peers(), self.last_good.current
        peers = current.config.peers if current else ()
        named = [p.name for p in peers if (w := there.get(p.public_key)) and w.preshared_key]
        if named:
            raise ZtError(
                "preshared keys are named by public keys: under a new one the tunnel with "
                f"{', '.join(named)} would not come back",
                hint="take the preshared keys off on both ends first, and put them back after",
            )
        rotation.begin(wait_s)
        return codec.encode(rotation.status)

    def _rotating(self) -> Rotation:
        if self.rotation is None or self.session is None:
            raise ZtError(
                "a standalone node has nobody who tells its peers of a new key",
                hint="stop it, remove private.key from its state_dir, start it, and write its "
                "new public key into every peer's file",
            )
        if not self.session.status.is_enrolled:
            raise ZtError("this node is not enrolled yet", hint="its log says what it waits for")
        return self.rotation

    def _use_key(self, key: NodeKey) -> None:
        with self._apply_lock:
            self.sync.use_key(key)
            self.key = key
        assert self.session is not None
        self.session.use_key(key)
        self._look_now.set()  # for handshakes that are late

    # --- metrics ---

    def _snapshot(self) -> Snapshot:
        from agent.metrics import Snapshot

        applied = self.last_good.current
        there = self.sync.peers()
        peers = applied.config.peers if applied else ()
        return Snapshot(
            traffic=self.feed.traffic(),
            rules=self.feed.rules(),
            uncounted=self.datapath.uncounted_packets(),
            log=self.flowlog.counts(),
            suppressed=self.feed.suppressed(),
            retries=self.sink.retries if self.sink else 0,
            flows=self.datapath.flow_count(),
            health=self.sync.health,
            switches=self.switches.current,
            session=self.session.status if self.session else None,
            applied=applied,
            applies=dict(self.applies),
            rotations=dict(self.rotation.ended) if self.rotation else {},
            handshakes={
                p.name: there[p.public_key].last_handshake_at
                for p in peers
                if p.allowed_ips and p.public_key in there  # without: a key yet to come
            },
            version=self.version,
            wireguard=self.sync.backend_kind,
            loader=self.datapath.loader,
        )


def _import_services() -> None:
    """What takes as long to import as the kernel needs to verify the programs, and meanwhile."""
    for name in ("control_server", "feed", "flowlog", "metrics", "sinks"):
        importlib.import_module(f"agent.{name}")
