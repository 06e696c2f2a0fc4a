"""What a packet is, read from its bytes by the RFCs and ARCHITECTURE.md, not by the C code."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ztlab.model.flow import ICMP, ICMPV6, TCP, UDP
from ztlab.model.verdict import Verdict

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
ECHO_PORT = 8  # the responder's end of an echo; the requester's is the identifier
EXTENSIONS_WALKED = 6
_PLAIN_EXTENSIONS = (0, 43, 60)  # hop by hop, routing, destination options
_FRAGMENT = 44
_REFUSED_EXTENSIONS = (51, 135, 139, 140)  # authentication, mobility, host identity, shim6
_ROUTING = 43
_LONGEST = 65535
_ERRORS = {4: (3, 4, 11, 12), 6: (1, 2, 3, 4)}
_ECHO = {4: (8, 0), 6: (128, 129)}  # request, reply

End = tuple[bytes, int]
"""An address in network byte order (4 or 16 bytes), and a port."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Between whom and on what, in the direction of one packet."""

    source: End
    destination: End
    protocol: int
    icmp_type: int | None = None

    @property
    def key(self) -> tuple[End, End, int]:
        """The same for both directions."""
        low, high = sorted((self.source, self.destination))
        return low, high, self.protocol


@dataclass(frozen=True, slots=True)
class Piece:
    """A fragment: bytes `start` up to, not including, `end` of what is behind the IP header."""

    id: bytes
    start: int
    end: int
    is_last: bool


@dataclass(slots=True)
class Reading:
    """What one packet says of itself.

    fault       why its form alone would have it dropped; then nothing behind it is meant
    talk        its conversation; None where not even addresses could be read
    is_tracked  belongs to a flow, or would if there were one; opens: may begin one
    quoted      the packet that an ICMP error complains about
    piece       None: not in fragments
    headers     bytes before what the transport carries; of a later fragment, those before it is
                said to be one (no kernel makes a super-packet of fragments: each would have these)
    """

    fault: Verdict | None = None
    talk: Conversation | None = None
    is_tracked: bool = False
    opens: bool = False
    tcp_flags: int = 0
    quoted: Conversation | None = None
    piece: Piece | None = None
    headers: int = 0

    @property
    def is_syn(self) -> bool:
        """A TCP SYN without ACK."""
        return self.tcp_flags & (SYN | ACK) == SYN


class _Malformed(Exception):
    pass


class _Unsupported(Exception):
    pass


def read(packet: bytes, *, is_super: bool = False) -> Reading:
    """PACKET, from its IP header on; IS_SUPER: it was put together from many, and where it is too
    long for its length field (BIG TCP) that is 0."""
    reading = Reading()
    try:
        _read_ip(packet, reading, is_super)
    except _Malformed:
        reading.fault = Verdict.MALFORMED
    except _Unsupported:
        reading.fault = Verdict.UNSUPPORTED_PROTOCOL
    return reading


def _read_ip(packet: bytes, reading: Reading, is_super: bool) -> None:
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        source, destination, protocol, rest = _read_ipv4(packet, reading, is_super)
    elif version == 6:
        source, destination, protocol, rest = _read_ipv6(packet, reading, is_super)
    else:
        raise _Malformed
    reading.talk = Conversation((source, 0), (destination, 0), protocol)
    if reading.piece is None or reading.piece.start == 0:
        _read_transport(version, rest, reading, reading.talk, is_super)


def _read_ipv4(packet: bytes, reading: Reading, is_super: bool) -> tuple[bytes, bytes, int, bytes]:
    """RFC 791. Source, destination, protocol, and what is behind the header."""
    if len(packet) < 20:
        raise _Malformed
    header = (packet[0] & 0xF) * 4
    total, id, fragment = struct.unpack_from("!H2sH", packet, 2)
    if is_super and not total:
        total = len(packet)
    if header < 20 or not header <= total <= len(packet):
        raise _Malformed
    reading.headers, rest = header, packet[header:total]
    offset, more = (fragment & 0x1FFF) * 8, bool(fragment & 0x2000)
    if offset or more:
        reading.piece = _piece(id, offset, len(rest), more)
    return packet[12:16], packet[16:20], packet[9], rest


