"""The control socket's client: one JSON line there, one or (for observe) many back.

request   {"do": "status" | "apply" | "set-authz-mode" | "set-logging" | "rotate-key" | "rotation"
          | "observe", ...}
answer    {"ok": true, "result": ...} or {"ok": false, "error", "hint", "exit_code"}
observe   after the first answer: Event lines (docs/PROTOCOL.md); {"lost": N} where this reader was
          too slow, N in total
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ztlab.errors import NotFound, Unreachable, ZtError

DEFAULT_SOCKET = Path("/run/zt-agent/agent.sock")
SOCKET_VARIABLE = "ZT_AGENT_SOCKET"
REQUEST_BYTES = 16 * 2**20  # a configuration of tens of thousands of peers
ANSWER_S = 30.0
APPLY_S = 600.0  # a hundred thousand entries, on a machine that has much else to do


class ControlError(ZtError):
    """What the daemon answered; carries the exit code it had there."""

    def __init__(self, message: str, *, hint: str, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


def default_socket() -> Path:
    """$ZT_AGENT_SOCKET, else /run/zt-agent/agent.sock."""
    return Path(os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET)


def ask(path: Path, request: dict[str, Any], *, answer_s: float = ANSWER_S) -> Any:
    """The result of one request to the daemon on PATH; ZtError as the daemon raised it.

    answer_s  how long the answer may take, in seconds; Unreachable after that
    """
    with _connected(path) as connection:
        connection.settimeout(answer_s)
        _send(connection, request)
        with connection.makefile("rb") as answers:
            return _result(answers, path)


def observe(path: Path) -> Iterator[dict[str, Any]]:
    """Events as they happen, until the daemon ends."""
    with _connected(path) as connection:
        _send(connection, {"do": "observe"})
        with connection.makefile("rb") as answers:
            _result(answers, path)
            connection.settimeout(None)
            for line in answers:
                yield json.loads(line)


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_S)
    try:
        connection.connect(str(path))
    except FileNotFoundError as error:
        connection.close()
        raise NotFound(
            f"no agent listens on {path}",
            hint=f"is it running? another socket: --socket PATH, or ${SOCKET_VARIABLE}",
        ) from error
    except PermissionError as error:
        connection.close()
        raise ZtError(f"may not speak to the agent on {path}", hint="only root may") from error
    except OSError as error:
        connection.close()
        raise Unreachable(
            f"no agent answers on {path}: {error.strerror or error}", hint="is it running?"
        ) from error
    return connection


def _send(connection: socket.socket, request: dict[str, Any]) -> None:
    line = json.dumps(request).encode() + b"\n"
    if len(line) > REQUEST_BYTES:
        raise ZtError(f"the request has {len(line)} bytes, the agent takes {REQUEST_BYTES}")
    try:
        connection.sendall(line)
    except BrokenPipeError:
        pass  # refused before it was read: why is in the answer
    except OSError as error:
        raise Unreachable(f"the agent hung up: {error.strerror or error}") from error


def _result(answers: IO[bytes], path: Path) -> Any:
    try:
        line = answers.readline()
    except OSError as error:
        raise Unreachable(f"the agent on {path} does not answer: {error}") from error
    if not line:
        raise Unreachable(f"the agent on {path} hung up without an answer", hint="see its log")
    answer = json.loads(line)
    if not answer["ok"]:
        raise ControlError(
            answer["error"], hint=answer.get("hint", ""), exit_code=answer.get("exit_code", 1)
        )
    return answer["result"]
