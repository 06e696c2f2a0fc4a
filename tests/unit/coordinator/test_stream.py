"""One stream: a configuration at once, then silence but for heartbeats, then an end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from coordinator import clock, network, nodes, stream
from coordinator.api.context import Service
from coordinator.hub import Sent, Subscription
from coordinator.nodes import Caller
from tests.unit.coordinator.test_network import add_identity, add_node, wanted
from ztlab.model.codec import decode
from ztlab.model.config import NodeConfig, Self
from ztlab.model.delta import Delta, apply

ON_BOTH_STORES = True

DIGEST = "0" * 64


def caller(node_id: str, *, token_s: float = 60.0) -> Caller:
    until = clock.now() + timedelta(seconds=token_s)
    return Caller(node_id=node_id, name="n1", token_expires_at=until)


def open_stream(
    service: Service,
    who: Caller,
    digest: str | None = None,
    heartbeat_s: float = 60.0,
    deltas: bool = False,
) -> Iterator[tuple[str, Any]]:
    """(event, data) pairs."""
    events = stream.events(
        service.store, service.hub, who, digest, heartbeat_s=heartbeat_s, deltas=deltas
    )
    for chunk in events:
        kind, data, *rest = chunk.decode().split("\n")
        assert rest == ["", ""]
        yield kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_a_node_that_has_nothing_is_told_everything(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    kind, data = next(open_stream(service, caller(node_id)))
    assert kind == "config"
    assert data["config"]["node"]["node_id"] == node_id
    assert set(data) == {"revision", "digest", "config"}


def test_a_node_that_has_it_all_is_told_so_and_then_hears_heartbeats(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    _, data = next(open_stream(service, caller(node_id)))
    again = open_stream(service, caller(node_id), data["digest"], heartbeat_s=0.01)
    assert next(again) == ("current", {k: data[k] for k in ("revision", "digest")})
    assert [next(again), next(again)] == [("heartbeat", {}), ("heartbeat", {})]


def test_a_change_of_its_own_wakes_it_and_others_do_not(service: Service) -> None:
    node_id = add_node(service, 1, "client")
    events = open_stream(service, caller(node_id), heartbeat_s=0.05)
    assert next(events)[0] == "config"
    add_identity(service, "no-business-of-a-client")
    assert next(events)[0] == "heartbeat"
    add_node(service, 2, "gateway")
    kind, data = next(events)
    assert kind == "config" and [peer["name"] for peer in data["config"]["peers"]] == ["n2"]


def test_rings_without_news_put_no_heartbeat_off(service: Service) -> None:
    node_id = add_node(service, 1, "client")
    events = open_stream(service, caller(node_id), heartbeat_s=0.3)
    assert next(events)[0] == "config"
    is_over = threading.Event()

    def ring() -> None:
        while not is_over.wait(0.01):
            service.hub.wake([node_id])

    bell = threading.Thread(target=ring)
    bell.start()
    try:
        began = time.monotonic()
        assert [next(events)[0] for _ in range(3)] == ["heartbeat"] * 3
        assert time.monotonic() - began > 0.6  # nor do they bring any on
    finally:
        is_over.set()
        bell.join()


def test_a_change_there_and_back_between_two_looks_moves_the_revision_only(
    service: Service,
) -> None:
    node_id = add_node(service, 1, "client")
    events = open_stream(service, caller(node_id))
    _, first = next(events)
    add_node(service, 2, "gateway")
    network.change(
        service.store, service.hub, lambda s: nodes.revoke(s, "n2", clock.now()) and None
    )
    kind, second = next(events)
    assert (kind, second["digest"]) == ("current", first["digest"])
    assert second["revision"]["number"] == first["revision"]["number"] + 2


def test_a_ring_just_as_the_time_runs_out_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    ear = Subscription()
    assert not ear.wait(0)

    def too_late(bell: threading.Event, _: float | None = None) -> bool:
        bell.set()  # as gevent's does when a busy process looks at the clock and then at the bell
        return False

    with monkeypatch.context() as patch:
        patch.setattr(threading.Event, "wait", too_late)
        assert ear.wait(0)
    assert not ear.wait(0)


def test_a_burst_of_changes_is_told_once_and_timed(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    events = open_stream(service, caller(node_id), heartbeat_s=0.05)
    next(events)
    for name in ("a", "b", "c"):
        add_identity(service, name)
    kind, data = next(events)
    assert kind == "config"
    assert {"a", "b", "c"} <= {identity["name"] for identity in data["config"]["identities"]}
    assert next(events)[0] == "heartbeat"
    pushes = service.hub.pushes
    assert pushes.count == 1 and stream.QUIET_S <= pushes.seconds < 10
    assert pushes.bytes > 500 and pushes.within[10.0] == 1 and pushes.within[0.01] == 0


def test_a_burst_that_does_not_end_is_told_all_the_same(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    events = open_stream(service, caller(node_id))
    next(events)
    stop = threading.Event()

    def ring() -> None:
        while not stop.wait(stream.QUIET_S / 4):
            service.hub.wake([node_id])

    ringing = threading.Thread(target=ring)
    ringing.start()
    try:
        add_identity(service, "news")
        assert next(events)[0] == "config"
    finally:
        stop.set()
        ringing.join()


def test_a_newer_stream_ends_the_older_and_is_left_alone(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    older = open_stream(service, caller(node_id))
    next(older)
    newer = open_stream(service, caller(node_id), heartbeat_s=0.01)
    next(newer)
    assert list(older) == []
    assert next(newer)[0] == "heartbeat"


def test_revocation_ends_it(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    events = open_stream(service, caller(node_id))
    next(events)
    revoke = threading.Timer(
        0.05,
        lambda: network.change(
            service.store, service.hub, lambda s: nodes.revoke(s, "n1", clock.now()) and None
        ),
    )
    revoke.start()
    assert list(events) == []
    revoke.join()


def test_it_ends_with_its_token(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    assert [kind for kind, _ in open_stream(service, caller(node_id, token_s=0.05))] == ["config"]


def test_a_stopping_hub_ends_every_stream_and_those_that_still_come(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    events = open_stream(service, caller(node_id))
    next(events)
    service.hub.close()
    assert list(events) == []
    assert list(open_stream(service, caller(node_id))) == []


def test_a_closed_stream_is_forgotten(service: Service) -> None:
    node_id = add_node(service, 1, "mesh")
    events = stream.events(service.store, service.hub, caller(node_id), None)
    next(events)
    assert node_id in service.hub._streams
    events.close()  # type: ignore[attr-defined]
    assert node_id not in service.hub._streams


def mesh_of_five(service: Service) -> str:
    """The id of one of them."""
    ids = [add_node(service, number, "mesh") for number in (1, 2, 3, 4, 5)]
    for name in "abcdefgh":
        add_identity(service, name)
    return ids[0]


def test_a_node_that_can_is_told_what_differs_and_then_has_what_it_should(
    service: Service,
) -> None:
    node_id = mesh_of_five(service)
    events = open_stream(service, caller(node_id), deltas=True)
    kind, whole = next(events)
    assert kind == "config"
    config = decode(NodeConfig, whole["config"])
    for name in ("x", "y"):
        add_identity(service, name)
        kind, data = next(events)
        assert kind == "delta" and set(data) == {"revision", "digest", "delta"}
        assert data["delta"]["base"] == config.digest()
        config = apply(config, decode(Delta, data["delta"]), data["digest"])
    assert config.digest() == wanted(service, node_id).digest


def test_a_node_that_comes_back_is_told_what_differs_from_what_it_had(service: Service) -> None:
    node_id = mesh_of_five(service)
    _, whole = next(open_stream(service, caller(node_id), deltas=True))
    add_identity(service, "x")
    again = open_stream(service, caller(node_id), whole["digest"], deltas=True)
    kind, data = next(again)
    assert (kind, data["delta"]["base"]) == ("delta", whole["digest"])


def test_who_has_it_all_when_we_start_is_told_what_differs_from_then_on(service: Service) -> None:
    node_id = mesh_of_five(service)
    _, whole = next(open_stream(service, caller(node_id), deltas=True))
    service.hub.sent = Sent()  # as after a restart
    events = open_stream(service, caller(node_id), whole["digest"], deltas=True)
    assert next(events)[0] == "current"
    add_identity(service, "another")
    kind, data = next(events)
    assert kind == "delta"
    config = decode(NodeConfig, whole["config"])
    config = apply(config, decode(Delta, data["delta"]), data["digest"])
    assert config.digest() == wanted(service, node_id).digest


def test_a_change_that_nobody_rang_for_is_told_at_the_next_heartbeat(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    node_id = add_node(service, 1, "mesh")
    events = open_stream(service, caller(node_id), heartbeat_s=0.05)
    assert next(events)[0] == "config"
    monkeypatch.setattr(service.hub, "wake", lambda _: None)
    add_identity(service, "unheard")
    assert next(events)[0] == "heartbeat"
    kind, data = next(events)
    assert kind == "config" and "unheard" in {one["name"] for one in data["config"]["identities"]}


def test_who_cannot_or_has_what_nobody_knows_is_told_everything(service: Service) -> None:
    node_id = mesh_of_five(service)
    _, whole = next(open_stream(service, caller(node_id)))
    add_identity(service, "x")
    assert next(open_stream(service, caller(node_id), whole["digest"]))[0] == "config"
    assert next(open_stream(service, caller(node_id), DIGEST, deltas=True))[0] == "config"


def test_what_was_sent_is_forgotten_when_it_is_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sent, "MOST", 2)
    sent = Sent()
    me = Self(node_id="a", name="a", role="mesh", identity="a", addresses=())
    config = NodeConfig(version=1, network_id="n", node=me)
    for digest in ("a", "b", "a", "c"):
        sent.put(digest, config)
    assert sent.get("b") is None and sent.get("a") is sent.get("c") is config
