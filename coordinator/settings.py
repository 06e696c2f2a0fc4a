"""coordinator.toml, strictly read: docs/CONFIGURATION.md says what may stand in it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ztlab.errors import SchemaError, ZtError
from ztlab.model import codec
from ztlab.model.codec import field
from ztlab.model.config import check_endpoint
from ztlab.model.policy import check_name

SQLITE = "sqlite:///"
POSTGRES = "postgresql+psycopg://"
SERVER_DAYS = 90  # that our own server certificate is good for
_DNS_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


def _check_pools(pools: tuple[str, ...]) -> None:
    networks = []
    for pool in pools:
        try:
            networks.append(ip_network(pool, strict=True))
        except ValueError as error:
            raise ValueError(
                f"want an IP prefix in canonical form, got {pool!r} ({error})"
            ) from None
    if not networks:
        raise ValueError("want at least one pool, or no node gets an address")
    for i, one in enumerate(networks):
        if one.prefixlen > one.max_prefixlen - 2:
            raise ValueError(f"pool {one} has no room for nodes")
        for other in networks[i + 1 :]:
            if one.overlaps(other):
                raise ValueError(f"pools {one} and {other} overlap")


def _check_database(url: str) -> None:
    if url.startswith(POSTGRES):
        _check_postgres(url)
        return
    if not url.startswith(SQLITE):
        raise ValueError(f'want "{SQLITE}PATH" or "{POSTGRES}USER@HOST/NAME", got {url!r}')
    path = Path(url.removeprefix(SQLITE))
    if path.name in ("", ":memory:"):
        raise ValueError(f"want the path of a file in it, got {url!r}")
    if not path.is_absolute():
        raise ValueError(f"want an absolute path (four slashes), got {url!r}")


def _check_postgres(url: str) -> None:
    parts = urlsplit(url)
    if parts.password is not None or "password" in parse_qs(
        parts.query
    ):  # not repeated, wherever this message goes
        raise ValueError("want no password in it, this file is no secret: append ?passfile=FILE")
    if not parts.path.strip("/"):
        raise ValueError(f"want the name of a database at the end of it, got {url!r}")


def _check_days(days: int) -> None:
    if not 1 <= days <= 36500:
        raise ValueError(f"want 1 to 36500 days, got {days}")


def _check_events(most: int) -> None:
    if not 1000 <= most <= 10**12:
        raise ValueError(f"want at least 1000 events, got {most}")


def _check_directory(text: str) -> None:
    if not Path(text).is_absolute():
        raise ValueError(f"want an absolute path, got {text!r}")


def _check_names(names: tuple[str, ...]) -> None:
    if not names:
        raise ValueError("want at least one name, or no node can verify the certificate")
    for name in names:
        try:
            ip_address(name)
        except ValueError:
            if len(name) > 253 or not _DNS_NAME.fullmatch(name):
                raise ValueError(f"want IP addresses and DNS names, got {name!r}") from None


def _check_ttl(seconds: int) -> None:
    if not 10 <= seconds <= 86400:
        raise ValueError(f"want 10 to 86400 seconds, got {seconds}")


def _check_proxies(proxies: tuple[str, ...]) -> None:
    for proxy in proxies:
        try:
            ip_network(proxy, strict=True)
        except ValueError as error:
            raise ValueError(f"want addresses or IP prefixes, got {proxy!r} ({error})") from None


def _check_log_days(days: int) -> None:
    if not 1 <= days <= 825:
        raise ValueError(f"want 1 to 825 days, got {days}")


def _check_limit(count: int) -> None:
    if not 1 <= count <= 1_000_000:
        raise ValueError(f"want 1 to 1000000, got {count}")


def _check_kept(count: int) -> None:
    if not 1 <= count <= 1_000_000:
        raise ValueError(f"want 1 to 1000000 revisions, got {count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How often strangers may try, of each process: so many at once, and so many a minute then.

    failures    refusals of one address (IPv6: /64), and of one node or setup key
    challenges  of one key, asked for from one address
    audit_rows  that refusals may add to the audit log, of all addresses together
    """

    failures: int = field(default=60, check=_check_limit)
    failures_per_minute: int = field(default=60, check=_check_limit)
    challenges: int = field(default=20, check=_check_limit)
    challenges_per_minute: int = field(default=60, check=_check_limit)
    audit_rows: int = field(default=200, check=_check_limit)
    audit_rows_per_hour: int = field(default=200, check=_check_limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One coordinator.

    state_dir    store, TLS authority, server certificate
    database     SQLAlchemy URL; None: state_dir/ztlab.db
    listen       HOST:PORT to bind
    names        subject alternative names of the server's certificate: IP addresses and DNS names
    network      name of the network; read at init
    pools        tunnel addresses come from these prefixes; read at init
    user         who it becomes when it is started as root: a name or a number
    token_ttl_s  how long a node token is good for
    limits       how often strangers may try
    log_retention_days  log events are forgotten after so many days
    log_max_events   and the oldest of more than these
    revisions_kept   how many revisions can be read back and rolled back to
    trusted_proxies  whose X-Forwarded-For is believed: addresses or IP prefixes
    certificate_days  how long our own server certificate is good for
    certificate, private_key, authority
                 files of a certificate that was given instead, its chain included, and of the
                 authority (or several) that nodes pin; all three or none
    """

    state_dir: str = field(check=_check_directory)
    listen: str = field(check=check_endpoint)
    names: tuple[str, ...] = field(check=_check_names)
    network: str = field(check=check_name)
    pools: tuple[str, ...] = field(check=_check_pools)
    database: str | None = field(default=None, check=_check_database)
    user: str | int | None = field(default=None)
    token_ttl_s: int = field(default=3600, check=_check_ttl)
    limits: Limits = field(default_factory=Limits)
    log_retention_days: int = field(default=90, check=_check_log_days)
    log_max_events: int = field(default=5_000_000, check=_check_events)
    revisions_kept: int = field(default=1000, check=_check_kept)
    trusted_proxies: tuple[str, ...] = field(default=(), check=_check_proxies)
    certificate_days: int = field(default=SERVER_DAYS, check=_check_days)
    certificate: str | None = field(default=None, check=_check_directory)
    private_key: str | None = field(default=None, check=_check_directory)
    authority: str | None = field(default=None, check=_check_directory)

    def __post_init__(self) -> None:
        given = [self.certificate, self.private_key, self.authority]
        if any(given) and not all(given):
            raise ValueError("want certificate, private_key and authority together, or none")

    @property
    def directory(self) -> Path:
        return Path(self.state_dir)

    @property
    def database_url(self) -> str:
        return self.database or f"{SQLITE}{self.directory / 'ztlab.db'}"

    @property
    def database_file(self) -> Path | None:
        """Where SQLite's database is; None: the store is a PostgreSQL server."""
        url = self.database_url
        return Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) to bind; an IPv6 host without its brackets."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


def load(path: Path) -> Settings:
    """The settings in the file at PATH; SchemaError names file and key, ZtError if unreadable."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ZtError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SchemaError([f"{path}: {error}"]) from error
    try:
        return codec.decode(Settings, data)
    except SchemaError as error:
        raise SchemaError([f"{path}: {line}" for line in error.problems]) from None
