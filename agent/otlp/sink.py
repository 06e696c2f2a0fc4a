"""Pushes batches of log events to an OpenTelemetry collector: OTLP over HTTP, in protobuf.

As the specification has it ("OTLP/HTTP"): 2xx is success, perhaps a partial one, whose rejected
records are not sent again; 429, 502, 503, 504 and no answer at all are tried again, not before a
Retry-After, with the same bytes and so the same batch id; anything else is final.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)

from agent.events import Chunk
from agent.otlp import connect, encode
from agent.otlp.headers import HeadersFile
from agent.settings import OtlpSettings
from ztlab.client.transport import unreachable_if_broken
from ztlab.errors import Refused, SchemaError, Unreachable, ZtError

log = logging.getLogger(__name__)

RETRYABLE = frozenset({429, 502, 503, 504})
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
LONGEST_ASKED_S = 300.0  # that a Retry-After may ask for
ANSWER_BYTES = 64 * 1024
_PROTOBUF = "application/x-protobuf"
_GZIP = 16 + zlib.MAX_WBITS  # zlib.h, deflateInit2: "to write a simple gzip header and trailer"
_GZIP_LEVEL = 1  # names recur in every record: a twentieth is left, and 6 takes twice the time


class _Later(Exception):
    """Not now: after_s is what a Retry-After asked for; None: nothing was said."""

    def __init__(self, error: ZtError, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.after_s = error, after_s


class OtlpSink:
    """One collector. `push` is for one thread; it may take long, and ends soon after `stop`.

    who    the attributes of the resource, as of now
    dice   0..1, by which pauses differ between nodes
    """

    batch_events = encode.BATCH_EVENTS

    def __init__(
        self,
        settings: OtlpSettings,
        who: Callable[[], Mapping[str, str]],
        *,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.endpoint = settings.url
        self.retries = 0
        self._settings, self._who, self._dice = settings, who, dice
        self._headers = HeadersFile(settings.headers_path)
        self._stamp, self._pool = connect.stamp(settings), connect.pool(settings)
        self._pause_s = FIRST_PAUSE_S
        self._not_before = 0.0  # by the monotonic clock
        self._stop = threading.Event()
        self._told = ""

    @property
    def is_ready(self) -> bool:
        """Is there somebody to push to? Always: nobody has to enrol."""
        return True

    def push(self, batch: Chunk) -> int:
        """How many events of BATCH the collector took; ZtError where it took none."""
        body = self._body(batch)
        give_up_at: float | None = None
        while True:
            self._wait()
            give_up_at = give_up_at or time.monotonic() + self._settings.retry_s
            try:
                rejected = self._send(body)
            except _Later as later:
                self._pause(later.after_s)
                if self._stop.is_set() or time.monotonic() >= give_up_at:
                    raise later.error from None
                self.retries += 1
                self._tell_once(str(later))
                continue
            self._pause_s, self._told = FIRST_PAUSE_S, ""
            return len(batch) - min(rejected, len(batch))

    def stop(self) -> None:
        """Try nothing again from now on."""
        self._stop.set()

    def status(self) -> dict[str, Any]:
        """What `zt-agent status` says of it."""
        return {"sink": "otlp", "endpoint": self.endpoint, "retries": self.retries}

    def _body(self, batch: Chunk) -> bytes:
        parts = encode.request(
            batch,
            batch_id=str(uuid.uuid4()),
            resource=self._who(),
            observed_ns=time.time_ns(),
        )
        if self._settings.compression == "gzip":
            packer = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP)
            return b"".join((*(packer.compress(part) for part in parts), packer.flush()))
        return b"".join(parts)

    def _wait(self) -> None:
        """Until the collector may be asked again; ZtError if the agent stops before that."""
        pause_s = self._not_before - time.monotonic()
        if pause_s > 0 and self._stop.wait(pause_s):
            raise Unreachable(f"{self.endpoint} wants to be asked later, and this agent stops")

    def _pause(self, asked_s: float | None) -> None:
        """Ask nothing for a while: as long as was asked for, or twice as long as before."""
        if asked_s is not None:
            pause_s = min(asked_s, LONGEST_ASKED_S) + self._dice()
        else:
            pause_s = self._pause_s * (0.5 + self._dice() / 2)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._not_before = time.monotonic() + pause_s

    def _tell_once(self, text: str) -> None:
        if text != self._told:
            log.warning("log events wait for the collector: %s", text)
        self._told = text

    def _send(self, body: bytes) -> int:
        """How many records were rejected; _Later where it may be tried again, else ZtError."""
        headers = {**self._own_headers(), "Content-Type": _PROTOBUF, "User-Agent": "ztlab"}
        if self._settings.compression == "gzip":
            headers["Content-Encoding"] = "gzip"
        self._follow_files()
        try:
            with unreachable_if_broken(self.endpoint):
                response = self._pool.urlopen(
                    "POST",
                    self._settings.target,
                    body=body,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    timeout=urllib3.Timeout(total=self._settings.timeout_s),
                )
                content = response.read(ANSWER_BYTES + 1, decode_content=True)
                if len(content) > ANSWER_BYTES:
                    response.close()  # what is left of it is left with its connection
                response.release_conn()
        except Unreachable as error:
            raise _Later(error) from None
        if 200 <= response.status < 300:
            return self._rejected(content)
        refusal = Refused(
            f"{self.endpoint}: {_reason(response.status, content, response.headers)}",
            status=response.status,
        )
        if response.status in RETRYABLE:
            raise _Later(refusal, retry_after_s(response.headers.get("Retry-After")))
        raise refusal

    def _follow_files(self) -> None:
        """Certificates are renewed under a running agent; half of a change is not taken over."""
        stamp = connect.stamp(self._settings)
        if stamp == self._stamp:
            return
        try:
            made = connect.pool(self._settings)
        except ZtError as error:
            self._tell_once(str(error))
            return
        self._pool.close()
        self._stamp, self._pool = stamp, made

    def _own_headers(self) -> Mapping[str, str]:
        try:
            return self._headers.read()
        except SchemaError as error:
            # Perhaps it is being written: without its token the batch would be refused for good.
            raise _Later(error) from None

    def _rejected(self, content: bytes) -> int:
        answer = ExportLogsServiceResponse()
        try:
            answer.ParseFromString(content)
        except DecodeError:
            return 0  # an answer of 200 says that all were taken, whatever is in it
        partial = answer.partial_success
        if partial.rejected_log_records or partial.error_message:
            log.warning(
                "%s rejected %d log records: %s",
                self.endpoint,
                partial.rejected_log_records,
                _line(partial.error_message) or "it does not say why",
            )
        return max(0, partial.rejected_log_records)


def retry_after_s(text: str | None) -> float | None:
    """What a Retry-After asks for (RFC 9110 section 10.2.3: seconds, or a date); None: nothing."""
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, at.timestamp() - time.time())


def _reason(status: int, content: bytes, headers: Mapping[str, str]) -> str:
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    text = ""
    if kind == _PROTOBUF:
        # A google.rpc.Status, whose first two fields (an integer, a text) are just like these.
        answer = ExportLogsPartialSuccess()
        try:
            answer.ParseFromString(content)
            text = answer.error_message
        except DecodeError:
            pass
    elif kind in ("text/plain", "application/json"):
        text = content.decode("utf-8", "replace")
    return f"HTTP {status}" + (f": {_line(text)}" if text.strip() else "")


def _line(text: str) -> str:
    """TEXT of somebody else's, for our log."""
    return "".join(c if c.isprintable() else " " for c in text[:200]).strip()
