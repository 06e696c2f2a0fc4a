"""HTTPS to one coordinator: TLS verified against one pinned authority, errors as our own.

No urllib3 exception leaves this module: what was answered with a problem document is `Refused`, and
all that kept an answer from coming is `Unreachable`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError

from ztlab.errors import Refused, Unreachable, ZtError

SocketFactory = Callable[[tuple[str, int], float | None], socket.socket]
"""Makes a connected TCP socket to (host, port) within a timeout in seconds; raises OSError."""

API = "/api/v1"
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0
ANSWER_BYTES = 256 * 2**20  # of a coordinator that was verified: a page of everything there is
STRANGERS_BYTES = 64 * 1024  # of one that was not: a certificate, and little more
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n.*?\n-----END CERTIFICATE-----", re.DOTALL)


class _Connection(HTTPSConnection):
    """An HTTPSConnection whose TCP part may be made elsewhere, in a network namespace for one."""

    def __init__(
        self, *args: Any, socket_factory: SocketFactory | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._socket_factory = socket_factory

    def _new_conn(self) -> socket.socket:
        if self._socket_factory is None:
            return super()._new_conn()
        timeout = self.timeout if isinstance(self.timeout, (int, float)) else None
        try:
            made = self._socket_factory((self.host, self.port or 443), timeout)
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made


class _Pool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Connection


class _UnverifiedConnection(_Connection):
    """TLS without verification, for what is verified by its own hash."""

    def connect(self) -> None:
        super().connect()
        self.is_verified = True  # else urllib3 warns on stderr; the hash is what verifies


class _UnverifiedPool(_Pool):
    ConnectionCls = _UnverifiedConnection


class Transport:
    """Requests to the coordinator at URL ("https://HOST:PORT"), over verified TLS.

    url             or several, of replicas: from one that does not answer the next request goes to
                    the next
    authority_pem   what TLS is verified against: a certificate, or several while an authority is
                    rolled over; each connection is verified against exactly one of them
    token           sent as bearer token; may be set later
    socket_factory  makes the TCP connection; None: an ordinary one
    """

    def __init__(
        self,
        url: str | Sequence[str],
        authority_pem: str,
        token: str | None = None,
        *,
        socket_factory: SocketFactory | None = None,
    ) -> None:
        urls = (url,) if isinstance(url, str) else url
        pems = split_authorities(authority_pem)
        if not pems:
            raise ZtError(f"the authority of {urls[0]} is no PEM certificate")
        self._urls = tuple(one.rstrip("/") for one in urls)
        self.token = token
        self._trusted = [(authority_hash(pem), _verifying(self.url, pem)) for pem in pems]
        self._socket_factory = socket_factory
        self._turning = threading.Lock()
        self._pool = _pool(self.url, self._trusted[0][1], socket_factory)

    @property
    def url(self) -> str:
        """The one that requests go to now."""
        return self._urls[0]

    @property
    def authority_hash(self) -> bytes:
        """SHA-256 (32 bytes) of the authority that connections are verified against now."""
        return self._trusted[0][0]

    @property
    def trusted(self) -> tuple[bytes, ...]:
        """Likewise of each that is trusted, the one in use first."""
        return tuple(found for found, _ in self._trusted)

    def trust(self, authority_pem: str) -> None:
        """Verify new connections against these from now on; the one in use stays the first."""
        used = self.authority_hash
        found = [
            (authority_hash(p), _verifying(self.url, p)) for p in split_authorities(authority_pem)
        ]
        self._trusted = sorted(found, key=lambda one: one[0] != used) or self._trusted
        if self.authority_hash != used:
            self.reconnect()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str | int | None] | None = None,
        bearer: str | None = None,
        content_type: str | None = None,
    ) -> Any:
        """The decoded JSON answer to METHOD PATH (below /api/v1); None where there is no body.

        bearer        sent instead of the token; "" sends none
        content_type  BODY is bytes of this type; None: it is sent as JSON
        Refused with the status for an answer of 400 or above, Unreachable where none came.
        """
        answer, _ = self.exchange(
            method, path, body, query=query, bearer=bearer, content_type=content_type
        )
        return answer

    def exchange(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str | int | None] | None = None,
        bearer: str | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Any, Mapping[str, str]]:
        """Likewise, with more HEADERS to send; the answer and its headers."""
        with self._mapped():
            response = self._send(
                method,
                path,
                body,
                query=query,
                bearer=bearer,
                content_type=content_type,
                more=headers,
            )
            try:
                content = _bounded(response, ANSWER_BYTES)
            finally:
                response.release_conn()
        if response.status == 401 and len(self._trusted) > 1:
            # A proof is bound to the authority of the certificate that is shown now: perhaps these
            # connections are older than that.
            self.reconnect()
        answer = _answer(response.status, content, f"{method} {path}", response.headers)
        return answer, response.headers

    def open(
        self, path: str, *, query: Mapping[str, str | int | None], read_timeout_s: float
    ) -> urllib3.BaseHTTPResponse:
        """A GET whose body is still to be read; the caller releases it. Errors as in `request`."""
        with self._mapped():
            response = self._send(
                "GET", path, None, query=query, accept="text/event-stream", read_s=read_timeout_s
            )
            if response.status >= 400:
                content = _bounded(response, ANSWER_BYTES)
                _answer(response.status, content, f"GET {path}", response.headers)
        return response

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def _send(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        query: Mapping[str, str | int | None] | None = None,
        bearer: str | None = None,
        accept: str = "application/json",
        content_type: str | None = None,
        read_s: float | None = None,
        more: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        given = {k: v for k, v in (query or {}).items() if v is not None}
        target = API + path + (f"?{urlencode(given)}" if given else "")
        headers = {"Accept": accept, "User-Agent": "ztlab", **(more or {})}
        token = self.token if bearer is None else bearer
        if token:
            headers["Authorization"] = f"Bearer {token}"
        content = None
        if content_type is not None:
            headers["Content-Type"] = content_type
            content = body
        elif body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body, separators=(",", ":")).encode()
        for _ in self._trusted:
            try:
                return self._pool.urlopen(
                    method,
                    target,
                    body=content,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    timeout=urllib3.Timeout(
                        connect=CONNECT_TIMEOUT_S, read=read_s or READ_TIMEOUT_S
                    ),
                )
            except urllib3.exceptions.SSLError as error:
                if not _is_unverified(error):
                    raise
                # Not a certificate of this one: of the next, perhaps. Nothing was sent.
                failure = error
                self._trusted = [*self._trusted[1:], self._trusted[0]]
                self.reconnect()
        raise failure

    def reconnect(self) -> None:
        """Leave idle connections; those that are in use live on until they are done."""
        former, self._pool = (
            self._pool,
            _pool(self.url, self._trusted[0][1], self._socket_factory),
        )
        former.close()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        url = self.url
        try:
            with unreachable_if_broken(url):
                yield
        except Unreachable:
            self.leave(url)
            raise

    def leave(self, url: str) -> None:
        """URL does not answer: what follows goes to the next, if another one was not as quick."""
        with self._turning:
            if url != self.url or len(self._urls) == 1:
                return
            self._urls = (*self._urls[1:], url)
            self.reconnect()


@contextmanager
def unreachable_if_broken(url: str) -> Iterator[None]:
    """Turn whatever the network, TLS or HTTP raises inside into one Unreachable about URL."""
    try:
        yield
    except urllib3.exceptions.SSLError as error:
        raise Unreachable(
            f"{url}: TLS failed: {error}",
            hint="the server must hold a certificate of the pinned authority, for this very name",
        ) from error
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        # ValueError: urllib3 and http.client raise it for a file that was closed under a read.
        raise Unreachable(f"{url}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What an operator can use of ERROR: where there was no connection, what the system said."""
    cause = error.__cause__
    if isinstance(error, NewConnectionError) and isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(error) or type(error).__name__


