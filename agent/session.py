"""The node's conversation with its coordinator, in one thread of its own.

Enrol once, then: token by proof, stream, apply, acknowledge; from the start after every failure,
with exponential backoff and full jitter. Nothing in here can undo what is applied: losing the
coordinator changes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from agent import state
from agent.keys import NodeKey
from agent.settings import CoordinatorSettings, Settings
from ztlab.client.node import EventStream, NodeClient, StreamEvent
from ztlab.client.transport import fetch_authority
from ztlab.errors import Refused, SchemaError, Unreachable, ZtError
from ztlab.model import codec
from ztlab.model.codec import field
from ztlab.model.config import NodeConfig, Revision
from ztlab.model.proof import authority_of

log = logging.getLogger(__name__)

T = TypeVar("T")

SETUP_KEY_POLL_S = 0.1
RENEW_AT_SHARE = 0.8  # of a token's life
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 15.0
LONGEST_RETRY_AFTER_S = 300
HELD_S = 2.0  # a stream that held so long has worked


class Backoff:
    """How long to wait before the next try: full jitter, 0.1 s doubling up to 15 s.

    dice  a number in 0..1
    """

    def __init__(self, dice: Callable[[], float]) -> None:
        self._dice = dice
        self._tries = 0

    def next_s(self, *, after_s: float = 0.0) -> float:
        """Seconds to wait now; longer with each call, and never under AFTER_S."""
        ceiling: float = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._tries, 16))
        self._tries += 1
        return min(after_s, LONGEST_RETRY_AFTER_S) + ceiling * self._dice()

    def reset(self) -> None:
        """It worked: the next failure is a first one."""
        self._tries = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """Who this node is to its coordinator; session.json.

    renew_at  Unix time after which the token is renewed
    """

    node_id: str
    network_id: str
    name: str
    token: str
    renew_at: float = field(default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatus:
    """What status and metrics say about the session.

    deltas_refused  after each of which the node asked for the whole configuration
    """

    is_enrolled: bool
    is_connected: bool
    node_id: str | None
    last_error: str | None
    deltas_applied: int = field(default=0)
    deltas_refused: int = field(default=0)


Apply = Callable[[Revision, NodeConfig], None]
"""Applies a configuration; raises ZtError with why not."""

Confirm = Callable[[Revision, str], None]
"""Told that the configuration of this digest, which we have, stands at this revision."""


class Session:
    """The thread that talks to the coordinator, and what others may ask of it.

    have  what is applied now, None if nothing is
    """

    def __init__(
        self,
        settings: Settings,
        coordinator: CoordinatorSettings,
        key: NodeKey,
        *,
        apply: Apply,
        confirm: Confirm,
        have: Callable[[], NodeConfig | None],
        dice: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._coordinator = coordinator
        self._key = key
        self._apply, self._confirm, self._have = apply, confirm, have
        self._backoff = Backoff(dice)
        self._stop = threading.Event()
        self._token_lock = threading.Lock()
        self._stream: EventStream | None = None
        self._client: NodeClient | None = None
        self._membership = _read_membership(self._session_file)
        self._last_error: str | None = None
        # What the coordinator knows this node has, applied or not: what its next delta is for.
        self._held: NodeConfig | None = None
        self._wants_whole = False
        self._deltas_applied = self._deltas_refused = 0
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)

    @property
    def _session_file(self) -> Path:
        return self._settings.state_path / "session.json"

    def start(self) -> None:
        """Begin to talk, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End the stream and the thread; returns at once, the thread may linger in a request."""
        self._stop.set()
        stream = self._stream
        if stream is not None:
            stream.close()

    @property
    def status(self) -> SessionStatus:
        """A snapshot; any thread may ask."""
        membership = self._membership
        return SessionStatus(
            is_enrolled=membership is not None,
            is_connected=self._stream is not None,
            node_id=membership.node_id if membership else None,
            last_error=self._last_error,
            deltas_applied=self._deltas_applied,
            deltas_refused=self._deltas_refused,
        )

    @property
    def url(self) -> str:
        """Of the coordinator, or of the replica that is spoken to now."""
        client = self._client
        return self._coordinator.urls[0] if client is None else client.url

    @property
    def is_ready(self) -> bool:
        """Is there somebody to ask? Enrolled alone it is not: a successor is that at once."""
        return self._client is not None

    def push_logs(self, batch: bytes) -> None:
        """Push one batch (ztlab.model.logbatch); ZtError where it was not acknowledged."""
        self.ask(lambda client: client.push_logs(batch))

    def ask(self, call: Callable[[NodeClient], T]) -> T:
        """The answer to CALL, made with a token that is good; ZtError where there is none."""
        client = self._client
        if client is None:
            raise Unreachable("not connected to the coordinator yet")
        token = client.token
        try:
            return call(client)
        except Refused as refusal:
            if refusal.status != 401:
                raise
            self._renew(client, stale=token)
            return call(client)

    def use_key(self, key: NodeKey) -> None:
        """Prove KEY from now on."""
        self._key = key

    def _run(self) -> None:
        while not self._stop.is_set():
            after_s = 0
            try:
                self._converse()
                self._note(None)
            except ZtError as error:
                after_s = error.retry_after_s if isinstance(error, Refused) else 0
                if not self._stop.is_set():
                    self._note(error)
            except Exception:
                log.exception("the session failed on a bug; it begins anew")
            self._stop.wait(self._backoff.next_s(after_s=after_s))

    def _note(self, error: ZtError | None) -> None:
        """Log an error once, not at every try."""
        text = None if error is None else str(error)
        if text is not None and text != self._last_error:
            log.warning("coordinator: %s", text)
        self._last_error = text

    def _converse(self) -> None:
        client = self._connect()
        membership = self._membership
        assert membership is not None
        if time.time() >= membership.renew_at:
            self._renew(client, stale=client.token)
        self._learn(client)
        self._held = None if self._wants_whole else self._have()
        digest = None if self._held is None else self._held.digest()
        try:
            stream = client.stream(digest=digest, deltas=True)
        except Refused as refusal:
            if refusal.status != 401:
                raise
            self._renew(client, stale=client.token)
            stream = client.stream(digest=digest, deltas=True)
        self._follow(client, stream)

    def _follow(self, client: NodeClient, stream: EventStream) -> None:
        self._stream = stream
        url, opened_at = client.url, time.monotonic()
        try:
            if self._stop.is_set():
                stream.close()
            for event in stream:
                self._last_error = None
                self._handle(client, event)
                membership = self._membership
                if membership is not None and time.time() >= membership.renew_at:
                    self._renew(client, stale=client.token)
                    self._learn(client)
        except Unreachable:
            client.leave(url)
            raise
        finally:
            self._stream = None
            stream.close()
            # A stream that ends as soon as it begins (two nodes with one key) is not a success.
            if time.monotonic() - opened_at > HELD_S:
                self._backoff.reset()

    def _learn(self, client: NodeClient) -> None:
        """Ask which authorities to trust, and say that they are known once they are on the disk."""
        try:
            while (pems := client.learn_authorities()) is not None:
                state.write(self._authority_file, pems.encode())
                log.info("the coordinator's authorities are others now; they are trusted")
        except Refused as refusal:
            if refusal.status not in (401, 404):  # 401: renewed next; 404: an older coordinator
                log.warning("authorities: %s", refusal)

    def _connect(self) -> NodeClient:
        """The client, enrolled: made at first use."""
        if self._client is None:
            known = state.read(self._authority_file)
            has_setup_key = Path(self._coordinator.setup_key_file).exists()
            if known is not None and (self._membership is not None or not has_setup_key):
                token = self._membership.token if self._membership else None
                client = NodeClient(self._coordinator.urls, known.decode(), token)
            else:
                # Not enrolled: the setup key decides whom to trust, and it may be a new one.
                client = NodeClient(self._coordinator.urls, self._fetched_authority())
            if self._membership is None and (has_setup_key or not self._recover(client)):
                self._enrol(client)
            self._client = client
        return self._client

    @property
    def _authority_file(self) -> Path:
        return self._settings.state_path / "authority.pem"

    def _fetched_authority(self) -> str:
        """The PEM that TLS is verified against from now on: believed by its hash only."""
        try:
            pinned = authority_of(self._setup_key())
        except ValueError as error:
            raise SchemaError([f"{self._coordinator.setup_key_file}: {error}"]) from None
        pem = self._first_answer(lambda url: fetch_authority(url, pinned))
        state.write(self._authority_file, pem.encode())
        return pem

    def _first_answer(self, ask: Callable[[str], str]) -> str:
        """Of the first coordinator that can be reached; Unreachable if none can."""
        *others, last = self._coordinator.urls
        for url in others:
            with suppress(Unreachable):
                return ask(url)
        return ask(last)

    def _setup_key(self) -> str:
        """The text in setup_key_file, waited for if it is not there yet."""
        path = Path(self._coordinator.setup_key_file)
        told = False
        while not self._stop.is_set():
            content = state.read(path)
            if content is not None and content.strip():
                return content.decode("utf-8", "replace").strip()
            if not told:
                log.info("waiting for a setup key in %s", path)
                told = True
            self._stop.wait(SETUP_KEY_POLL_S)
        raise Unreachable("stopped before there was a setup key")

    def _enrol(self, client: NodeClient) -> None:
        try:
            enrolment = client.enrol(
                setup_key=self._setup_key(),
                public_key=self._key.public_key,
                name=self._settings.name,
                endpoint=self._settings.wireguard.endpoint,
                prove=self._key.prove,
            )
        except Refused as refusal:
            # Perhaps the answer to an earlier, successful enrolment was lost.
            if not self._recover(client):
                raise refusal from None
            return
        self._remember(
            Membership(
                node_id=enrolment.node_id,
                network_id=enrolment.network_id,
                name=enrolment.name,
                token=enrolment.token,
                renew_at=_renew_at(enrolment.token_expires_at),
            )
        )
        log.info("enrolled as %s (%s)", enrolment.name, enrolment.node_id)

    def _recover(self, client: NodeClient) -> bool:
        try:
            token = client.renew(public_key=self._key.public_key, prove=self._key.prove)
        except Refused as refusal:
            if refusal.status not in (401, 403):  # not now; it says nothing about the key
                raise
            return False
        self._remember(
            Membership(
                node_id=token.node_id,
                network_id="",
                name=self._settings.name,
                token=token.token,
                renew_at=_renew_at(token.token_expires_at),
            )
        )
        log.info("this key was enrolled before, as %s", token.node_id)
        return True

    def _renew(self, client: NodeClient, *, stale: str | None) -> None:
        """A fresh token in place of STALE, unless another thread was quicker."""
        with self._token_lock:
            membership = self._membership
            if membership is None or client.token != stale:
                return
            key = self._key
            token = client.renew(public_key=key.public_key, prove=key.prove)
            self._remember(
                replace(
                    membership,
                    token=token.token,
                    renew_at=_renew_at(token.token_expires_at),
                )
            )

    def _remember(self, membership: Membership) -> None:
        state.write_json(self._session_file, codec.encode(membership))
        self._membership = membership

    def _handle(self, client: NodeClient, event: StreamEvent) -> None:
        if event.revision is None or event.digest is None:
            return
        changed = self._changed(event) if event.kind == "delta" else None
        error: str | None = None
        try:
            if event.kind == "current":
                self._confirm(event.revision, event.digest)
            else:
                config = changed or self._whole(event)
                _require_ours(config, self._membership)
                self._apply(event.revision, config)
                self._know_network(config.network_id)
        except ZtError as refusal:
            error = str(refusal)
            log.warning("revision %d is not applied: %s", event.revision.number, error)
        except Exception:
            error = "internal error of the agent; its log has the details"
            log.exception("revision %d is not applied", event.revision.number)
        client.ack(revision=event.revision, digest=event.digest, error=error)

    def _know_network(self, network_id: str) -> None:
        """The network of a membership that was recovered, by the configuration that came."""
        with self._token_lock:
            if self._membership is not None and not self._membership.network_id:
                self._remember(replace(self._membership, network_id=network_id))

    def _whole(self, event: StreamEvent) -> NodeConfig:
        self._held = None  # if this one cannot be read, no delta is for anything that is here
        self._held = event.config()
        self._wants_whole = False
        return self._held

    def _changed(self, event: StreamEvent) -> NodeConfig:
        """What a delta makes of what is here; Unreachable where it cannot be done.

        That is not acknowledged: the next stream brings the whole, which says what is wrong.
        """
        try:
            self._held = event.changed(self._held)
        except SchemaError as error:
            self._deltas_refused += 1
            self._wants_whole = True
            raise Unreachable(f"asking for the whole configuration: {error}") from error
        self._deltas_applied += 1
        return self._held


def _require_ours(config: NodeConfig, membership: Membership | None) -> None:
    """ZtError where CONFIG is another node's: applied, it would give this node its addresses."""
    if membership is None:
        return
    got = (config.network_id, config.node.node_id)
    # A membership that was recovered by proof does not know its network yet.
    if got != (membership.network_id or config.network_id, membership.node_id):
        raise ZtError(
            f"the configuration is for node {got[1]} of network {got[0]}, "
            f"this is {membership.node_id} of {membership.network_id}"
        )


def _read_membership(path: Path) -> Membership | None:
    data = state.read_json(path)
    if data is None:
        return None
    try:
        return codec.decode(Membership, data)
    except SchemaError:
        # Made anew by proof of the key; nothing in it is irreplaceable.
        log.warning("%s is damaged; asking the coordinator again", path)
        return None


def _renew_at(expires_at: str, now: float | None = None) -> float:
    """When to renew a token that expires at EXPIRES_AT (RFC 3339), Unix time.

    A clock that is off makes this wrong, not fatal: a 401 renews as well.
    """
    now = time.time() if now is None else now
    try:
        expires = datetime.fromisoformat(expires_at)
    except ValueError:
        return now
    if expires.tzinfo is None:
        expires = expires.replace(tzinfo=UTC)
    return now + max(1.0, (expires.timestamp() - now) * RENEW_AT_SHARE)
