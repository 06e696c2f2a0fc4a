"""A node's side of docs/PROTOCOL.md: prove the key, hold the stream, acknowledge, push logs.

The WireGuard private key never comes here. The caller lends a `prove` that gets the transcript and
returns the proof, so the X25519 result stays in the caller's hands as well:

    client.enrol(..., prove=lambda t: proof.prove(t, x25519(private_key, t.ephemeral_key)))
"""

from __future__ import annotations

import base64
import binascii
import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import urllib3

from ztlab.client.transport import (
    SocketFactory,
    Transport,
    authority_hash,
    unreachable_if_broken,
)
from ztlab.errors import Refused, SchemaError, Unreachable
from ztlab.model import codec, delta, logbatch
from ztlab.model.config import NodeConfig, Revision
from ztlab.model.identity import decode_public_key
from ztlab.model.keys import KeyChange
from ztlab.model.proof import Purpose, Transcript, setup_key_hash

HEARTBEAT_S = 15.0
MOST_AUTHORITIES = 4  # that a node trusts at once
ERROR_CHARS = 2000  # what the coordinator keeps of a refusal
EVENT_BYTES = 64 * 2**20  # a configuration of hundreds of thousands of peers
SILENCE_HEARTBEATS = 2.5  # a stream that said nothing for so many heartbeats is dead