def split_authorities(text: str) -> tuple[str, ...]:
    """Each certificate in TEXT, in PEM, once, in its order."""
    return tuple(dict.fromkeys(block + "\n" for block in _CERTIFICATE.findall(text)))


def _verifying(url: str, pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise ZtError(f"the authority of {url} is no PEM certificate: {error}") from error
    return context


def _is_unverified(error: Exception) -> bool:
    """Did the handshake fail at the certificate?"""
    return any(
        isinstance(part, ssl.SSLCertVerificationError) for part in (*error.args, error.__cause__)
    )


def _bounded(response: urllib3.BaseHTTPResponse, most: int) -> bytes:
    """The body; Unreachable if it is larger than MOST bytes, whoever sends it."""
    content = response.read(most + 1)
    if len(content) > most:
        response.close()
        raise Unreachable(f"the answer has over {most} bytes")
    return content


def authority_hash(pem: str) -> bytes:
    """SHA-256 (32 bytes) of the DER of the certificate in PEM; ZtError if there is none."""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest()
    except ValueError as error:
        raise ZtError(f"not a PEM certificate: {error}") from error


def fetch_authority(
    url: str, expected_sha256: bytes, *, socket_factory: SocketFactory | None = None
) -> str:
    """The PEM of the coordinator's TLS authority, proven by its hash and by nothing else.

    Reads /health over unverified TLS. Refused if the hash of the certificate that came is another
    one, Unreachable if nothing came.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    pool = _pool(url, context, socket_factory, _UnverifiedPool)
    try:
        with unreachable_if_broken(url):
            response = pool.urlopen(
                "GET",
                API + "/health",
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
                assert_same_host=False,
                preload_content=False,
            )
            content = _bounded(response, STRANGERS_BYTES)
    finally:
        pool.close()
    answer = _answer(response.status, content, "GET /health")
    pem = answer.get("authority") if isinstance(answer, dict) else None
    if not isinstance(pem, str) or len(split_authorities(pem)) != 1:
        raise Refused(f"{url}/api/v1/health names no authority", status=response.status)
    try:
        found = authority_hash(pem)
    except ZtError as error:
        raise Refused(f"{url}/api/v1/health: {error}", status=response.status) from error
    if not hmac.compare_digest(found, expected_sha256):
        raise Refused(
            f"{url} shows an authority that is not the pinned one ({found.hex()[:16]}…)",
            hint="the setup key is of another coordinator, or somebody is in between",
        )
    return pem


def _pool(
    url: str,
    context: ssl.SSLContext,
    socket_factory: SocketFactory | None,
    kind: type[_Pool] = _Pool,
) -> _Pool:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/"):
        raise ZtError(f"want https://HOST:PORT as the coordinator's URL, got {url!r}")
    return kind(
        parts.hostname,
        parts.port or 443,
        ssl_context=context,
        maxsize=4,
        socket_factory=socket_factory,
    )


def _answer(
    status: int, content: bytes, what: str, headers: Mapping[str, str] | None = None
) -> Any:
    try:
        answer = json.loads(content) if content else None
    except ValueError:
        answer = None
        if status < 400:
            raise Unreachable(f"{what}: the answer is no JSON") from None
    if status < 400:
        return answer
    problem = answer if isinstance(answer, dict) else {}
    lines = [str(problem.get("detail") or problem.get("title") or f"HTTP {status}")]
    faults = problem.get("errors")
    for fault in faults if isinstance(faults, list) else ():
        if isinstance(fault, dict):
            lines.append(f"  {fault.get('path')}: {fault.get('message')}")
    after = (headers or {}).get("Retry-After", "")  # a date is not what a coordinator sends
    seconds = int(after) if after.isascii() and after.isdigit() and len(after) < 10 else 0
    raise Refused(f"{what}: " + "\n".join(lines), status=status, retry_after_s=seconds)
