"""Raw packets straight onto a node's tunnel interface, under any source address.

`python rawsend.py --interface wg0 --source 10.77.0.9 --destination 10.77.0.3 --udp 5353 --count 5
--source-port 40001` puts COUNT packets with source ports SOURCE_PORT, SOURCE_PORT + 1, … on the
interface with PACKET_QDISC_BYPASS: they meet neither a queueing discipline nor the egress program
of this node. With --tcp they are SYNs. Prints {"sent": COUNT}. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
from ipaddress import ip_address

SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20  # linux/socket.h, linux/if_packet.h
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
TCP, UDP = 6, 17


def main(argv: list[str] | None = None) -> None:
    """Send and say how many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interface", default="wg0")
    parser.add_argument("--source", required=True)
    parser.add_argument("--destination", required=True)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--tcp", type=int)
    kind.add_argument("--udp", type=int)
    parser.add_argument("--source-port", type=int, required=True)
    parser.add_argument("--count", type=int, default=1)
    options = parser.parse_args(argv)
    protocol, port = (TCP, options.tcp) if options.tcp else (UDP, options.udp)
    packets = [
        packet(options.source, options.destination, protocol, options.source_port + i, port)
        for i in range(options.count)
    ]
    ethertype = ETH_P_IPV6 if ip_address(options.source).version == 6 else ETH_P_IP
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock:
        sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        for data in packets:
            sock.sendto(data, (options.interface, ethertype))
    print(json.dumps({"sent": len(packets)}), flush=True)


def packet(source: str, destination: str, protocol: int, source_port: int, port: int) -> bytes:
    """One IP packet with valid checksums: a UDP datagram of 13 bytes, or a TCP SYN."""
    src, dst = ip_address(source), ip_address(destination)
    payload = b"ztlab forged\n" if protocol == UDP else b""
    if protocol == UDP:
        header = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0)
    else:
        header = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 5 << 4, 0x02, 64240, 0, 0)
    length = len(header) + len(payload)
    if src.version == 6:
        pseudo = src.packed + dst.packed + struct.pack("!IHBB", length, 0, 0, protocol)
    else:
        pseudo = src.packed + dst.packed + struct.pack("!BBH", 0, protocol, length)
    checksum = _checksum(pseudo + header + payload) or 0xFFFF
    at = 6 if protocol == UDP else 16
    segment = header[:at] + struct.pack("!H", checksum) + header[at + 2 :] + payload
    if src.version == 6:
        return (
            struct.pack("!IHBB", 6 << 28, length, protocol, 64) + src.packed + dst.packed + segment
        )
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, protocol, 0)
    ip += src.packed + dst.packed
    return ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:] + segment


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


if __name__ == "__main__":
    main()
