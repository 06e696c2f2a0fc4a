"""Links, addresses, routes and rules: all of rtnetlink that the agent touches, behind plain values.

Routes for AllowedIPs lie in the main table, except those that would pull a WireGuard endpoint or
the coordinator into the tunnel (a default route always does). These lie in a table of our own:

    PRIORITY     to COORDINATOR lookup main
    PRIORITY+1   lookup main suppress_prefixlength 0      (whatever is more specific than a default)
    PRIORITY+2   not fwmark FWMARK/FWMARK_MASK lookup TABLE

WireGuard marks its own UDP packets with FWMARK, so they pass over the third.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from agent.netlink import IPRoute, NetlinkError
from agent.wireguard.backend import Route, port_taken
from ztlab.errors import ZtError

FWMARK = 0x0A74  # clear of the default mark_mask, wg-quick, Kubernetes and Tailscale
FWMARK_MASK = 0x0FFF
TABLE = 0x0A74
PRIORITY = 10740
PROTOCOL = 74  # rtm_protocol: how our routes and rules are told from others' (rtnetlink(7))
MAIN = 254
INCOMPLETE = frozenset({"incomplete"})  # in the place of addresses: like none that are wanted
ROUTE_METRIC_6 = 74
_FR_INVERT = 0x00000002  # FIB_RULE_INVERT, linux/fib_rules.h
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkRule:
    """What an `ip rule` of somebody else looks at in a packet's mark."""

    value: int
    mask: int


def family_of(prefix: str) -> socket.AddressFamily:
    """AF_INET or AF_INET6, of a prefix or an address."""
    return socket.AF_INET6 if ":" in prefix else socket.AF_INET