Prove = Callable[[Transcript], bytes]
"""The 32-byte proof over a transcript: ztlab.model.proof.prove with X25519(own key, E)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What a node got for its setup key. Timestamps are RFC 3339 UTC."""

    node_id: str
    network_id: str
    name: str
    token: str
    token_expires_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeToken:
    """A fresh token of an enrolled node."""

    node_id: str
    token: str
    token_expires_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """One event of the stream.

    kind      config: a new whole state; delta: what leads to it from the one before; current:
              what you have is what is wanted; heartbeat
    revision  and digest: of the wanted state; None with a heartbeat
    document  the configuration, or the delta, as plain data; None with the other kinds
    """

    kind: Literal["config", "delta", "current", "heartbeat"]
    revision: Revision | None = None
    digest: str | None = None
    document: Mapping[str, Any] | None = None

    def config(self) -> NodeConfig:
        """The configuration, decoded; SchemaError if malformed or not what its digest says."""
        config = codec.decode(NodeConfig, self.document, path="config")
        if config.digest() != self.digest:
            raise SchemaError([f"config: want digest {self.digest}, got {config.digest()}"])
        return config

    def changed(self, held: NodeConfig | None) -> NodeConfig:
        """The configuration that the delta makes of HELD, the last one that was sent or said.

        SchemaError if the delta is malformed, for another one, or not leading to its digest.
        """
        change = codec.decode(delta.Delta, self.document, path="delta")
        if held is None or self.digest is None:
            raise SchemaError([f"delta.base: {change.base} is not here"])
        return delta.apply(held, change, self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Challenge:
    challenge_id: str
    ephemeral_key: str
    nonce: str
    network_id: str
    expires_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Authorities:
    authorities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    stored: int


class EventStream:
    """The open stream: an iterator of StreamEvent, and a context manager that closes it.

    Iterating raises Unreachable when the connection breaks, falls silent, or carries an event of
    more than EVENT_BYTES: no coordinator may eat up a node's memory. It ends normally when
    the coordinator ended the stream (revoked, replaced by a newer one, token expired, stopping):
    open the next one to learn which. `close` may be called from another thread.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse, url: str) -> None:
        self._response = response
        self._url = url
        self._is_closed = False
        self._events = self._read()

    def __iter__(self) -> Iterator[StreamEvent]:
        return self

    def __next__(self) -> StreamEvent:
        return next(self._events)

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream, also under a reader in another thread (which sees Unreachable)."""
        self._is_closed = True
        made = getattr(self._response.connection, "sock", None)
        if made is not None:
            try:
                # Not SSLSocket.shutdown: that one forgets its TLS state under a reader's feet.
                socket.socket.shutdown(made, socket.SHUT_RDWR)
            except OSError:
                pass  # already gone, which is what we want
        self._response.close()

    def _read(self) -> Iterator[StreamEvent]:
        kind, data, size = "", [], 0
        for line in self._lines():
            size += len(line)
            self._check_size(size)
            if line.startswith("event:"):
                kind = line[6:].strip()
            elif line.startswith("data:"):
                data.append(line[5:].strip())
            elif not line and kind:
                event = _event(kind, "\n".join(data), self._url)
                kind, data, size = "", [], 0
                if event is not None:
                    yield event

    def _lines(self) -> Iterator[str]:
        rest = b""
        chunks = self._response.stream(65536)
        while True:
            try:
                with unreachable_if_broken(self._url):
                    chunk = next(chunks, None)
            except AttributeError as error:
                # http.client under a reader whose connection `close` takes away.
                if not self._is_closed:
                    raise
                raise Unreachable(f"{self._url}: the stream was closed") from error
            if chunk is None:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            self._check_size(len(rest))
            for line in lines:
                yield line.decode("utf-8", "replace").rstrip("\r")

    def _check_size(self, size: int) -> None:
        if size > EVENT_BYTES:
            raise Unreachable(f"{self._url}: the stream carried an event of over {EVENT_BYTES} B")


class NodeClient:
    """A node's connection to its coordinator.

    url, authority_pem, token, socket_factory  as in `Transport`
    heartbeat_s  how often the coordinator speaks on a stream; 2.5 of them in silence break it
    Every method raises Refused (with the status) or Unreachable.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        authority_pem: str,
        token: str | None = None,
        *,
        socket_factory: SocketFactory | None = None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._transport = Transport(url, authority_pem, token, socket_factory=socket_factory)
        self._silence_s = heartbeat_s * SILENCE_HEARTBEATS

    @property
    def url(self) -> str:
        """The one that requests go to now."""
        return self._transport.url

    def leave(self, url: str) -> None:
        """URL fell silent: what follows goes to the next replica, if there is one."""
        self._transport.leave(url)

    @property
    def token(self) -> str | None:
        """The bearer token of the calls that need one; `enrol` and `renew` set it."""
        return self._transport.token

    @token.setter
    def token(self, token: str | None) -> None:
        self._transport.token = token

    def enrol(
        self, *, setup_key: str, public_key: str, name: str, endpoint: str | None, prove: Prove
    ) -> Enrolment:
        """Join the network with a setup key; the token is taken over."""
        challenge = self._challenge("enrol", public_key, bearer=setup_key)
        extra = setup_key_hash(setup_key)
        body = self._proof("enrol", challenge, public_key, extra, prove)
        body |= {"name": name, "endpoint": endpoint}
        answer = self._transport.request("POST", "/node/enrol", body, bearer=setup_key)
        enrolment = codec.decode(Enrolment, answer, path="enrolment")
        self.token = enrolment.token
        return enrolment

    def renew(self, *, public_key: str, prove: Prove) -> NodeToken:
        """A fresh token for an enrolled key; it is taken over."""
        # No bearer: the old token must not ride along, the proof alone authenticates.
        challenge = self._challenge("token", public_key, bearer="")
        body = self._proof("token", challenge, public_key, b"", prove)
        answer = self._transport.request("POST", "/node/token", body, bearer="")
        token = codec.decode(NodeToken, answer, path="token")
        self.token = token.token
        return token

    def rotate(
        self, *, public_key: str, prove: Prove, new_public_key: str, new_prove: Prove, wait_s: int
    ) -> KeyChange:
        """Announce a new key, both proved on one challenge; again for the same: how far it is.

        wait_s  how long to wait for peers that do not acknowledge it
        """
        challenge = self._challenge("rotate", public_key, bearer="")
        old, new = decode_public_key(public_key), decode_public_key(new_public_key)
        body = self._proof("rotate", challenge, public_key, new, prove)
        renewed = self._proof("rotate", challenge, new_public_key, old, new_prove)
        body |= {
            "new_public_key": new_public_key,
            "new_proof": renewed["proof"],
            "wait_s": wait_s,
        }
        answer = self._transport.request("POST", "/node/rotate", body, bearer="")
        return codec.decode(KeyChange, answer, path="rotation")

    def rotation(self) -> KeyChange:
        """How far the change of this node's key is; Refused (404) where there is none."""
        answer = self._transport.request("GET", "/node/rotation")
        return codec.decode(KeyChange, answer, path="rotation")

    def commit_rotation(self, public_key: str) -> None:
        """This node uses PUBLIC_KEY now: prefixes move to it, the old one goes. Safe to repeat."""
        body = {"public_key": public_key}
        self._transport.request("POST", "/node/rotation/commit", body)

    def cancel_rotation(self) -> None:
        """Forget a key that was announced; no error where none was."""
        self._transport.request("DELETE", "/node/rotation")

    def stream(self, *, digest: str | None = None, deltas: bool = False) -> EventStream:
        """Open the configuration stream, saying that DIGEST is what this node has, and with DELTAS
        that it can make the next one of that."""
        query = {"digest": digest, "delta": "1" if deltas else None}
        response = self._transport.open("/node/stream", query=query, read_timeout_s=self._silence_s)
        return EventStream(response, self._transport.url)

    def learn_authorities(self) -> str | None:
        """Say whom this node trusts; the PEMs that it shall trust from now on, None: no news.

        They came over a connection that one of those which it trusts has verified, and are taken
        over for the next ones. Refused (404) by a coordinator that knows no other.
        """
        body = {"trusted": [found.hex() for found in self._transport.trusted]}
        answer = self._transport.request("POST", "/node/authorities", body)
        pems = codec.decode(_Authorities, answer, path="authorities").authorities
        hashes = {authority_hash(pem) for pem in pems}
        if not 1 <= len(pems) <= MOST_AUTHORITIES or len(hashes) != len(pems):
            raise Refused(f"{self._transport.url} names {len(pems)} authorities")
        if hashes == set(self._transport.trusted):
            return None
        if self._transport.authority_hash not in hashes:
            # This connection is older than the switch: what is said on a new one counts.
            self._transport.reconnect()
            return None
        text = "".join(pems)
        self._transport.trust(text)
        return text

    def ack(self, *, revision: Revision, digest: str, error: str | None = None) -> None:
        """Say that a configuration was applied, or with ERROR why it was not."""
        body = {
            "revision": codec.encode(revision),
            "digest": digest,
            "applied": error is None,
        }
        if error is not None:
            body["error"] = error[:ERROR_CHARS]
        self._transport.request("POST", "/node/ack", body)

    def push_logs(self, batch: bytes) -> int:
        """Push a batch (ztlab.model.logbatch.pack); how many events are stored, once they are.

        A connection that broke is tried once more: the batch's id keeps it from counting twice.
        """
        kind = logbatch.CONTENT_TYPE
        try:
            answer = self._transport.request("POST", "/node/logs", batch, content_type=kind)
        except Unreachable:
            answer = self._transport.request("POST", "/node/logs", batch, content_type=kind)
        return codec.decode(_Stored, answer, path="stored").stored

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()

    def _challenge(self, purpose: Purpose, public_key: str, *, bearer: str) -> _Challenge:
        body = {"purpose": purpose, "public_key": public_key}
        answer = self._transport.request("POST", "/node/challenge", body, bearer=bearer)
        return codec.decode(_Challenge, answer, path="challenge")

    def _proof(
        self, purpose: Purpose, challenge: _Challenge, public_key: str, extra: bytes, prove: Prove
    ) -> dict[str, Any]:
        try:
            ephemeral_key = decode_public_key(challenge.ephemeral_key)
            nonce = base64.b64decode(challenge.nonce, validate=True)
        except (ValueError, binascii.Error) as error:
            raise Refused(f"the coordinator's challenge is malformed: {error}") from error
        transcript = Transcript(
            purpose=purpose,
            network_id=challenge.network_id,
            authority=self._transport.authority_hash,
            ephemeral_key=ephemeral_key,
            nonce=nonce,
            node_key=decode_public_key(public_key),
            extra=extra,
        )
        return {
            "challenge_id": challenge.challenge_id,
            "public_key": public_key,
            "proof": base64.b64encode(prove(transcript)).decode(),
        }


def _event(kind: str, data: str, url: str) -> StreamEvent | None:
    """The event, or None for a kind that a newer coordinator may know and we do not."""
    if kind == "heartbeat":
        return StreamEvent(kind="heartbeat")
    if kind not in ("config", "delta", "current"):
        return None
    try:
        content = json.loads(data)
        revision = codec.decode(Revision, content["revision"], path="revision")
        digest = str(content["digest"])
        document = None if kind == "current" else content[kind]
    except (ValueError, KeyError, TypeError, SchemaError) as error:
        raise Unreachable(f"{url}: the stream carried a malformed {kind} event") from error
    return StreamEvent(
        kind=cast(Literal["config", "delta", "current"], kind),
        revision=revision,
        digest=digest,
        document=document,
    )