def _read_ipv6(packet: bytes, reading: Reading, is_super: bool) -> tuple[bytes, bytes, int, bytes]:
    """RFC 8200: the header and the extensions that are walked."""
    if len(packet) < 40:
        raise _Malformed
    payload, protocol = struct.unpack_from("!HB", packet, 4)
    if is_super and not payload:
        payload = len(packet) - 40
    if payload > len(packet) - 40:
        raise _Malformed
    source, destination, rest = packet[8:24], packet[24:40], packet[40 : 40 + payload]
    # Whose packet it is is known, whatever its extensions are.
    reading.talk = Conversation((source, 0), (destination, 0), protocol)
    walked = 0
    while protocol in (*_PLAIN_EXTENSIONS, _FRAGMENT, *_REFUSED_EXTENSIONS):
        if protocol in _REFUSED_EXTENSIONS or walked == EXTENSIONS_WALKED:
            raise _Unsupported
        if len(rest) < 8:
            raise _Malformed
        walked += 1
        if protocol == _FRAGMENT:
            size = 8
            _read_fragment_header(rest, reading)
        else:
            size = (rest[1] + 1) * 8
            if protocol == _ROUTING and rest[3]:  # the packet goes on to somebody else
                raise _Unsupported
        if size > len(rest):
            raise _Malformed
        protocol, rest = rest[0], rest[size:]
        if reading.piece is not None and reading.piece.start:
            break  # what follows is the middle of something
    is_later = reading.piece is not None and reading.piece.start > 0
    reading.headers = 40 + payload - len(rest) - (8 if is_later else 0)
    return source, destination, protocol, rest


def _read_fragment_header(rest: bytes, reading: Reading) -> None:
    if reading.piece is not None:
        raise _Malformed
    word, id = struct.unpack_from("!H4s", rest, 2)
    if word & 0xFFF9:  # RFC 6946: neither offset nor more is no fragment
        reading.piece = _piece(id, word & 0xFFF8, len(rest) - 8, bool(word & 1))


def _piece(id: bytes, start: int, length: int, more: bool) -> Piece:
    if not length or (more and length % 8) or start + length > _LONGEST:
        raise _Malformed
    return Piece(id, start, start + length, not more)


def _read_transport(
    version: int, rest: bytes, reading: Reading, talk: Conversation, is_super: bool
) -> None:
    source, destination = talk.source[0], talk.destination[0]
    ports = 0, 0
    reading.is_tracked = reading.opens = True
    if talk.protocol == TCP:
        if len(rest) < 20 or not 20 <= (rest[12] >> 4) * 4 <= len(rest):
            raise _Malformed
        ports = struct.unpack_from("!HH", rest)
        reading.tcp_flags = rest[13]
        reading.headers += (rest[12] >> 4) * 4
    elif talk.protocol == UDP:
        if len(rest) < 8:
            raise _Malformed
        ports = struct.unpack_from("!HH", rest)
        (length,) = struct.unpack_from("!H", rest, 4)
        is_told = reading.piece is None and not is_super  # else it is not this packet's length
        is_jumbo = version == 6 and not length
        if is_told and not is_jumbo and not 8 <= length <= len(rest):  # RFC 768, RFC 2675
            raise _Malformed
        reading.headers += 8
    elif talk.protocol == _icmp(version):
        if len(rest) < 8:
            raise _Malformed
        reading.headers += 8
        echo = _echo_ports(version, rest)
        request = _ECHO[version][0]
        reading.is_tracked, reading.opens = echo is not None, rest[0] == request
        ports = echo or ports
        if rest[0] in _ERRORS[version]:
            reading.quoted = _read_quoted(version, rest[8:])
    kind = rest[0] if talk.protocol == _icmp(version) else None
    reading.talk = Conversation((source, ports[0]), (destination, ports[1]), talk.protocol, kind)


def _icmp(version: int) -> int:
    return ICMP if version == 4 else ICMPV6


def _echo_ports(version: int, message: bytes) -> tuple[int, int] | None:
    request, reply = _ECHO[version]
    (id,) = struct.unpack_from("!H", message, 4)
    if message[0] == request:
        return id, ECHO_PORT
    return (ECHO_PORT, id) if message[0] == reply else None


def _read_quoted(version: int, quote: bytes) -> Conversation | None:
    """What an error quotes, if 8 bytes behind the IP header of a whole packet or a first fragment
    are there."""
    if version == 4:
        header = (quote[0] & 0xF) * 4 if quote else 0
        if len(quote) < 20 or quote[0] >> 4 != 4 or header < 20:
            return None
        if struct.unpack_from("!H", quote, 6)[0] & 0x1FFF:
            return None
        source, destination, protocol = quote[12:16], quote[16:20], quote[9]
    else:
        if len(quote) < 40 or quote[0] >> 4 != 6:
            return None
        source, destination, protocol = quote[8:24], quote[24:40], quote[6]
        header = 40
        if protocol == _FRAGMENT:
            if len(quote) < 48 or struct.unpack_from("!H", quote, 42)[0] & 0xFFF8:
                return None
            protocol, header = quote[40], 48
    rest = quote[header:]
    if len(rest) < 8:
        return None
    ports: tuple[int, int] | None = 0, 0
    if protocol in (TCP, UDP):
        ports = struct.unpack_from("!HH", rest)
    elif protocol == _icmp(version):
        ports = _echo_ports(version, rest)
    if ports is None:
        return None
    return Conversation((source, ports[0]), (destination, ports[1]), protocol)