class Links:
    """rtnetlink of the network namespace this process is in."""

    def __init__(self) -> None:
        self._netlink: Any = IPRoute()

    def close(self) -> None:
        self._netlink.close()

    def index(self, name: str) -> int | None:
        """The interface's index; None where there is none of that name."""
        found = self._netlink.link_lookup(ifname=name)
        return int(found[0]) if found else None

    def kind(self, name: str) -> str | None:
        """`wireguard`, `tun`, ...; "" where the kernel does not say; None: no such interface."""
        index = self.index(name)
        if index is None:
            return None
        try:
            (link,) = self._netlink.get_links(index)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise
        info = link.get_attr("IFLA_LINKINFO")
        return (info and info.get_attr("IFLA_INFO_KIND")) or ""

    def create(self, name: str, kind: str) -> None:
        """Make a link; NetlinkError as the kernel says it (the caller reads its code)."""
        self._netlink.link("add", ifname=name, kind=kind)

    def delete(self, name: str) -> None:
        """Remove a link, its addresses and its routes; no error where there is none."""
        index = self.index(name)
        if index is not None:
            with _allowing(errno.ENODEV, what=f"remove {name}"):
                self._netlink.link("del", index=index)

    def is_up(self, name: str) -> bool:
        """Is it administratively up?"""
        index = self.index(name)
        if index is None:
            return False
        (link,) = self._netlink.get_links(index)
        return bool(link["flags"] & 1)  # IFF_UP

    def set_up(self, name: str, *, mtu: int, listen_port: int) -> None:
        """Set the MTU (bytes) and bring it up, without a link-local address of its own.

        A kernel's WireGuard has none; a tun would make one up and solicit routers into the tunnel.
        LISTEN_PORT is only for the error: the kernel's WireGuard opens its socket now, and not when
        it is told the port.
        """
        # No such file: IPv6 is off.
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode").write_text("1")
        try:
            self._netlink.link("set", index=self._existing(name), mtu=mtu, state="up")
        except NetlinkError as error:
            if error.code == errno.EADDRINUSE:
                raise port_taken(name, listen_port, error.args[1]) from error
            raise ZtError(f"cannot bring {name} up: {error.args[1]}") from error

    def addresses(self, name: str) -> frozenset[str]:
        """Its addresses as they stand, with their lengths, but for the link-local ones, which are
        the kernel's."""
        index = self.index(name)
        if index is None:
            return frozenset()
        found = (
            ip_interface(f"{a.get_attr('IFA_LOCAL') or a.get_attr('IFA_ADDRESS')}/{a['prefixlen']}")
            for a in self._netlink.get_addr(index=index)
        )
        return frozenset(str(address) for address in found if not address.is_link_local)

    def add_address(self, name: str, prefix: str) -> None:
        """Add an address (/32 or /128); no error where it is there."""
        self._address("add", name, prefix, errno.EEXIST)

    def remove_address(self, name: str, prefix: str) -> None:
        """Remove an address; no error where it is not there."""
        self._address("del", name, prefix, errno.EADDRNOTAVAIL)

    def _address(self, verb: str, name: str, prefix: str, harmless: int) -> None:
        address, _, length = prefix.partition("/")
        with _allowing(harmless, what=f"{verb} the address {prefix} on {name}"):
            self._netlink.addr(
                verb, index=self._existing(name), address=address, prefixlen=int(length)
            )

    def routes(self, name: str) -> frozenset[Route]:
        """The routes through the interface that this agent (or its predecessor) made."""
        index = self.index(name)
        found: set[Route] = set()
        if index is None:
            return frozenset()
        for family in _FAMILIES:
            for route in self._netlink.get_routes(family=family, oif=index, proto=PROTOCOL):
                if route["proto"] != PROTOCOL or route.get_attr("RTA_OIF") != index:
                    continue
                table = route.get_attr("RTA_TABLE")
                if table not in (MAIN, TABLE):
                    continue
                zero = "::" if family == socket.AF_INET6 else "0.0.0.0"
                prefix = f"{route.get_attr('RTA_DST') or zero}/{route['dst_len']}"
                found.add(Route(prefix=prefix, table="main" if table == MAIN else "tunnel"))
        return frozenset(found)

    def add_route(self, name: str, route: Route) -> None:
        """Send a prefix into the tunnel; no error where it goes there already."""
        try:
            self._netlink.route("add", **self._route(name, route))
        except NetlinkError as error:
            hint = ""
            if error.code == errno.EEXIST and route not in self.routes(name):
                hint = "another interface has a route for exactly this prefix: which one is right?"
            elif error.code == errno.EEXIST:
                return
            raise ZtError(
                f"cannot send {route.prefix} into {name}: {error.args[1]}", hint=hint
            ) from error

    def remove_route(self, name: str, route: Route) -> None:
        """Take it back; no error where it is not there."""
        with _allowing(errno.ESRCH, errno.ENODEV, what=f"remove the route {route.prefix}"):
            self._netlink.route("del", **self._route(name, route))

    def _route(self, name: str, route: Route) -> dict[str, Any]:
        family = family_of(route.prefix)
        entry = {
            "dst": route.prefix,
            "family": family,
            "oif": self._existing(name),
            "table": MAIN if route.table == "main" else TABLE,
            "proto": PROTOCOL,
        }
        if family == socket.AF_INET6:
            # IPv6 lets two routes for one prefix stand; ours must win over the kernel's (256).
            return entry | {"priority": ROUTE_METRIC_6}
        return entry | {"scope": 253}  # link: there is no next hop (rtnetlink(7))

    def outside(self, name: str) -> frozenset[str] | None:
        """The addresses that our rules keep outside the tunnel; None where there are no rules, or
        they are another agent's. INCOMPLETE where some are gone of those that belong together."""
        there = {family: {_key(rule) for rule in self._own_rules(family)} for family in _FAMILIES}
        if not any(there.values()) or self._divert_elsewhere(name):
            return None
        addresses = frozenset(dst for keys in there.values() for _, dst in keys if dst)
        for family, keys in there.items():
            if not keys.issuperset(map(_wanted_key, _rules(family, addresses))):
                return INCOMPLETE
        return addresses

    def set_outside(self, name: str, addresses: frozenset[str] | None) -> None:
        """Replace our rules by those for ADDRESSES; None: by none.

        The new ones are there before the old ones go, so nothing slips out in between. Those of
        another agent on this host stay: without them its traffic would leave beside its tunnel.
        """
        if self._divert_elsewhere(name):
            if addresses is None:
                return
            raise ZtError(
                f"{name} cannot have a default route: another agent's interface has one here",
                hint="only one tunnel of a host can take what goes anywhere else",
            )
        for family in _FAMILIES:
            old = list(self._own_rules(family))
            wanted = [] if addresses is None else _rules(family, addresses)
            for rule in wanted:
                with _allowing(errno.EEXIST, what="add an ip rule"):
                    self._netlink.rule("add", family=family, protocol=PROTOCOL, **rule)
            kept = set(map(_wanted_key, wanted))
            for found in old:
                if _key(found) not in kept:
                    with _allowing(errno.ENOENT, what="remove an ip rule"):
                        self._netlink.rule("del", family=family, **_as_rule(found))

    def _divert_elsewhere(self, name: str) -> bool:
        """Do the tunnel's table and so the rules belong to another interface than NAME?"""
        index = self.index(name)
        return any(
            route.get_attr("RTA_TABLE") == TABLE and route.get_attr("RTA_OIF") != index
            for family in _FAMILIES
            for route in self._netlink.get_routes(family=family, table=TABLE)
        )

    def _own_rules(self, family: int) -> Iterator[Any]:
        for rule in self._netlink.get_rules(family=family):
            if rule.get_attr("FRA_PROTOCOL") == PROTOCOL:
                yield rule

    def mark_rules(self) -> tuple[MarkRule, ...]:
        """What the other `ip rule`s of this namespace look at in packet marks."""
        return tuple(
            MarkRule(
                value=rule.get_attr("FRA_FWMARK") or 0,
                mask=rule.get_attr("FRA_FWMASK") or 2**32 - 1,
            )
            for family in _FAMILIES
            for rule in self._netlink.get_rules(family=family)
            if rule.get_attr("FRA_PROTOCOL") != PROTOCOL
            and (rule.get_attr("FRA_FWMARK") or rule.get_attr("FRA_FWMASK"))
        )

    def _existing(self, name: str) -> int:
        index = self.index(name)
        if index is None:
            raise ZtError(f"the interface {name} is gone", hint="somebody removed it")
        return index


