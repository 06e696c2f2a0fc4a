"""docs/PROTOCOL.md, spoken to a real server process over real TLS by the real client."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import time
import uuid
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.contract.wire import EVENT, Follower, answer_to, challenge, refusal
from tests.control.process import STOP_S, Coordinator, Keys, running
from tests.control.served import until
from tests.unit.batches import packed
from ztlab.client.admin import AdminClient
from ztlab.client.node import NodeClient
from ztlab.client.transport import fetch_authority
from ztlab.errors import Refused, Unreachable
from ztlab.model import proof
from ztlab.model.logbatch import OFFSETS, SIZE
from ztlab.model.management import ANY_TAG

LOW_ORDER = base64.b64encode(bytes(31) + b"\x00").decode()
NOT_REDUCED = base64.b64encode((2**255 - 19 + 9).to_bytes(32, "little")).decode()
HIGH_BIT = base64.b64encode(b"\x09" + bytes(30) + b"\x80").decode()


@pytest.fixture
def name() -> str:
    return f"n{uuid.uuid4().hex[:8]}"


# --- the pinned authority


def test_the_authority_comes_from_health_and_is_proven_by_the_setup_keys_hash(
    coordinator: Coordinator, admin: AdminClient
) -> None:
    key = admin.create_setup_key(role="mesh").key
    assert key is not None
    assert fetch_authority(coordinator.url, proof.authority_of(key)) == coordinator.authority


def test_another_authority_than_the_pinned_one_is_refused(coordinator: Coordinator) -> None:
    with pytest.raises(Refused, match="not the pinned one"):
        fetch_authority(coordinator.url, bytes(32))


def test_a_server_of_another_authority_gets_no_word_out_of_a_client(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    from coordinator import tls

    tls.prepare(tmp_path, ("127.0.0.1",))
    client = NodeClient(coordinator.url, tls.read_authority(tmp_path), "a token")
    with closing(client), pytest.raises(Unreachable, match="TLS failed"):
        client.stream()


def test_a_certificate_for_another_name_is_refused(coordinator: Coordinator) -> None:
    def connect(address: tuple[str, int], timeout: float | None) -> socket.socket:
        port = int(coordinator.url.rpartition(":")[2])
        return socket.create_connection(("127.0.0.1", port), timeout)

    client = NodeClient(
        "https://elsewhere.example:8443", coordinator.authority, socket_factory=connect
    )
    with closing(client), pytest.raises(Unreachable, match="TLS failed"):
        client.stream()


def test_the_tcp_connection_may_be_made_by_the_caller(coordinator: Coordinator) -> None:
    asked: list[tuple[str, int]] = []
    port = int(coordinator.url.rpartition(":")[2])

    def connect(address: tuple[str, int], timeout: float | None) -> socket.socket:
        asked.append(address)
        return socket.create_connection(("127.0.0.1", port), timeout)

    client = AdminClient(
        "https://localhost:1", coordinator.authority, coordinator.owner, socket_factory=connect
    )
    with closing(client):
        assert client.network().name == "test"
    assert asked == [("localhost", 1)]


def test_old_tls_is_refused(coordinator: Coordinator) -> None:
    port = int(coordinator.url.rpartition(":")[2])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=coordinator.authority)
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", port)) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw, server_hostname="127.0.0.1")


# --- enrolment and tokens


def test_a_node_enrols_renews_its_token_and_is_known(
    coordinator: Coordinator, admin: AdminClient, name: str
) -> None:
    client, keys = coordinator.enrol(name)
    first = client.token
    client.renew(public_key=keys.public, prove=keys.prove)
    assert client.token not in (None, first)
    with client.stream() as stream:
        assert next(stream).kind == "config"
    node = admin.node(name)
    assert (node.public_key, node.identity, node.role) == (keys.public, name, "mesh")
    assert node.last_contact_at is not None and not node.has_converged


def test_a_challenge_is_good_for_one_answer(coordinator: Coordinator, name: str) -> None:
    client, keys = coordinator.enrol(name)
    body = answer_to(client, challenge(client, keys, "token"), keys, "token")
    assert client._transport.request("POST", "/node/token", body)["token"]
    assert refusal(lambda: client._transport.request("POST", "/node/token", body)) == 401


def test_a_wrong_answer_uses_the_challenge_up(coordinator: Coordinator, name: str) -> None:
    client, keys = coordinator.enrol(name)
    body = answer_to(client, challenge(client, keys, "token"), keys, "token")
    wrong = {**body, "proof": base64.b64encode(bytes(32)).decode()}
    assert refusal(lambda: client._transport.request("POST", "/node/token", wrong)) == 401
    assert refusal(lambda: client._transport.request("POST", "/node/token", body)) == 401


def test_a_key_that_is_not_held_gets_no_token(coordinator: Coordinator, name: str) -> None:
    client, keys = coordinator.enrol(name)
    thief = Keys()
    assert refusal(lambda: client.renew(public_key=keys.public, prove=thief.prove)) == 401
    assert refusal(lambda: client.renew(public_key=thief.public, prove=thief.prove)) == 401


def test_a_proof_for_one_purpose_is_none_for_another(coordinator: Coordinator, name: str) -> None:
    client, keys = coordinator.enrol(name)
    given = challenge(client, keys, "rotate")
    body = answer_to(client, given, keys, "token")
    assert refusal(lambda: client._transport.request("POST", "/node/token", body)) == 401


@pytest.mark.parametrize("public_key", [LOW_ORDER, NOT_REDUCED, HIGH_BIT, "YQ==", "?"])
@pytest.mark.parametrize("purpose", ["enrol", "token"])
def test_a_malformed_or_low_order_key_is_422(
    coordinator: Coordinator, admin: AdminClient, public_key: str, purpose: str
) -> None:
    key = admin.create_setup_key(role="mesh").key or ""
    client = coordinator.node()
    body = {"purpose": purpose, "public_key": public_key}
    assert (
        refusal(lambda: client._transport.request("POST", "/node/challenge", body, bearer=key))
        == 422
    )


def test_a_setup_key_is_good_for_as_many_nodes_as_it_says(
    coordinator: Coordinator, admin: AdminClient, name: str
) -> None:
    key = admin.create_setup_key(role="mesh", uses=2).key or ""

    def join(number: int) -> None:
        keys = Keys()
        coordinator.node().enrol(
            setup_key=key,
            public_key=keys.public,
            name=f"{name}-{number}",
            endpoint=None,
            prove=keys.prove,
        )

    join(1)
    join(2)
    assert refusal(lambda: join(3)) == 401


def test_an_unknown_or_withdrawn_setup_key_is_401(
    coordinator: Coordinator, admin: AdminClient, name: str
) -> None:
    made = admin.create_setup_key(role="mesh")
    admin.delete_setup_key(made.id)
    for key in (made.key or "", proof.format_setup_key(bytes(32), bytes(32)), ""):
        ask = partial(challenge, coordinator.node(), Keys(), "enrol", key)
        assert refusal(ask) == 401


def test_two_nodes_cannot_have_one_name_and_a_revoked_key_never_returns(
    coordinator: Coordinator, admin: AdminClient, name: str
) -> None:
    _, keys = coordinator.enrol(name)
    assert refusal(lambda: coordinator.enrol(name)) == 409
    admin.revoke_node(name)
    assert refusal(lambda: coordinator.enrol(name, keys=keys)) == 409
    client, _ = coordinator.enrol(name)  # the name is free again
    assert admin.node(name).revoked_at is None
    assert refusal(lambda: client.renew(public_key=keys.public, prove=keys.prove)) == 401


# --- the stream


def test_the_stream_says_what_is_new_and_nothing_that_is_not(
    coordinator: Coordinator, admin: AdminClient, name: str
) -> None:
    client, _ = coordinator.enrol(name, role="client")
    with closing(Follower(client)) as follower:
        until(lambda: follower.kinds() == ["config"], "the first configuration comes")
        until(lambda: admin.node(name).has_converged, "it is acknowledged")
        before = admin.network().revision.number

        admin.create_identity(f"{name}-else")  # no business of a client's
        assert admin.network().revision.number == before + 1
        admin.update_node(name, new_name=name, identity=f"{name}-else", endpoint=None, etag="*")

        until(lambda: len(follower.events) == 2, "its own change comes")
        assert follower.kinds() == ["config", "config"]
        assert follower.events[1].config().node.identity == f"{name}-else"
        until(lambda: admin.node(name).has_converged, "that is acknowledged too")
        digest = follower.events[1].digest
    with closing(Follower(client, digest)) as again:
        until(lambda: again.kinds() == ["current"], "it is told that it has it")


def test_a_change_that_is_none_raises_no_revision(admin: AdminClient, name: str) -> None:
    first = admin.create_identity(name)
    second = admin.put(f"/identities/{name}", {"name": name}, etag="*")
    assert second == first


def test_a_newer_stream_ends_the_older(coordinator: Coordinator, name: str) -> None:
    client, _ = coordinator.enrol(name)
    with closing(Follower(client)) as older:
        until(lambda: older.kinds() == ["config"], "the older one runs")
        with closing(Follower(client)) as newer:
            until(lambda: older.has_ended, "the older one ends")
            until(lambda: newer.kinds() == ["config"], "the newer one runs")
            assert not newer.has_ended


def test_revocation_ends_the_stream_at_once_and_all_that_follows_is_403(
    coordinator: Coordinator, admin: AdminClient, name: str
) -> None:
    other, _ = coordinator.enrol(f"{name}-other")
    client, _ = coordinator.enrol(name)
    with closing(Follower(client)) as follower, closing(Follower(other)) as witness:
        until(lambda: follower.kinds() == ["config"], "it runs")
        admin.revoke_node(name)
        until(lambda: follower.has_ended, "its stream ends", within_s=1.0)

        def is_forgotten() -> bool:
            configs = [event.config() for event in witness.events if event.kind == "config"]
            return bool(configs) and name not in [peer.name for peer in configs[-1].peers]

        until(is_forgotten, "others lose it as a peer")
    assert refusal(client.stream) == 403
    assert refusal(lambda: client.push_logs(packed())) == 403


def test_two_nodes_converge_on_a_policy() -> None:
    with running() as here, closing(here.admin()) as admin:
        document = {
            "identities": ["web", "api"],
            "groups": {"all": ["web", "api"]},
            "policy": {"rules": [{"id": "r", "from": "web", "to": "api", "action": "allow"}]},
        }
        admin.put_document(document, etag=ANY_TAG)
        followers = [
            Follower(here.enrol("alice", identity="web")[0]),
            Follower(here.enrol("bob", identity="api", endpoint=None)[0]),
        ]
        until(lambda: admin.network().has_converged, "both acknowledge")
        network = admin.network()
        assert (network.nodes.total, network.nodes.converged) == (2, 2)
        alice = [e.config() for e in followers[0].events if e.kind == "config"][-1]
        assert [peer.name for peer in alice.peers] == ["bob"]
        assert alice.policy is not None and alice.policy.groups == {"all": ("web", "api")}

        assert here.stop() < STOP_S  # with both streams open
        until(lambda: all(f.has_ended for f in followers), "the streams end with it")
        for follower in followers:
            follower.close()


def test_a_refused_configuration_is_seen_and_has_not_converged(
    coordinator: Coordinator, admin: AdminClient, name: str
) -> None:
    client, _ = coordinator.enrol(name)
    with client.stream() as stream:
        event = next(stream)
    assert event.revision is not None and event.digest is not None
    client.ack(revision=event.revision, digest=event.digest, error="the tag does not fit")
    node = admin.node(name)
    assert node.applied is not None and node.applied.error == "the tag does not fit"
    assert not node.has_converged


def test_a_silent_stream_is_broken(coordinator: Coordinator, name: str) -> None:
    enrolled, _ = coordinator.enrol(name)
    client = coordinator.node(enrolled.token, heartbeat_s=0.1)
    with client.stream() as stream:
        assert next(stream).kind == "config"
        begun = time.monotonic()
        with pytest.raises(Unreachable):
            next(stream)
    assert 0.2 <= time.monotonic() - begun < 2.0


# --- logs


def test_a_batch_of_logs_is_stored_once(
    coordinator: Coordinator, admin: AdminClient, name: str
) -> None:
    client, _ = coordinator.enrol(name)
    web = {**EVENT, "verdict": "allowed", "source_tag": 5, "source_identity": "web"}
    batch = packed(EVENT, web)
    assert client.push_logs(batch) == 2
    assert client.push_logs(batch) == 2

    page = admin.logs(node=name)
    assert [item["verdict"] for item in page.items] == ["no_rule", "allowed"]
    assert {**page.items[0], "received_at": None} == {
        **EVENT,
        "node": name,
        "node_id": admin.node(name).id,
        "received_at": None,
    }
    assert len(admin.logs(node=name, identity="guest").items) == 1
    assert len(admin.logs(node=name, identity="api").items) == 2
    assert len(admin.logs(node=name, verdict="allowed", since="2026-01-01T00:00:00Z").items) == 1
    assert admin.logs(node=name, since="2026-02-01T00:00:00Z").items == ()

    assert client.push_logs(packed(EVENT, EVENT, EVENT)) == 3
    following = admin.logs(node=name, after=page.next)
    assert len(following.items) == 3
    assert admin.logs(node=name, after=following.next).items == ()


def test_a_batch_with_one_bad_event_stores_nothing(
    coordinator: Coordinator, admin: AdminClient, name: str
) -> None:
    client, _ = coordinator.enrol(name)
    batch = bytearray(packed(EVENT, EVENT))
    batch[len(batch) - SIZE + OFFSETS["verdict"]] = 99
    with pytest.raises(Refused, match=r"records\[1\].verdict: 99") as caught:
        client.push_logs(bytes(batch))
    assert caught.value.status == 422
    assert admin.logs(node=name).items == ()


# --- who may do what


def test_roles_read_write_and_own(coordinator: Coordinator, name: str) -> None:
    with closing(coordinator.admin()) as owner:
        tokens = {
            role: owner.call("POST", "/tokens", {"name": f"{name}-{role}", "role": role})["token"]
            for role in ("viewer", "editor")
        }
    with closing(coordinator.admin(tokens["viewer"])) as viewer:
        assert viewer.network().name == "test"
        assert refusal(lambda: viewer.create_identity(name)) == 403
        assert refusal(lambda: viewer.get("/tokens")) == 403
    with closing(coordinator.admin(tokens["editor"])) as editor:
        assert editor.create_identity(name).number > 0
        assert refusal(lambda: editor.create_setup_key(role="mesh")) == 403
        assert (
            refusal(lambda: editor.call("POST", "/tokens", {"name": "x", "role": "owner"})) == 403
        )
    with closing(coordinator.admin()) as owner:
        assert owner.create_setup_key(role="mesh").key
        owner.delete_token(f"{name}-editor")
    with closing(coordinator.admin(tokens["editor"])) as editor:
        assert refusal(editor.network) == 401


def test_a_nodes_token_is_no_administrators_and_the_other_way_round(
    coordinator: Coordinator, name: str
) -> None:
    client, _ = coordinator.enrol(name)
    with closing(coordinator.admin(client.token)) as impostor:
        assert refusal(impostor.network) == 401
    assert refusal(coordinator.node(coordinator.owner).stream) == 401


def test_nothing_that_is_secret_stands_in_the_store(
    coordinator: Coordinator, admin: AdminClient, name: str
) -> None:
    client, _ = coordinator.enrol(name)
    key = admin.create_setup_key(role="mesh").key or ""
    stored = b"".join(path.read_bytes() for path in (coordinator.directory / "state").glob("*.db*"))
    assert name.encode() in stored
    for secret in (client.token or "", coordinator.owner, key, key.split(".")[1]):
        assert len(secret) > 20 and secret.encode() not in stored


def raw_request(coordinator: Coordinator, head: str, body: bytes = b"") -> tuple[int, Any, str]:
    """Status, body and content type of one request, written by hand."""
    port = int(coordinator.url.rpartition(":")[2])
    context = ssl.create_default_context(cadata=coordinator.authority)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        lines = f"{head}\r\nHost: x\r\nConnection: close\r\n\r\n"
        tls.sendall(lines.encode() + body)
        answer = b""
        while part := tls.recv(65536):
            answer += part
    top, _, content = answer.partition(b"\r\n\r\n")
    kind = next(
        line.split(":", 1)[1].strip()
        for line in top.decode().splitlines()
        if line.lower().startswith("content-type")
    )
    return int(top.split()[1]), json.loads(content), kind


@pytest.mark.parametrize(
    ("status", "head", "body"),
    [
        (401, "GET /api/v1/network HTTP/1.1", b""),
        (401, "GET /api/v1/network HTTP/1.1\r\nAuthorization: Bearer \xff", b""),
        (404, "GET /nothing/here HTTP/1.1", b""),
        (405, "DELETE /api/v1/health HTTP/1.1", b""),
        (405, "OPTIONS /api/v1/nodes HTTP/1.1", b""),
        (415, "POST /api/v1/node/challenge HTTP/1.1\r\nContent-Length: 2", b"{}"),
        (400, "POST /api/v1/node/challenge HTTP/1.1\r\nJSON\r\nContent-Length: 1", b"{"),
        (400, "POST /api/v1/node/challenge HTTP/1.1\r\nJSON\r\nContent-Length: 3", b"NaN"),
        (400, "POST /api/v1/node/challenge HTTP/1.1\r\nJSON\r\nContent-Length: 8", b'"\\ud800"'),
        (422, "POST /api/v1/node/challenge HTTP/1.1\r\nJSON\r\nContent-Length: 2", b"{}"),
        (
            413,
            "POST /api/v1/node/challenge HTTP/1.1\r\nJSON\r\nContent-Length: 70000",
            b"",
        ),
        (401, "PUT /api/v1/policy HTTP/1.1\r\nJSON\r\nContent-Length: 2", b"{}"),
        (413, "PUT /api/v1/policy HTTP/1.1\r\nJSON\r\nOWNER\r\nContent-Length: 8388609", b""),
        # What no application hears of is refused in the same words.
        (400, "NONSENSE", b""),
        (414, f"GET /{'a' * 5000} HTTP/1.1", b""),
        (431, f"GET /api/v1/health HTTP/1.1\r\nX: {'a' * 10000}", b""),
        (
            400,
            "POST /api/v1/node/challenge HTTP/1.1\r\nJSON\r\nTransfer-Encoding: chunked",
            b"ZZ\r\n",
        ),
    ],
)
def test_every_refusal_is_a_problem_document(
    coordinator: Coordinator, status: int, head: str, body: bytes
) -> None:
    head = head.replace("JSON", "Content-Type: application/json")
    head = head.replace("OWNER", f"Authorization: Bearer {coordinator.owner}")
    found, problem, kind = raw_request(coordinator, head, body)
    assert (found, kind) == (status, "application/problem+json")
    assert problem["status"] == status and problem["title"] and problem["detail"]
    assert status != 422 or {"path": "purpose", "message": "missing"} in problem["errors"]


def test_a_chunked_body_is_bounded_too(coordinator: Coordinator) -> None:
    head = (
        "PUT /api/v1/policy HTTP/1.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {coordinator.owner}\r\nTransfer-Encoding: chunked"
    )
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    status, problem, _ = raw_request(coordinator, head, chunk * 9 + b"0\r\n\r\n")
    assert (status, problem["status"]) == (413, 413)
