"""agent.toml, read strictly, and the two local switches with their override."""

from __future__ import annotations

import platform
import tomllib
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from agent import state
from agent.datapath.marks import MarkLayout
from ztlab.errors import SchemaError
from ztlab.model import codec
from ztlab.model.codec import field
from ztlab.model.config import check_endpoint
from ztlab.model.policy import check_name
from ztlab.model.verdict import AuthzMode

DEFAULT_MARK_MASK = 0xFF002000


def _check_port(port: int) -> None:
    if not 0 < port < 65536:
        raise ValueError(f"want a port from 1 to 65535, got {port}")


def _check_interface(name: str) -> None:
    if not 0 < len(name) <= 15 or "/" in name or any(c.isspace() for c in name):
        raise ValueError(f"want an interface name of 1 to 15 characters, got {name!r}")


def _check_mtu(mtu: int) -> None:
    if not 1280 <= mtu <= 65455:  # 1280: the least an IPv6 link may have (RFC 8200 section 5)
        raise ValueError(f"want an MTU from 1280 to 65455, got {mtu}")


def _check_url(given: str | tuple[str, ...]) -> None:
    urls = (given,) if isinstance(given, str) else given
    if not urls or len(set(urls)) < len(urls):
        raise ValueError("want each coordinator once, and at least one")
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError(f"want https://HOST[:PORT], got {url!r}")


def _check_collector(url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_plain = not (parts.username or parts.password or parts.fragment)
    if parts.scheme not in ("http", "https") or not host or not is_plain or parts.port == 0:
        raise ValueError("want https://HOST[:PORT][/PATH], without a name or password")
    if parts.scheme == "http" and not _is_this_machine(host):
        raise ValueError("want https://: who talks to whom must not be told in the clear")


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_mask(mask: int) -> None:
    MarkLayout.from_mask(mask)


def _check_listen(text: str) -> None:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 65536):
        raise ValueError(f"want HOST:PORT, got {text!r}")


def _check_buffer(size: int) -> None:
    if size < 4096:
        raise ValueError(f"want at least 4096 bytes, got {size}")


def _check_rate(value: int) -> None:
    if not 0 <= value < 2**32:
        raise ValueError(f"want a rate from 0 to {2**32 - 1}, got {value}")


def _check_share(value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"want a share above 0, up to 1, got {value}")


