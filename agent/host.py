"""What the agent needs of the host around the interface, and gives back at the end."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from agent import state
from agent.settings import Settings
from agent.wireguard.backend import Address, Endpoint
from agent.wireguard.links import FWMARK, FWMARK_MASK, MarkRule
from ztlab.errors import HostUnfit, ZtError
from ztlab.model.config import NodeConfig

log = logging.getLogger(__name__)

SYSCTLS = Path("/proc/sys")
FORWARDING = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
# With a default route in the tunnel, strict rp_filter must look at the mark of what comes in
# outside it, or drops WireGuard's own packets (ip-sysctl, src_valid_mark).
TUNNEL_DEFAULT = {"net/ipv4/conf/all/src_valid_mark": "1"}


class Sysctls:
    """Kernel settings that were changed, with the values from before on file.

    On file, because after a kill -9 the successor finds its predecessor's values and would take
    them for the host's own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def set(self, values: Mapping[str, str]) -> None:
        """Make exactly VALUES hold: what is no longer among them goes back to what it was."""
        previous = self._previous()
        kept = {name: previous.get(name) or _read(name) for name in values}
        for name in previous.keys() - values.keys():
            _write(name, previous[name])
        if kept != previous:
            state.write_json(self._path, kept)
        for name, value in values.items():
            if _read(name) != value:
                _write(name, value)

    def repair(self, values: Mapping[str, str]) -> list[str]:
        """Set those of VALUES, which were set before, that somebody changed; their names."""
        changed = [name for name, value in values.items() if _read(name) != value]
        for name in changed:
            _write(name, values[name])
        return changed

    def restore(self) -> None:
        """Put everything back."""
        for name, value in self._previous().items():
            try:
                _write(name, value)
            except ZtError as error:
                log.warning("%s", error)
        self._path.unlink(missing_ok=True)

    def _previous(self) -> dict[str, str]:
        found = state.read_json(self._path)
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _read(name: str) -> str:
    try:
        return (SYSCTLS / name).read_text().strip()
    except OSError as error:
        raise ZtError(f"cannot read sysctl {name}: {error.strerror}") from error


def _write(name: str, value: str) -> None:
    try:
        (SYSCTLS / name).write_text(value)
    except OSError as error:
        raise ZtError(
            f"cannot set sysctl {name} to {value}: {error.strerror}",
            hint="is /proc/sys read-only here (a container)?",
        ) from error


class Surroundings:
    """What a configuration asks of the host around the interface, as far as SETTINGS allow."""

    def __init__(self, settings: Settings) -> None:
        self._interface, self._gateway = settings.wireguard.interface, settings.gateway
        self._sysctls = Sysctls(settings.run_path / "sysctls.json")

    def prepare(self, config: NodeConfig, last: NodeConfig | None, *, diverts: bool) -> None:
        """As CONFIG asks.

        last     what was asked before; None: nothing is known, and a predecessor may have asked
        diverts  a default route, or one that covers an endpoint, goes into the tunnel
        """
        self._sysctls.set(self._values(config, diverts))
        did, does = last and self._masquerades(last), self._masquerades(config)
        if did != does and (config.node.role == "gateway" or did is not None):
            set_masquerade(self._interface, enabled=does)

    def repair(self, config: NodeConfig, *, diverts: bool) -> Iterator[str]:
        """Put back what CONFIG asks for and somebody took away: which (agent/health.py)."""
        for name in self._sysctls.repair(self._values(config, diverts)):
            log.warning("the sysctl %s was changed: set again", name)
            yield "sysctls"
        if self._masquerades(config) and not is_masquerading(self._interface):
            set_masquerade(self._interface, enabled=True)
            log.warning("the masquerade table was removed: installed again")
            yield "masquerading"

    def _values(self, config: NodeConfig, diverts: bool) -> dict[str, str]:
        is_forwarder = config.node.role == "gateway" and self._gateway.forwarding
        return {**(FORWARDING if is_forwarder else {}), **(TUNNEL_DEFAULT if diverts else {})}

    def _masquerades(self, config: NodeConfig) -> bool:
        return config.node.role == "gateway" and self._gateway.masquerade


