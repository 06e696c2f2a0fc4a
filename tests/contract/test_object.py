"""The compiled programs have no loop that an older kernel's verifier takes for an endless one.

check_cfg() of kernel/bpf/verifier.c, until 6.2, walks the instructions depth first and lets an edge
go back only where it is a jump's: a loop that the compiler lays out so that its end falls through
into its head is refused with "back-edge". Newer kernels take it, so nothing else here would notice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from agent.abi import PROGRAMS
from agent.datapath import sources

_SYMBOL, _SYMBOL_TABLE = struct.Struct("<IBBHQQ"), 2
_LOAD_IMMEDIATE, _JUMP, _CALL, _EXIT = 0x18, 0x05, 0x85, 0x95
_JUMPS = (0x05, 0x06)  # BPF_JMP and BPF_JMP32


def programs() -> dict[str, bytes]:
    """Name to instructions of each function in the shipped object, a little-endian ELF64."""
    data = sources.OBJECT.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, _ = struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
    (symbols,) = (s for s in sections if s[1] == _SYMBOL_TABLE)
    names = sections[symbols[6]][4]
    found = {}
    for name, info, _, section, value, length in _SYMBOL.iter_unpack(
        data[symbols[4] : symbols[4] + symbols[5]]
    ):
        if info & 0xF == 2:  # a function
            start = sections[section][4] + value
            word = data[names + name : data.index(b"\0", names + name)].decode()
            found[word] = data[start : start + length]
    return found


def edges(code: bytes, at: int) -> Iterator[tuple[int, bool]]:
    """Where instruction AT goes, and whether it jumps there."""
    opcode, _, offset, _ = struct.unpack_from("<BBhi", code, at * 8)
    if opcode == _EXIT:
        return
    is_jump = opcode & 7 in _JUMPS and opcode != _CALL
    if opcode != _JUMP:
        yield at + (2 if opcode == _LOAD_IMMEDIATE else 1), is_jump
    if is_jump:
        yield at + offset + 1, True


def endless(code: bytes) -> list[tuple[int, int]]:
    """Edges that go back without a jump, in the order that check_cfg() walks."""
    found, explored = [], set()
    path = {0: edges(code, 0)}
    while path:
        at = next(reversed(path))
        for to, is_jump in path[at]:
            if to in path and not is_jump:
                found.append((at, to))
            elif to not in path and to not in explored:
                path[to] = edges(code, to)
                break
        else:
            explored.add(at)
            del path[at]
    return found


@pytest.mark.parametrize("name", PROGRAMS.values())
def test_every_edge_that_goes_back_is_a_jump(name: str) -> None:
    code = programs()[name]
    assert len(code) > 8000
    assert endless(code) == []


def test_a_loop_whose_end_falls_through_into_its_head_is_seen() -> None:
    head = [struct.pack("<BBhi", _JUMP, 0, 1, 0), struct.pack("<BBhi", 0x07, 1, 0, -1)]
    tail = [struct.pack("<BBhi", 0x15, 1, -2, 0), struct.pack("<BBhi", _EXIT, 0, 0, 0)]
    assert endless(b"".join(head + tail)) == [(1, 2)]
    jump = struct.pack("<BBhi", _JUMP, 0, 0, 0)  # control: goes back by a jump
    assert endless(b"".join([struct.pack("<BBhi", _JUMP, 0, 2, 0), head[1], jump])
                   + struct.pack("<BBhi", 0x15, 1, -3, 0) + tail[1]) == []  # fmt: skip
