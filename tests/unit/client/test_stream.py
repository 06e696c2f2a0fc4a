"""The stream, read from bytes that no honest coordinator would send."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ztlab.client import node
from ztlab.client.node import EventStream
from ztlab.errors import Unreachable


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
