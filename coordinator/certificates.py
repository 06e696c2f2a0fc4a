"""What the running service shows: its certificate, and the authorities that nodes shall pin.

Both may change under it without an outage: files are looked at each second, what fits together is
taken over for new connections, and open ones live on. What does not fit, half of a change above
all, is left where it is, and what was shown before is shown on.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from coordinator import clock, tls
from coordinator.settings import Settings
from ztlab.errors import ZtError

log = logging.getLogger(__name__)

RENEWAL_EVERY_S = 600.0


@dataclass(frozen=True, slots=True)
class Shown:
    """One state of the files.

    context      for connections that begin now
    authority    PEM of the one that the certificate is of
    authorities  PEM of each that nodes shall trust, the newest last
    expires_at   when the certificate ends
    """

    context: ssl.SSLContext
    authority: str
    authorities: tuple[str, ...]
    expires_at: datetime


class Certificates:
    """The files of SETTINGS, as they were last found to fit together; ZtError if they do not."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stamps = self._stat()
        self.shown = load(settings)
        self._refused: str | None = None

    def look(self) -> bool:
        """Take over what changed on the disk since; was there something?"""
        stamps = self._stat()
        if stamps == self._stamps:
            return False
        try:
            self.shown = load(self._settings)
        except ZtError as error:
            if str(error) != self._refused:  # said once; a change of several files ends in a moment
                log.warning("the certificate on disk is not taken over: %s", error)
            self._refused = str(error)
            return False
        self._stamps, self._refused = stamps, None
        log.info("new certificate, until %s", clock.rfc3339(self.shown.expires_at))
        return True

    def renew_if_due(self) -> None:
        """Make our own certificate anew in time, where the authority's key may be read here."""
        if not self.is_due():
            return
        if self._settings.certificate is None:
            try:
                tls.renew(self._settings)
                return
            except (ZtError, OSError) as error:
                log.debug("the certificate cannot be renewed from here: %s", error)
        log.warning(
            "the server certificate ends at %s: %s",
            clock.rfc3339(self.shown.expires_at),
            "put a new one in its place"
            if self._settings.certificate is not None
            else "run `zt-coordinator renew`, as who ran init",
        )

    def is_due(self) -> bool:
        """Is less than a third of its life left?"""
        left = self.shown.expires_at - clock.now()
        return left < timedelta(days=self._settings.certificate_days) / 3

    def _stat(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in tls.paths(self._settings).all)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def load(settings: Settings) -> Shown:
    """What stands in the files; ZtError unless certificate, key and an authority fit together."""
    where = tls.paths(settings)
    context = _context(where)
    authorities = tls.read_authorities(settings)
    for pem in authorities:
        if _is_trusted_by(context, pem):
            return Shown(context, pem, authorities, tls.expires_at(where.certificate))
    raise ZtError(
        f"{where.certificate} is of none of the authorities in "
        f"{', '.join(str(path) for path in where.authorities)}, or has expired",
        hint="nodes would refuse it; run `zt-coordinator init`, or give all three files anew",
    )


def _context(where: tls.Paths) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Both ends are ours, or a browser or a curl of this decade: nothing older is needed.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(where.certificate, where.private_key)
    except (OSError, ssl.SSLError) as error:
        raise ZtError(
            f"cannot load {where.certificate} and its key: {error}",
            hint="run `zt-coordinator init --config FILE` first; the service's user reads both",
        ) from error
    return context


def _is_trusted_by(context: ssl.SSLContext, authority: str) -> bool:
    """Would a node that pins AUTHORITY take what CONTEXT shows? Tried, in memory, by OpenSSL."""
    node = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    node.check_hostname = False  # names are for who connects by one
    try:
        node.load_verify_locations(cadata=authority)
    except (ssl.SSLError, ValueError) as error:
        raise ZtError(f"the authority is no PEM certificate: {error}") from error
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [node.wrap_bio(down, up), context.wrap_bio(up, down, server_side=True)]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return True
