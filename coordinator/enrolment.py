"""From a setup key to a node, and from a node to its next token: by proof of its WireGuard key.

The protocol is docs/PROTOCOL.md's, the proof ztlab/model/proof.py's. A challenge is one stored row,
valid 60 s, and is deleted by whoever uses it first, rightly or not.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
import uuid
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from coordinator import allocation, audit, clock, validation
from coordinator.errors import Conflict, Reason, Unauthenticated
from coordinator.secrets import digest, fresh
from coordinator.store.engine import Store
from coordinator.store.models import (
    ChallengeRow,
    FormerKeyRow,
    GroupRow,
    IdentityRow,
    NodeRow,
    NodeTokenRow,
    ResourceRow,
    RotationRow,
    SetupKeyRow,
)
from ztlab.errors import SchemaError
from ztlab.model.codec import field, restricted
from ztlab.model.config import check_endpoint
from ztlab.model.identity import client_id, decode_public_key
from ztlab.model.policy import check_name
from ztlab.model.proof import Purpose, Transcript, setup_key_hash, verify

CHALLENGE_TTL = timedelta(seconds=60)
LIVE_CHALLENGES = 16  # of one key and purpose; a new one takes the place of the oldest
_PLAIN_ENDPOINT = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]+")


@restricted(pattern=f"^{_PLAIN_ENDPOINT.pattern}$", maxLength=262)
def check_plain_endpoint(text: str) -> None:
    """As in configurations; and it ends up in command lines and logs, so with nothing odd."""
    if not (_PLAIN_ENDPOINT.fullmatch(text) and len(text) <= 262):
        raise ValueError(f"want HOST:PORT, a DNS name or an IP address, got {text!r}")
    check_endpoint(text)


@restricted(pattern="^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")
def check_key(text: str) -> None:
    """ValueError unless TEXT is a WireGuard public key in canonical form."""
    decode_public_key(text)


@restricted(pattern="^[A-Za-z0-9+/]{43}=$")
def check_proof_text(text: str) -> None:
    """ValueError unless TEXT is 32 bytes in base64."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("want a proof in base64") from None
    if len(raw) != 32:
        raise ValueError(f"a proof has 32 bytes, not {len(raw)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeRequest:
    """Body of POST /node/challenge."""

    purpose: Purpose
    public_key: str = field(check=check_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """Body of POST /node/token."""

    challenge_id: str
    public_key: str = field(check=check_key)
    proof: str = field(check=check_proof_text)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolRequest:
    """Body of POST /node/enrol."""

    challenge_id: str
    public_key: str = field(check=check_key)
    proof: str = field(check=check_proof_text)
    name: str = field(check=check_name)
    endpoint: str | None = field(default=None, check=check_plain_endpoint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What binds a proof to this network and to this coordinator.

    authority      SHA-256 of the DER of the TLS authority that the server's certificate is of
    challenge_key  32 bytes, no part of the store: who reads that cannot answer a challenge
    """

    network_id: str
    authority: bytes
    challenge_key: bytes = dataclass_field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """A challenge that was taken out of the store, and can be used by nobody else."""

    purpose: str
    public_key: str
    nonce: bytes
    setup_key_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token, shown once."""

    node_id: str
    name: str
    token: str
    expires_at: datetime


def challenge(
    session: Session, place: Place, request: ChallengeRequest, bearer: str | None, now: datetime
) -> dict[str, str]:
    """A fresh challenge. Unauthenticated without a good setup key or an enrolled key."""
    setup_key_id = may_ask(session, request, bearer, now)
    session.execute(delete(ChallengeRow).where(ChallengeRow.expires_at <= now))
    _make_room(session, request)
    row = ChallengeRow(
        id=str(uuid.uuid4()),
        purpose=request.purpose,
        public_key=request.public_key,
        nonce=secrets.token_bytes(32),
        setup_key_id=setup_key_id,
        expires_at=now + CHALLENGE_TTL,
    )
    session.add(row)
    return {
        "challenge_id": row.id,
        "ephemeral_key": _b64(_ephemeral(place, row.nonce).public_key().public_bytes_raw()),
        "nonce": _b64(row.nonce),
        "network_id": place.network_id,
        "expires_at": clock.rfc3339(row.expires_at),
    }


def may_ask(
    session: Session, request: ChallengeRequest, bearer: str | None, now: datetime
) -> str | None:
    """The id of the setup key that a challenge is asked with, None where it needs none.

    Unauthenticated as `challenge`. It only reads: strangers are sent away without the write lock.
    """
    if request.purpose == "enrol":
        return usable_setup_key(session, bearer, now).id
    live_node(session, request.public_key)
    return None


def _make_room(session: Session, request: ChallengeRequest) -> None:
    """A public key is no secret: whoever knows one may ask, but the table does not grow with it.

    The oldest goes, and nobody is refused: else a stranger could keep a node from its token.
    """
    of_this_key = (
        select(ChallengeRow.id)
        .where(
            ChallengeRow.public_key == request.public_key, ChallengeRow.purpose == request.purpose
        )
        .order_by(ChallengeRow.expires_at.desc())
    )
    surplus = session.scalars(of_this_key.offset(LIVE_CHALLENGES - 1)).all()
    if surplus:
        session.execute(delete(ChallengeRow).where(ChallengeRow.id.in_(surplus)))


def _ephemeral(place: Place, nonce: bytes) -> X25519PrivateKey:
    """The one-time key of the challenge with this NONCE, which is as fresh as the nonce is.

    Derived (HMAC-SHA-256 as a pseudo-random function, RFC 2104), so that the store has no private
    half: with it, and a node's public key, anybody could answer in that node's place.
    """
    return X25519PrivateKey.from_private_bytes(
        hmac.digest(place.challenge_key, b"ztlab-challenge-v1" + nonce, "sha256")
    )


def spend(store: Store, challenge_id: str, now: datetime) -> Spent:
    """Take a challenge out of the store; Unauthenticated if it is not there or too old.

    In a transaction of its own, before anything is looked at: a wrong proof uses the challenge up
    as well, and whoever has none does not get the network loaded, nor the write lock.
    """
    with store.reading() as session:
        row = session.get(ChallengeRow, challenge_id)
    if row is not None:
        with store.writing() as session:
            row = session.get(ChallengeRow, challenge_id)
            if row is not None:
                session.delete(row)
    if row is None or row.expires_at <= now:
        raise Unauthenticated(
            "the challenge is unknown, used or expired",
            reason="unknown_challenge" if row is None else "expired_challenge",
            subject="" if row is None else row.public_key,
        )
    return Spent(
        purpose=row.purpose,
        public_key=row.public_key,
        nonce=row.nonce,
        setup_key_id=row.setup_key_id,
    )


def check_proof(
    place: Place,
    spent: Spent,
    purpose: Purpose,
    request: TokenRequest | EnrolRequest,
    extra: bytes,
) -> None:
    """Unauthenticated unless the request proves its key on this challenge."""
    if (spent.purpose, spent.public_key) != (purpose, request.public_key):
        raise other_challenge(request.public_key)
    check_possession(place, spent, purpose, request.public_key, request.proof, extra)


def check_possession(
    place: Place, spent: Spent, purpose: Purpose, public_key: str, proof: str, extra: bytes
) -> None:
    """Unauthenticated unless PROOF (base64) proves PUBLIC_KEY on this challenge."""
    ephemeral = _ephemeral(place, spent.nonce)
    node_key = decode_public_key(public_key)
    transcript = Transcript(
        purpose=purpose,
        network_id=place.network_id,
        authority=place.authority,
        ephemeral_key=ephemeral.public_key().public_bytes_raw(),
        nonce=spent.nonce,
        node_key=node_key,
        extra=extra,
    )
    try:
        secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(node_key))
        is_right = verify(transcript, secret, base64.b64decode(proof))
    except ValueError as error:  # an all-zero secret
        raise SchemaError([f"public_key: {error}"]) from error
    if not is_right:
        raise Unauthenticated("the proof is wrong", reason="wrong_proof", subject=public_key)


def other_challenge(public_key: str) -> Unauthenticated:
    """What answers a challenge that was not given for this."""
    return Unauthenticated(
        "the challenge was given for another purpose or key",
        reason="other_challenge",
        subject=public_key,
    )


def enrol(
    session: Session,
    place: Place,
    spent: Spent,
    request: EnrolRequest,
    bearer: str | None,
    now: datetime,
    token_ttl: timedelta,
) -> NewToken:
    """Make the node that proved its key and holds a setup key. Runs inside network.change."""
    key = usable_setup_key(session, bearer, now)
    check_proof(place, spent, "enrol", request, setup_key_hash(bearer or ""))
    if spent.setup_key_id != key.id:
        raise Unauthenticated(
            "the challenge was given for another setup key",
            reason="other_challenge",
            subject=key.id,
        )
    _check_bound_name(key, request.name)
    _check_new(session, request)
    before = {"uses_left": key.uses_left}
    key.uses_left -= 1
    after = {"uses_left": key.uses_left}
    audit.record(session, audit.setup_key(key.id), "use", "setup-key", key.id, before, after, now)
    identity = key.identity or request.name
    if key.identity is None and key.name is None:
        _refuse_existing(session, identity)
    _ensure_identity(session, identity, now)
    if key.group is not None:
        _join(session, key.group, identity)
    node = NodeRow(
        id=str(uuid.uuid4()),
        name=request.name,
        role=key.role,
        identity=identity,
        public_key=request.public_key,
        client_id=client_id(request.public_key),
        endpoint=request.endpoint,
        enrolled_at=now,
        last_contact_at=now,
        setup_key_id=key.id,
        wanted_epoch="",
        wanted_number=0,
        wanted_digest="",
    )
    session.add(node)
    session.flush()
    allocation.allocate_addresses(session, node.id, now)
    return issue_token(session, node, now, token_ttl)


def renew(
    session: Session,
    place: Place,
    spent: Spent,
    request: TokenRequest,
    now: datetime,
    token_ttl: timedelta,
) -> NewToken:
    """The next token of an enrolled, unrevoked node that proved its key."""
    check_proof(place, spent, "token", request, b"")
    node = live_node(session, request.public_key)
    node.last_contact_at = now
    return issue_token(session, node, now, token_ttl)


def issue_token(session: Session, node: NodeRow, now: datetime, ttl: timedelta) -> NewToken:
    """A fresh token for NODE; expired ones, anybody's, go."""
    session.execute(delete(NodeTokenRow).where(NodeTokenRow.expires_at <= now))
    token = fresh("ztn")
    session.add(NodeTokenRow(hash=digest(token), node_id=node.id, expires_at=now + ttl))
    return NewToken(node_id=node.id, name=node.name, token=token, expires_at=now + ttl)


def usable_setup_key(session: Session, bearer: str | None, now: datetime) -> SetupKeyRow:
    """The setup key that BEARER is; Unauthenticated if unknown, expired or used up."""
    row = None
    if bearer:
        found = select(SetupKeyRow).where(SetupKeyRow.hash == digest(bearer))
        row = session.scalars(found).one_or_none()
    if row is not None and row.revoked_at is None and row.expires_at > now and row.uses_left > 0:
        return row
    # One answer for all of them: a stranger learns nothing about keys that once were.
    raise Unauthenticated(
        "the setup key is unknown, expired or used up",
        reason=_what_is_wrong(row, now),
        subject="" if row is None else row.id,
        hint="ask for a new setup key",
    )


def _what_is_wrong(row: SetupKeyRow | None, now: datetime) -> Reason:
    if row is None:
        return "unknown_setup_key"
    if row.revoked_at is not None:
        return "revoked_setup_key"
    return "expired_setup_key" if row.expires_at <= now else "used_setup_key"


def live_node(session: Session, public_key: str) -> NodeRow:
    """The unrevoked node with this key, or on its way to it; Unauthenticated if there is none."""
    node = holder(session, public_key)
    reason: Reason = "unknown_key"
    if node is not None:
        reason = "revoked_node" if node.revoked_at is not None else "former_key"
        if node.revoked_at is None and not is_former(session, public_key):
            return node
    raise Unauthenticated(
        "no enrolled node has this key", reason=reason, subject=node.name if node else public_key
    )


def holder(session: Session, public_key: str) -> NodeRow | None:
    """The node that has, had or will have this key, whatever became of it."""
    keyed = select(NodeRow).where(NodeRow.public_key == public_key)
    if (node := session.scalars(keyed).one_or_none()) is not None:
        return node
    former = session.get(FormerKeyRow, public_key)
    coming = select(RotationRow).where(RotationRow.public_key == public_key)
    row = former or session.scalars(coming).one_or_none()
    return session.get_one(NodeRow, row.node_id) if row else None


def is_former(session: Session, public_key: str) -> bool:
    """Was this key given up by a rotation?"""
    return session.get(FormerKeyRow, public_key) is not None


def _check_bound_name(key: SetupKeyRow, name: str) -> None:
    if key.name is not None and key.name != name:
        raise SchemaError([f"name: want {key.name!r}, which the setup key is for, got {name!r}"])


def _check_new(session: Session, request: EnrolRequest) -> None:
    """Conflict if another node has the name, or any node ever had the key."""
    named = select(NodeRow).where(NodeRow.name == request.name, NodeRow.revoked_at.is_(None))
    if session.scalars(named).one_or_none() is not None:
        raise Conflict(f"a node is called {request.name!r} already")
    if (node := holder(session, request.public_key)) is not None:
        state = "was revoked" if node.revoked_at else "is enrolled already"
        state = "was given up" if is_former(session, request.public_key) else state
        raise Conflict(f"this key {state}, as node {node.name!r}")


def _refuse_existing(session: Session, identity: str) -> None:
    """Conflict if it is there: whoever chooses the node's name must not choose whom it is taken
    for, and be let in by rules that were written for somebody else."""
    if session.get(IdentityRow, identity) is not None:
        raise Conflict(
            f"there is an identity {identity!r} already: it takes a setup key that is bound to it, "
            "or to a node of this name"
        )


def _ensure_identity(session: Session, name: str, now: datetime) -> None:
    if session.get(IdentityRow, name) is not None:
        return
    try:
        validation.check_free_name(name)
    except ValueError as error:
        raise SchemaError([f"name: {error}"]) from None
    for kind, table in (("group", GroupRow), ("resource", ResourceRow)):
        if session.get(table, name) is not None:
            raise Conflict(f"the node's own identity would be {name!r}, which is a {kind}")
    session.add(IdentityRow(name=name, tag=allocation.allocate_tag(session, name, now)))


def _join(session: Session, name: str, identity: str) -> None:
    """IDENTITY is of that group from now on; Conflict if the group is gone."""
    group = session.get(GroupRow, name)
    if group is None:
        raise Conflict(f"the setup key is for group {name!r}, which is not there any more")
    if identity not in group.members:
        group.members = [*group.members, identity]


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
