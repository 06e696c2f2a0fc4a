"""Packets to send through the programs, built by scapy, from the IP header on."""

from __future__ import annotations

import warnings
from ipaddress import ip_address
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scapy imports ciphers that cryptography is about to move
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6

WEB, API, GUEST = "10.0.0.1", "10.0.0.2", "10.0.0.3"
WEB6, API6, GUEST6 = "fd00::1", "fd00::2", "fd00::3"
STRANGER, STRANGER6 = "10.0.0.66", "fd00::66"
LAN_HOST, PRINTER, WORLD_HOST = "192.168.1.5", "192.168.7.7", "203.0.113.9"
LAN_HOST6, WORLD_HOST6 = "fd99::5", "2001:db8::9"
ROUTER = "10.9.9.9"


def ip(source: str, destination: str, **fields: Any) -> Any:
    """An IP header of the addresses' family."""
    kind = IP if ip_address(source).version == 4 else IPv6
    return kind(src=source, dst=destination, **fields)


def tcp(
    source: str, destination: str, sport: int, dport: int, flags: str = "S", payload: bytes = b""
) -> bytes:
    return bytes(ip(source, destination) / TCP(sport=sport, dport=dport, flags=flags) / payload)


def udp(source: str, destination: str, sport: int, dport: int, payload: bytes = b"") -> bytes:
    return bytes(ip(source, destination) / UDP(sport=sport, dport=dport) / payload)


def echo_request(source: str, destination: str, id: int = 7) -> bytes:
    if ip_address(source).version == 4:
        return bytes(ip(source, destination) / ICMP(type=8, id=id))
    return bytes(ip(source, destination) / ICMPv6EchoRequest(id=id))


def echo_reply(source: str, destination: str, id: int = 7) -> bytes:
    if ip_address(source).version == 4:
        return bytes(ip(source, destination) / ICMP(type=0, id=id))
    return bytes(ip(source, destination) / ICMPv6EchoReply(id=id))


def other(source: str, destination: str, protocol: int, payload: bytes = b"data") -> bytes:
    """A packet of a protocol without ports."""
    if ip_address(source).version == 4:
        return bytes(ip(source, destination, proto=protocol) / payload)
    return bytes(ip(source, destination, nh=protocol) / payload)
