"""The control socket's server: root only, bounded, and never in the data plane's way."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.control import REQUEST_BYTES
from agent.flowlog import Observer
from ztlab.errors import HostUnfit, ZtError

log = logging.getLogger(__name__)

REQUEST_S = 10.0  # from connect to a whole request
WRITE_S = 10.0  # a reader that takes nothing for so long is gone
CONNECTIONS = 64  # at once
OBSERVERS = 32  # of these: whoever watches never keeps an operator from the switches

Handler = Callable[[Mapping[str, Any]], Any]
"""Answers one request; raises ZtError."""


class ControlServer:
    """Serves HANDLERS by the request's "do", and "observe" as a live stream."""

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        *,
        subscribe: Callable[[], Observer],
        unsubscribe: Callable[[Observer], None],
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._subscribe, self._unsubscribe = subscribe, unsubscribe
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._seats = threading.BoundedSemaphore(OBSERVERS)
        self._stop = threading.Event()
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Listen; a socket that a dead predecessor left is replaced."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old_umask = os.umask(0o177)  # 0600 from the first moment on
        try:
            self._path.unlink(missing_ok=True)
            listener.bind(str(self._path))
        except OSError as error:
            listener.close()
            raise HostUnfit(f"cannot listen on {self._path}: {error.strerror or error}") from error
        finally:
            os.umask(old_umask)
        listener.listen(16)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="control", daemon=True).start()

    def stop(self) -> None:
        """Listen no longer and end the streams."""
        self._stop.set()
        if self._listener is not None:
            # shutdown wakes the accept; close alone would leave it waiting.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._path.unlink(missing_ok=True)

    def _accept(self, listener: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if not self._slots.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._converse(connection)
        except OSError:
            pass  # the client went away: nobody to tell
        except Exception:
            log.exception("a control request failed on a bug")
        finally:
            self._slots.release()

    def _converse(self, connection: socket.socket) -> None:
        connection.settimeout(REQUEST_S)
        try:
            _check_peer(connection)
            request = _request(connection)
            if request.get("do") == "observe":
                self._observe(connection)
                return
            handler = self._handlers.get(str(request.get("do")))
            if handler is None:
                raise ZtError(f"the agent cannot do {request.get('do')!r}")
            answer = {"ok": True, "result": handler(request)}
        except ZtError as error:
            answer = {
                "ok": False,
                "error": str(error),
                "hint": error.hint,
                "exit_code": error.exit_code,
            }
        _send(connection, answer)

    def _observe(self, connection: socket.socket) -> None:
        if not self._seats.acquire(blocking=False):
            raise ZtError(f"{OBSERVERS} observers watch already", hint="end one of them")
        try:
            self._stream(connection)
        finally:
            self._seats.release()

    def _stream(self, connection: socket.socket) -> None:
        observer = self._subscribe()
        told = 0
        try:
            _send(connection, {"ok": True, "result": None})
            connection.settimeout(WRITE_S)
            while not self._stop.is_set() and not _has_hung_up(connection):
                record = observer.next(0.2)
                if record is not None:
                    _send(connection, record)
                if observer.lost > told:
                    told = observer.lost
                    _send(connection, {"lost": told})
        finally:
            self._unsubscribe(observer)


def _check_peer(connection: socket.socket) -> None:
    """ZtError for a client that is neither root nor who the agent runs as (unix(7))."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _pid, uid, _gid = struct.unpack("3i", raw)
    if uid not in (0, os.geteuid()):
        raise ZtError("only root may control the agent", hint="use sudo")


def _request(connection: socket.socket) -> Mapping[str, Any]:
    with connection.makefile("rb") as lines:
        line = lines.readline(REQUEST_BYTES + 1)
    if len(line) > REQUEST_BYTES:
        raise ZtError(f"a request has at most {REQUEST_BYTES} bytes")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):  # RecursionError: nested a thousand deep
        request = None
    if not isinstance(request, dict):
        raise ZtError("a request is one line with one JSON object")
    return request


def _send(connection: socket.socket, value: Any) -> None:
    connection.sendall(json.dumps(value).encode() + b"\n")


def _has_hung_up(connection: socket.socket) -> bool:
    # Asked of poll: recv would wait for the socket's timeout, MSG_DONTWAIT or not.
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    return bool(waiting.poll(0)) and connection.recv(1) == b""
