"""Everything that must be refused at the door, at a running coordinator: each beside what passes,
and each in the audit log with its reason."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlalchemy import select

from coordinator import tls
from coordinator.store.engine import opened
from coordinator.store.models import AuditRow
from tests.contract.wire import answer_to, challenge, refusal
from tests.control.process import Coordinator, Keys, running
from tests.control.served import until
from ztlab.client.node import NodeClient
from ztlab.errors import Refused
from ztlab.model import proof

Attempt = Callable[[], object]


@pytest.fixture(scope="module")
def coordinator() -> Iterator[Coordinator]:
    with running(token_ttl_s=10) as here:
        yield here


@dataclass(frozen=True, slots=True)
class Pair:
    """What is refused, and what differs from it in that one thing and passes."""

    wrong: Attempt
    right: Attempt


class Door:
    """A node that stands at it, enrolled, and its hands."""

    def __init__(self, here: Coordinator, name: str) -> None:
        self.here, self.name = here, name
        self.client, self.keys = here.enrol(name)

    def post(self, path: str, body: Any, bearer: str = "") -> Any:
        return self.client._transport.request("POST", path, body, bearer=bearer)

    def proved(self, purpose: str = "token", keys: Keys | None = None, **changes: Any) -> Any:
        keys = keys or self.keys
        given = {**challenge(self.client, keys, purpose), **changes}
        return answer_to(self.client, given, keys, "token")

    def token(self, body: Any) -> Any:
        return self.post("/node/token", body)

    def fresh(self) -> Any:
        return self.token(self.proved())

    def setup_key(self, **options: Any) -> tuple[str, str]:
        with closing(self.here.admin()) as admin:
            made = admin.create_setup_key(role="mesh", **options)
        assert made.key is not None
        return made.id, made.key

    def ask(self, setup_key: str) -> Any:
        return challenge(self.client, Keys(), "enrol", setup_key)

    def join(self, setup_key: str, keys: Keys | None = None) -> None:
        keys = keys or Keys()
        self.here.node().enrol(
            setup_key=setup_key,
            public_key=keys.public,
            name=f"x{os.urandom(4).hex()}",
            endpoint=None,
            prove=keys.prove,
        )


def a_replay(door: Door) -> Pair:
    body = door.proved()
    door.token(body)
    return Pair(lambda: door.token(body), door.fresh)


def a_challenge_nobody_gave(door: Door) -> Pair:
    body = {**door.proved(), "challenge_id": "00000000-0000-4000-8000-000000000000"}
    return Pair(lambda: door.token(body), door.fresh)


def a_forged_challenge(door: Door) -> Pair:
    """Somebody in between put a key of theirs in the place of the coordinator's."""
    return Pair(lambda: door.token(door.proved(ephemeral_key=Keys().public)), door.fresh)


def a_forged_nonce(door: Door) -> Pair:
    nonce = base64.b64encode(bytes(32)).decode()
    return Pair(lambda: door.token(door.proved(nonce=nonce)), door.fresh)


def another_network(door: Door) -> Pair:
    return Pair(lambda: door.token(door.proved(network_id="another")), door.fresh)


def another_nodes_key(door: Door) -> Pair:
    thief = Keys()
    return Pair(
        lambda: door.client.renew(public_key=door.keys.public, prove=thief.prove), door.fresh
    )


def a_key_nobody_enrolled(door: Door) -> Pair:
    return Pair(lambda: challenge(door.client, Keys(), "token"), door.fresh)


def a_challenge_for_another_key(door: Door) -> Pair:
    _, other = door.here.enrol(f"{door.name}-other")

    def wrong() -> object:
        given = challenge(door.client, door.keys, "token")
        return door.token(answer_to(door.client, given, other, "token"))

    return Pair(wrong, door.fresh)


def a_challenge_for_another_purpose(door: Door) -> Pair:
    return Pair(lambda: door.token(door.proved("rotate")), door.fresh)


def another_authority(door: Door) -> Pair:
    """The node trusts somebody else's: whoever is in between gets no use out of its proof."""

    def wrong() -> object:
        given = challenge(door.client, door.keys, "token")
        with TemporaryDirectory() as name:
            tls.prepare(Path(name), ("127.0.0.1",))
            pem = tls.read_authority(Path(name))
        with closing(NodeClient(door.client._transport.url, pem)) as elsewhere:
            return door.token(answer_to(elsewhere, given, door.keys, "token"))

    return Pair(wrong, door.fresh)