def _rules(family: int, addresses: frozenset[str]) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = [
        {
            "priority": PRIORITY,
            "dst": address,
            "dst_len": 128 if family == socket.AF_INET6 else 32,
            "table": MAIN,
        }
        for address in sorted(addresses)
        if family_of(address) == family
    ]
    rules.append({"priority": PRIORITY + 1, "table": MAIN, "FRA_SUPPRESS_PREFIXLEN": 0})
    rules.append(
        {
            "priority": PRIORITY + 2,
            "table": TABLE,
            "fwmark": FWMARK,
            "fwmask": FWMARK_MASK,
            "flags": _FR_INVERT,
        }
    )
    return rules


def _key(found: Any) -> tuple[int, str | None]:
    """What tells our rules of one family apart: (priority, address)."""
    return found.get_attr("FRA_PRIORITY"), found.get_attr("FRA_DST")


def _wanted_key(rule: Mapping[str, Any]) -> tuple[int, str | None]:
    """Likewise of one of `_rules`."""
    return rule["priority"], rule.get("dst")


def _as_rule(found: Any) -> dict[str, Any]:
    """Enough of a rule that was read to name it for removal."""
    rule: dict[str, Any] = {
        "priority": found.get_attr("FRA_PRIORITY"),
        "table": found.get_attr("FRA_TABLE"),
        "flags": found["flags"],
    }
    if found.get_attr("FRA_DST"):
        rule |= {"dst": found.get_attr("FRA_DST"), "dst_len": found["dst_len"]}
    return rule


@contextmanager
def _allowing(*codes: int, what: str) -> Iterator[None]:
    """Netlink errors in CODES are no errors; others become a ZtError that says WHAT was tried."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise ZtError(f"cannot {what}: {error.args[1]}") from error
