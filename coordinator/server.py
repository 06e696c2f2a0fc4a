"""The service: gunicorn with one gevent worker that speaks TLS, as nobody in particular.

Imported only after gevent has patched the standard library (coordinator/cli.py sees to it): every
stream is a greenlet, and whatever was imported before would block all of them.

Order at the start: as root, load the key and bind; then drop everything; only then touch the store,
so that SQLite's side files belong to who will write them.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import socket
import time
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, NoReturn, cast

import gevent
from flask import Flask
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.http import errors as http_errors
from gunicorn.workers.ggevent import GeventWorker

from coordinator import audit, network, privileges, tls
from coordinator.api.context import EXTENSION, Service
from coordinator.api.problems import problem
from coordinator.app import create_app
from coordinator.background import Background
from coordinator.backup import in_use
from coordinator.certificates import RENEWAL_EVERY_S, Certificates
from coordinator.retention import LogRetention, Retention
from coordinator.settings import Settings
from coordinator.store import migrate
from coordinator.store.engine import opened
from ztlab.errors import HostUnfit, ZtError
from ztlab.notify import Notifier

log = logging.getLogger(__name__)

# Each of 5,000 agents has a stream, and for a while the connection of its acknowledgement.
MAX_CONNECTIONS = 20_000
MAX_FILES = 65_536
KEEPALIVE_S = 30
HANDSHAKE_S = 10.0
# Nobody may hold a connection by sending half a body, or by not reading. More than KEEPALIVE_S,
# which ends what is merely idle.
STALLED_S = 45.0
STOP_S = 1.0  # streams end at once; what else is under way gets this long


# What gunicorn refuses as 400 is not listed.
_UNPARSED = {
    http_errors.LimitRequestLine: 414,
    http_errors.LimitRequestHeaders: 431,
    http_errors.ExpectationFailed: 417,
    http_errors.UnsupportedTransferCoding: 501,
}


class Worker(GeventWorker):  # type: ignore[misc]
    """gunicorn's gevent worker, which stops at the signal instead of at the next full second, and
    ends the streams first: it would wait for them otherwise."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stopping = Event()
        self._busy = 0  # requests under way; a connection that only waits for one is not busy
        self._is_idle = Event()
        self._is_idle.set()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM from the master."""
        self.alive = False
        self._stopping.set()

    def run(self) -> None:
        """Serve until told to stop."""
        listener = self.sockets[0]
        listener.setblocking(1)
        pool = Pool(MAX_CONNECTIONS)
        server = StreamServer(
            listener,
            handle=partial(self.handle, listener),
            spawn=pool,
            ssl_context=self.app.certificates.shown.context,
            do_handshake_on_connect=False,
        )
        here: Service = cast(Flask, self.wsgi).extensions[EXTENSION]
        network.refresh(here.store, here.hub)
        with here.store.reading() as session:
            audit.show_head(session)
        _collect_less()
        # The certificate may be another one by then (coordinator/certificates.py).
        server.wrap_socket = lambda client, **options: (
            self.app.certificates.shown.context.wrap_socket(client, **options)
        )
        background = Background(here.store, here.hub)
        background.start()
        server.start()
        manager: Notifier = self.app.notifier
        manager.ready(f"listening on {self.app.settings.listen}")
        renewal_at = 0.0
        wanted: Settings = self.app.settings
        retention = Retention(here.store, wanted.revisions_kept)
        log_retention = LogRetention(here.store, wanted.log_retention_days, wanted.log_max_events)
        while self.alive:
            self.notify()
            manager.alive()
            retention.tick()
            log_retention.tick()
            self.app.certificates.look()
            if time.monotonic() >= renewal_at:
                self.app.certificates.renew_if_due()
                renewal_at = time.monotonic() + RENEWAL_EVERY_S
            self._stopping.wait(1.0)
        server.close()
        background.close()
        here.hub.close()
        self._is_idle.wait(STOP_S)
        here.store.close()
        _leave(0)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """One request: gunicorn's way, but counted, so that a stop waits for it."""
        self._busy += 1
        self._is_idle.clear()
        sock.settimeout(STALLED_S)
        try:
            return super().handle_request(listener_name, req, sock, addr)
        except TimeoutError as error:  # gunicorn would log it as if something were wrong here
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error
        finally:
            self._busy -= 1
            if not self._busy:
                self._is_idle.set()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """One connection. A peer that never finishes its handshake must not hold a greenlet."""
        try:
            with gevent.Timeout(HANDSHAKE_S):
                client.do_handshake()
        except (OSError, gevent.Timeout) as error:  # ssl.SSLError is an OSError: a scanner, say
            log.debug("TLS handshake with %s failed: %s", addr, error)
            client.close()
            return
        super().handle(listener, client, addr)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """What is refused before the application hears of it: a problem document as well."""
        if not isinstance(exc, http_errors.ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status = HTTPStatus(_UNPARSED.get(type(exc), 400))
        body = problem(status, status.phrase, f"this is no HTTP request: {exc}").get_data()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
            f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            util.write_nonblock(client, head.encode() + body)
        except OSError as error:
            log.debug("%s did not wait for its refusal: %s", addr, error)


class _RootLogger(Logger):  # type: ignore[misc]
    """gunicorn's messages through the one log of the program, and no access log."""

    def setup(self, cfg: Any) -> None:
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)

    def access(self, *_: Any) -> None:
        pass