def a_proof_for_another_setup_key(door: Door) -> Pair:
    (_, first), (_, second) = door.setup_key(), door.setup_key()
    keys = Keys()

    def enrol(bearer: str) -> object:
        given = challenge(door.client, keys, "enrol", first)
        extra = proof.setup_key_hash(bearer)
        body = answer_to(door.client, given, keys, "enrol", extra)
        return door.post("/node/enrol", {**body, "name": f"{door.name}-new"}, bearer)

    return Pair(lambda: enrol(second), lambda: enrol(first))


def an_unknown_setup_key(door: Door) -> Pair:
    authority = door.client._transport.authority_hash
    unknown = proof.format_setup_key(os.urandom(32), authority)
    _, known = door.setup_key()
    return Pair(lambda: door.ask(unknown), lambda: door.ask(known))


def a_revoked_setup_key(door: Door) -> Pair:
    key_id, key = door.setup_key()
    _, kept = door.setup_key()
    door.ask(key)
    with closing(door.here.admin()) as admin:
        admin.delete_setup_key(key_id)
    return Pair(lambda: door.ask(key), lambda: door.ask(kept))


def an_expired_setup_key(door: Door) -> Pair:
    (_, short), (_, long) = door.setup_key(ttl_s=1), door.setup_key()

    def has_expired() -> bool:
        try:
            door.ask(short)
        except Refused:
            return True
        return False

    until(has_expired, "the setup key expires")
    return Pair(lambda: door.ask(short), lambda: door.ask(long))


def a_used_setup_key(door: Door) -> Pair:
    _, key = door.setup_key(uses=2)
    door.join(key)
    door.join(key)
    _, fresh = door.setup_key()
    return Pair(lambda: door.join(key), lambda: door.join(fresh))


def a_revoked_nodes_key(door: Door) -> Pair:
    _, gone = door.here.enrol(f"{door.name}-gone")
    with closing(door.here.admin()) as admin:
        admin.revoke_node(f"{door.name}-gone")
    return Pair(lambda: challenge(door.client, gone, "token"), door.fresh)


def a_revoked_nodes_token(door: Door) -> Pair:
    client, _ = door.here.enrol(f"{door.name}-late")
    with closing(door.here.admin()) as admin:
        admin.revoke_node(f"{door.name}-late")
    return Pair(client.cancel_rotation, door.client.cancel_rotation)


def a_key_that_was_given_up(door: Door) -> Pair:
    old, new = Keys(), Keys()
    client, _ = door.here.enrol(f"{door.name}-turn", keys=old)
    client.rotate(
        public_key=old.public,
        prove=old.prove,
        new_public_key=new.public,
        new_prove=new.prove,
        wait_s=1,
    )
    until(lambda: client.rotation().state == "ready", "the deadline passes")
    client.commit_rotation(new.public)
    return Pair(
        lambda: client.renew(public_key=old.public, prove=old.prove),
        lambda: client.renew(public_key=new.public, prove=new.prove),
    )


def an_expired_node_token(door: Door) -> Pair:
    stale = door.client.token
    late = door.here.node(stale)

    def has_expired() -> bool:
        try:
            late.cancel_rotation()
        except Refused:
            return True
        return False

    until(has_expired, "the token expires", within_s=15)
    door.client.renew(public_key=door.keys.public, prove=door.keys.prove)
    return Pair(late.cancel_rotation, door.client.cancel_rotation)


def an_unknown_administrator(door: Door) -> Pair:
    def ask(token: str | None) -> None:
        with closing(door.here.admin(token)) as admin:
            admin.network()

    return Pair(lambda: ask("zta_unknown"), lambda: ask(None))


def a_viewer_who_writes(door: Door) -> Pair:
    viewer = door.here.token(f"{door.name}-viewer", "viewer")

    def write(token: str | None) -> None:
        with closing(door.here.admin(token)) as admin:
            admin.create_identity(f"{door.name}-made")

    return Pair(lambda: write(viewer), lambda: write(None))