def _check_age(value: float) -> None:
    if not 0 < value <= 3600:
        raise ValueError(f"want seconds above 0, up to 3600, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WireGuardSettings:
    """mtu in bytes; endpoint: HOST:PORT that others dial, None: nobody dials this node;
    preshared_keys: a file (agent/wireguard/preshared.py), None: no peer has one."""

    interface: str = field(default="wg0", check=_check_interface)
    backend: Literal["auto", "kernel", "userspace"] = field(default="auto")
    listen_port: int = field(default=51820, check=_check_port)
    endpoint: str | None = field(default=None, check=check_endpoint)
    mtu: int = field(default=1420, check=_check_mtu)
    preshared_keys: str | None = field(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatapathSettings:
    """mark_mask: one judged bit (the lowest set) and above it a contiguous tag field."""

    loader: Literal["auto", "bcc", "libbpf"] = field(default="auto")
    mark_mask: int = field(default=DEFAULT_MARK_MASK, check=_check_mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What a node of role gateway does to its host; ignored on the others."""

    forwarding: bool = field(default=True)
    masquerade: bool = field(default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """Where the coordinator is, or each of its replicas, the one to begin with first; the setup
    key is read until the node is enrolled."""

    url: str | tuple[str, ...] = field(check=_check_url)
    setup_key_file: str

    @property
    def urls(self) -> tuple[str, ...]:
        """All of them."""
        return (self.url,) if isinstance(self.url, str) else self.url


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """listen: HOST:PORT, port 0 for any free one."""

    listen: str = field(default="127.0.0.1:9464", check=_check_listen)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpSettings:
    """An OpenTelemetry collector.

    endpoint      https://HOST[:PORT][/PATH]; without a path: /v1/logs; http:// on this machine only
    ca_file       PEM of who vouches for it; None: the system's authorities
    certificate   PEM of what the agent shows of itself (mTLS), and its private_key; None: nothing
    headers_file  more to send, a secret for instance (agent/otlp/headers.py)
    timeout_s     seconds that a request may take; retry_s: that a batch is tried again
    """

    endpoint: str = field(check=_check_collector)
    ca_file: str | None = field(default=None)
    certificate: str | None = field(default=None)
    private_key: str | None = field(default=None)
    headers_file: str | None = field(default=None)
    compression: Literal["gzip", "none"] = field(default="gzip")
    timeout_s: float = field(default=10.0, check=_check_age)
    retry_s: float = field(default=60.0, check=_check_age)

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("want certificate and private_key together, or none of them")

    @property
    def url(self) -> str:
        """Where batches are sent."""
        parts = urlsplit(self.endpoint)
        return urlunsplit(parts if parts.path.strip("/") else parts._replace(path="/v1/logs"))

    @property
    def target(self) -> str:
        """Its part that the request itself names."""
        parts = urlsplit(self.url)
        return urlunsplit(("", "", parts.path, parts.query, ""))

    @property
    def headers_path(self) -> Path | None:
        return Path(self.headers_file) if self.headers_file is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """buffer_bytes: of events held, 96 bytes each; flush_share: of it, 0..1; flush_after_s:
    seconds; denials_per_s: how many of one second become events, on each CPU, 0: all;
    flow_records_s: seconds between two passes over the flows."""

    buffer_bytes: int = field(default=6 * 2**20, check=_check_buffer)
    flush_share: float = field(default=0.25, check=_check_share)
    flush_after_s: float = field(default=1.0, check=_check_age)
    denials_per_s: int = field(default=1000, check=_check_rate)
    flow_records_s: float = field(default=10.0, check=_check_age)
    push: bool = field(default=True)
    sink: Literal["coordinator", "otlp"] = field(default="coordinator")
    otlp: OtlpSettings | None = field(default=None)

    def __post_init__(self) -> None:
        if self.sink == "otlp" and self.otlp is None:
            raise ValueError("sink is otlp: want [log.otlp] with its endpoint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """agent.toml. The two switches have no default: a node says what it does."""

    authz_mode: AuthzMode
    logging_enabled: bool
    name: str = field(default="", check=lambda name: check_name(name))
    state_dir: str = field(default="/var/lib/zt-agent")
    run_dir: str = field(default="/run/zt-agent")
    log_granularity: Literal["flow", "packet"] = field(default="flow")
    wireguard: WireGuardSettings = field(default_factory=WireGuardSettings)
    datapath: DatapathSettings = field(default_factory=DatapathSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    coordinator: CoordinatorSettings | None = field(default=None)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    log: LogSettings = field(default_factory=LogSettings)

    @property
    def state_path(self) -> Path:
        return Path(self.state_dir)

    @property
    def run_path(self) -> Path:
        return Path(self.run_dir)

    @property
    def socket_path(self) -> Path:
        """The control socket."""
        return self.run_path / "agent.sock"


def load(path: Path) -> Settings:
    """The settings in PATH; SchemaError names the file and the path of every fault in it."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SchemaError([f"{path}: cannot read it: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SchemaError([f"{path}: not TOML: {error}"]) from error
    try:
        settings = codec.decode(Settings, data)
    except SchemaError as error:
        raise SchemaError([f"{path}: {problem}" for problem in error.problems]) from None
    return settings if settings.name else replace(settings, name=_host_name())


def _host_name() -> str:
    name = platform.node().partition(".")[0]
    try:
        check_name(name)
    except ValueError:
        raise SchemaError(
            [f"name: the host name {name!r} cannot be a node's name"], hint='set name = "..."'
        ) from None
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """The two local switches as they stand: independent of each other and of the coordinator."""

    authz_mode: AuthzMode
    logging_enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Override:
    authz_mode: AuthzMode | None = field(default=None)
    logging_enabled: bool | None = field(default=None)


class LocalSwitches:
    """The switches of agent.toml, overridden by what an operator set since; survives a restart."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.state_path / "local.json"
        self._file = Switches(
            authz_mode=settings.authz_mode, logging_enabled=settings.logging_enabled
        )
        self._override = self._read()

    @property
    def current(self) -> Switches:
        """What holds now."""
        mode, logging = self._override.authz_mode, self._override.logging_enabled
        return Switches(
            authz_mode=self._file.authz_mode if mode is None else mode,
            logging_enabled=self._file.logging_enabled if logging is None else logging,
        )

    @property
    def overridden(self) -> tuple[str, ...]:
        """The names of the switches that do not come from agent.toml."""
        held = codec.encode(self._override)
        return tuple(name for name, value in held.items() if value is not None)

    def set_authz_mode(self, mode: AuthzMode) -> None:
        """Override authz_mode, on disk before this returns."""
        self._store(replace(self._override, authz_mode=mode))

    def set_logging(self, enabled: bool) -> None:
        """Override logging_enabled, on disk before this returns."""
        self._store(replace(self._override, logging_enabled=enabled))

    def _store(self, override: _Override) -> None:
        state.write_json(self._path, codec.encode(override))
        self._override = override

    def _read(self) -> _Override:
        data = state.read_json(self._path)
        if data is None and not self._path.exists():
            return _Override()
        try:
            return codec.decode(_Override, data)
        except SchemaError as error:
            # Falling back to the file could silently undo an "enforce": better not to start.
            raise SchemaError(
                [f"{self._path}: {problem}" for problem in error.problems],
                hint=f"remove {self._path} to go by agent.toml again, then `zt-agent set`",
            ) from None
