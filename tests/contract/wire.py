"""What the tests of the wire share: refusals, a node at its stream, proofs by hand."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.control.process import Keys
from ztlab.client.node import EventStream, NodeClient, StreamEvent
from ztlab.errors import Refused, Unreachable
from ztlab.model import proof

EVENT: dict[str, Any] = {
    "at": "2026-01-31T12:00:00.000000Z",
    "kind": "flow",
    "verdict": "no_rule",
    "hook": "ingress",
    "source": "10.77.0.3",
    "destination": "10.77.0.2",
    "protocol": 6,
    "source_port": 43210,
    "destination_port": 8080,
    "source_identity": "guest",
    "destination_identity": "api",
    "source_tag": 4,
    "destination_tag": 3,
    "rule": None,
    "packets": 1,
    "length": 60,
    "began_at": None,
    "peer_node_id": None,
    "peer_client_id": None,
}


def refusal(call: Callable[[], object]) -> int | None:
    """The HTTP status that CALL is refused with."""
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.status


class Follower:
    """A node at its stream, in a thread: it notes every event and applies every configuration."""

    def __init__(self, client: NodeClient, digest: str | None = None) -> None:
        self.client = client
        self.events: list[StreamEvent] = []
        self.has_ended = False
        self.stream: EventStream = client.stream(digest=digest)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for event in self.stream:
                if event.kind == "config":
                    event.config()  # as it says it is, by its digest
                if event.revision is not None and event.digest is not None:
                    self.client.ack(revision=event.revision, digest=event.digest)
                self.events.append(event)
        except (Unreachable, Refused):
            pass
        self.has_ended = True

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def close(self) -> None:
        self.stream.close()
        self._thread.join(timeout=5)
        assert not self._thread.is_alive()


def challenge(client: NodeClient, key: Keys, purpose: str, bearer: str = "") -> dict[str, Any]:
    body = {"purpose": purpose, "public_key": key.public}
    answer = client._transport.request("POST", "/node/challenge", body, bearer=bearer)
    assert isinstance(answer, dict)
    return answer


def answer_to(
    client: NodeClient, given: dict[str, Any], key: Keys, purpose: Any, extra: bytes = b""
) -> dict[str, Any]:
    """The body that proves KEY on a challenge that was GIVEN."""
    transcript = proof.Transcript(
        purpose=purpose,
        network_id=given["network_id"],
        authority=client._transport.authority_hash,
        ephemeral_key=base64.b64decode(given["ephemeral_key"]),
        nonce=base64.b64decode(given["nonce"]),
        node_key=base64.b64decode(key.public),
        extra=extra,
    )
    return {
        "challenge_id": given["challenge_id"],
        "public_key": key.public,
        "proof": base64.b64encode(key.prove(transcript)).decode(),
    }