def set_masquerade(interface: str, *, enabled: bool) -> None:
    """Rewrite the source of what leaves the tunnel for elsewhere to this gateway's address."""
    # "add" makes "delete" safe where there is no table; both in one transaction (nft(8)).
    table = f"inet zt_nat_{interface}"  # of this interface: another agent has another one
    script = f"add table {table}\ndelete table {table}\n"
    if enabled:
        script += (
            f"table {table} {{\n"
            "  chain postrouting {\n"
            "    type nat hook postrouting priority srcnat; policy accept;\n"
            f'    iifname "{interface}" oifname != "{interface}" masquerade\n'
            "  }\n"
            "}\n"
        )
    try:
        subprocess.run(
            ["nft", "-f", "-"], input=script, text=True, check=True, capture_output=True, timeout=10
        )
    except FileNotFoundError as error:
        raise HostUnfit("nft is not installed", hint="apt-get install nftables") from error
    except subprocess.CalledProcessError as error:
        raise ZtError(f"nft refused the masquerade table: {error.stderr.strip()}") from error


def is_masquerading(interface: str) -> bool:
    """Is the table of `set_masquerade` there?"""
    command = ["nft", "list", "table", "inet", f"zt_nat_{interface}"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=10)
    return done.returncode == 0 and "masquerade" in done.stdout


def check_marks(mark_mask: int, rules: Iterable[MarkRule]) -> None:
    """HostUnfit where packet marks are already used for something else."""
    if mark_mask & FWMARK_MASK:
        raise HostUnfit(
            f"mark_mask {mark_mask:#010x} overlaps the bits of the agent's own fwmark "
            f"({FWMARK:#x}/{FWMARK_MASK:#x})",
            hint="choose [datapath] mark_mask above 0xfff",
        )
    for rule in rules:
        # An exact match (full mask) on a value clear of our bits never matched an unmarked packet,
        # and does not match one that we marked: wg-quick's rule is of this kind.
        is_exact = rule.mask == 0xFFFFFFFF
        used = rule.value if is_exact else rule.mask
        if used & mark_mask:
            raise HostUnfit(
                f"an ip rule looks at fwmark {rule.value:#x}/{rule.mask:#x}, bits that "
                f"mark_mask {mark_mask:#010x} claims",
                hint="choose another [datapath] mark_mask, or remove the rule (`ip rule`)",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What names resolved to: endpoints by their text, and the addresses of the coordinator, which
    stay outside the tunnel."""

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    outside: frozenset[Address] = frozenset()

    def looked_up(self, config: NodeConfig, coordinator: frozenset[Address]) -> Found:
        """The endpoints that CONFIG names; of what does not resolve now, the last answer."""
        named = _named(config)
        known = {text: at for text, at in self.endpoints.items() if text in named}
        return Found(endpoints=known | resolve(named), outside=coordinator or self.outside)

    def completed(self, config: NodeConfig, coordinator: frozenset[Address]) -> Found:
        """Likewise, but only what did not resolve before is looked up."""
        more = resolve(_named(config) - self.endpoints.keys())
        return Found(endpoints={**self.endpoints, **more}, outside=coordinator or self.outside)


def _named(config: NodeConfig) -> set[str]:
    return {peer.endpoint for peer in config.peers if peer.endpoint}


def addresses_of(url: str) -> frozenset[Address]:
    """The addresses of the host in URL; empty where its name does not resolve now."""
    parts = urlsplit(url)
    with contextlib.suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
        return frozenset(ip_address(entry[4][0]) for entry in found)
    return frozenset()


def resolve(endpoints: Iterable[str]) -> dict[str, Endpoint]:
    """HOST:PORT texts to endpoints; a name that does not resolve is left out, and logged."""
    resolved: dict[str, Endpoint] = {}
    for text in endpoints:
        host, _, port = text.rpartition(":")
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: no host name at all ("a..b")
            log.warning("endpoint %s does not resolve: %s", text, error)
            continue
        address = ip_address(found[0][4][0])
        resolved[text] = Endpoint(address=address, port=int(port))
    return resolved