def malformed(public_key: str, door: Door) -> Pair:
    asked = {"purpose": "token", "public_key": public_key}
    right = {**asked, "public_key": door.keys.public}
    return Pair(
        lambda: door.post("/node/challenge", asked), lambda: door.post("/node/challenge", right)
    )


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


# X25519 with one of these gives zeros, whoever's private key it is (RFC 7748 section 6.1): so they
# are refused as keys already, and an all-zero secret cannot come about.
LOW_ORDER = (bytes(32), b"\x01" + bytes(31), (2**255 - 20).to_bytes(32, "little"))
TABLE: dict[str, tuple[Callable[[Door], Pair], int, str]] = {
    "replay": (a_replay, 401, "unknown_challenge"),
    "nobodys-challenge": (a_challenge_nobody_gave, 401, "unknown_challenge"),
    "forged-challenge": (a_forged_challenge, 401, "wrong_proof"),
    "forged-nonce": (a_forged_nonce, 401, "wrong_proof"),
    "another-network": (another_network, 401, "wrong_proof"),
    "another-nodes-key": (another_nodes_key, 401, "wrong_proof"),
    "another-authority": (another_authority, 401, "wrong_proof"),
    "nobodys-key": (a_key_nobody_enrolled, 401, "unknown_key"),
    "challenge-of-another-key": (a_challenge_for_another_key, 401, "other_challenge"),
    "challenge-of-another-purpose": (a_challenge_for_another_purpose, 401, "other_challenge"),
    "proof-of-another-setup-key": (a_proof_for_another_setup_key, 401, "wrong_proof"),
    "unknown-setup-key": (an_unknown_setup_key, 401, "unknown_setup_key"),
    "revoked-setup-key": (a_revoked_setup_key, 401, "revoked_setup_key"),
    "expired-setup-key": (an_expired_setup_key, 401, "expired_setup_key"),
    "used-setup-key": (a_used_setup_key, 401, "used_setup_key"),
    "revoked-nodes-key": (a_revoked_nodes_key, 401, "revoked_node"),
    "revoked-nodes-token": (a_revoked_nodes_token, 403, "revoked_node"),
    "former-key": (a_key_that_was_given_up, 401, "former_key"),
    "expired-token": (an_expired_node_token, 401, "expired_token"),
    "unknown-administrator": (an_unknown_administrator, 401, "unknown_token"),
    "viewer-writes": (a_viewer_who_writes, 403, "role"),
    "not-reduced": (
        partial(malformed, _text((2**255 - 19 + 9).to_bytes(32, "little"))),
        422,
        "malformed",
    ),
    "high-bit": (partial(malformed, _text(b"\x09" + bytes(30) + b"\x80")), 422, "malformed"),
    "not-canonical-base64": (
        partial(malformed, _text(b"\x09" + bytes(31))[:-2] + "B="),
        422,
        "malformed",
    ),
    **{
        f"all-zero-secret-{i}": (partial(malformed, _text(key)), 422, "malformed")
        for i, key in enumerate(LOW_ORDER)
    },
}


def noted(here: Coordinator) -> list[tuple[str, str]]:
    """(source, reason) of every refusal in the audit log."""
    with (
        opened(f"sqlite:///{here.directory / 'state/ztlab.db'}") as store,
        store.reading() as session,
    ):
        rows = session.scalars(select(AuditRow).where(AuditRow.action == "refuse"))
        return [(row.actor, (row.after or {})["reason"]) for row in rows]


@pytest.mark.parametrize("case", TABLE)
def test_it_is_refused_and_noted_and_what_is_right_passes(
    coordinator: Coordinator, case: str
) -> None:
    make, status, reason = TABLE[case]
    pair = make(Door(coordinator, case))
    assert refusal(pair.wrong) == status
    pair.right()
    assert ("source 127.0.0.1", reason) in noted(coordinator)


def test_no_secret_of_a_refused_caller_gets_into_the_log(coordinator: Coordinator) -> None:
    with closing(coordinator.admin("zta_a-secret-of-somebody")) as admin:
        assert refusal(admin.network) == 401
    log = (coordinator.directory / "log").read_text()
    assert "refused admin from 127.0.0.1: unknown_token" in log  # it is the log that is looked at
    assert "zta_a-secret-of-somebody" not in log
