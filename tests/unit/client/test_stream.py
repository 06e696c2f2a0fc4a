"""The stream, read from bytes that no honest coordinator would send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ztlab.client import node
from ztlab.client.node import EventStream, StreamEvent
from ztlab.errors import SchemaError, Unreachable
from ztlab.model.codec import encode
from ztlab.model.config import NodeConfig, Revision, Self
from ztlab.model.delta import Delta, ReplaceNode


class Response:
    """What of an HTTP response the stream needs: the body, in chunks without end."""

    connection = None

    def __init__(self, chunk: bytes) -> None:
        self.chunk, self.given = chunk, 0

    def stream(self, _: int) -> Iterator[bytes]:
        while True:
            self.given += len(self.chunk)
            yield self.chunk

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "chunk", [b"data: " + b"x" * 1000, b"event: config\ndata: x\n", b"event: config\n"]
)
def test_an_event_without_end_breaks_the_stream_and_not_the_node(
    chunk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "EVENT_BYTES", 100_000)
    response: Any = Response(chunk)
    with pytest.raises(Unreachable, match="an event of over 100000 B"):
        next(EventStream(response, "https://coordinator"))
    assert response.given < 300_000


def test_many_events_are_no_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "EVENT_BYTES", 1000)
    response: Any = Response(b"event: heartbeat\ndata: {}\n\n")
    stream = EventStream(response, "https://coordinator")
    assert {next(stream).kind for _ in range(500)} == {"heartbeat"}


ME = Self(node_id="a", name="bob", role="mesh", identity="api", addresses=("10.77.0.2/32",))
HELD = NodeConfig(version=1, network_id="n", node=ME)
NEXT = replace(HELD, node=replace(ME, identity="web"))
CHANGE = encode(Delta(base=HELD.digest(), operations=(ReplaceNode(node=NEXT.node),)))


def told(delta: object, digest: str = NEXT.digest()) -> StreamEvent:
    content = {"revision": {"epoch": "e", "number": 2}, "digest": digest, "delta": delta}
    response: Any = Response(b"event: delta\ndata: " + json.dumps(content).encode() + b"\n\n")
    return next(EventStream(response, "https://coordinator"))


def test_a_delta_is_read_off_the_stream_and_makes_the_next_configuration_of_the_one_held() -> None:
    event = told(CHANGE)
    assert (event.kind, event.revision) == ("delta", Revision(epoch="e", number=2))
    assert event.changed(HELD) == NEXT


def test_a_delta_that_does_not_fit_is_refused_with_the_path_of_what_is_wrong() -> None:
    assert told(CHANGE).changed(HELD) == NEXT  # control

    with pytest.raises(SchemaError, match=r"delta\.base: .* is not here"):
        told(CHANGE).changed(None)
    with pytest.raises(SchemaError, match="base: want"):
        told(CHANGE).changed(NEXT)
    with pytest.raises(SchemaError, match="digest: want"):
        told(CHANGE, digest=HELD.digest()).changed(HELD)
    broken = json.loads(json.dumps(CHANGE))
    broken["operations"][0]["node"]["role"] = "king"
    with pytest.raises(SchemaError, match=r"delta\.operations\[0\]\."):
        told(broken).changed(HELD)