class _Master(Arbiter):  # type: ignore[misc]
    def stop(self, graceful: bool = True) -> None:
        self.app.notifier.stopping()
        super().stop(graceful)


class _Gunicorn(BaseApplication):  # type: ignore[misc]
    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        certificates: Certificates,
        notifier: Notifier,
    ) -> None:
        self.settings = settings
        self.notifier = notifier
        self._listener = listener
        self.certificates = certificates
        super().__init__()

    def run(self) -> None:
        _Master(self).run()

    def load_config(self) -> None:
        where = tls.paths(self.settings)
        options = {
            "bind": f"fd://{self._listener.fileno()}",
            "workers": 1,
            "worker_class": "coordinator.server.Worker",
            "worker_connections": MAX_CONNECTIONS,
            "logger_class": _RootLogger,
            "keepalive": KEEPALIVE_S,
            "graceful_timeout": int(STOP_S) + 1,
            "timeout": 60,
            # Named, so that gunicorn knows that it speaks https; loaded they were already.
            "certfile": str(where.certificate),
            "keyfile": str(where.private_key),
            "ssl_context": lambda _config, _factory: self.certificates.shown.context,
            # gunicorn noted who we were when it was imported, and would go back to being root.
            "user": os.geteuid(),
            "group": os.getegid(),
            "umask": 0o077,
            "forwarded_allow_ips": "",
            "control_socket_disable": True,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return create_app(self.settings, self.certificates)


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. ZtError for whatever the operator can repair."""
    # Before gunicorn looks for the manager: it would call itself ready without a worker.
    notifier = Notifier.from_environment()
    user = _whom_to_become(settings)
    with suppress(ZtError, OSError):  # not who may: it is said below what that means
        tls.renew(settings)
    certificates = Certificates(settings)
    listener = _bind(settings)
    _allow_many_files()
    privileges.drop(user)
    try:
        with in_use(settings.directory):
            with opened(settings.database_url) as store:  # a connection must not survive the fork
                migrate.check(store.engine)
                network.reconcile(store)
            log.info("listening on %s", settings.listen)
            _Gunicorn(settings, listener, certificates, notifier).run()
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))


def _collect_less() -> None:
    """A collection that looks at everything, at thousands of nodes and rules, would stop everybody
    for a tenth of a second. What is there by now stays, and nearly all that goes has no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _allow_many_files() -> None:
    """As many connections as MAX_CONNECTIONS; a shell's limit is often 1,024 (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _leave(code: int) -> NoReturn:
    """End now: to take the interpreter apart piece by piece would cost a stop 0.2 s, twice."""
    logging.shutdown()
    os._exit(code & 0xFF)


def _whom_to_become(settings: Settings) -> privileges.Account | None:
    if os.geteuid() != 0:
        return None
    if settings.user is None:
        raise ZtError(
            "the coordinator does not run as root",
            hint="set `user` in its settings: it becomes that user and drops every capability",
        )
    return privileges.account(settings.user)


def _bind(settings: Settings) -> socket.socket:
    host, port = settings.address
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise HostUnfit(
            f"cannot listen on {settings.listen}: {error.strerror or error}",
            hint="is another coordinator running, is the address one of this machine's?",
        ) from error
