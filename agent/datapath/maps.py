"""Maps by their file descriptors, through libbpf: read, written and deleted in batches.

Keys and values are bytes here; agent/abi.py says what they mean. libbpf's functions answer a
negative errno.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from agent.datapath.libbpf import library
from ztlab.errors import ZtError

_BATCH = 4096
# Since 6.1 an entry of a hash without preallocation comes from a small per-CPU reserve, which the
# kernel refills a moment later (kernel/bpf/memalloc.c): ENOMEM, where memory is plenty.
_REFILL_TIMEOUT_S = 5.0
_REFILL_POLL_S = 0.005


class _MapInfo(ctypes.Structure):
    """The beginning of the kernel's struct bpf_map_info; it fills as much as it is asked for."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    ]


def _object_info(fd: int, info: ctypes.Structure) -> None:
    size = ctypes.c_uint32(ctypes.sizeof(info))
    _check(library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "an fd")


def _check(result: int, name: str) -> None:
    if result < 0:
        raise OSError(-result, f"{os.strerror(-result)}: {name}")


def map_id(fd: int) -> int:
    """The kernel's number for a map; no other map gets it before the next boot."""
    info = _MapInfo()
    _object_info(fd, info)
    return int(info.id)


def program_id(fd: int) -> int:
    """The kernel's number for a loaded program."""

    class ProgramInfo(ctypes.Structure):
        _fields_ = [("type", ctypes.c_uint32), ("id", ctypes.c_uint32)]

    info = ProgramInfo()
    _object_info(fd, info)
    return int(info.id)


def _parts(data: bytes, size: int) -> Iterator[bytes]:
    """DATA in pieces of SIZE bytes, without any work per piece in Python."""
    return chain.from_iterable(struct.iter_unpack(f"{size}s", data))


@dataclass(frozen=True, slots=True)
class BpfMap:
    """One map: hash, LRU hash, trie, or their per-CPU kind.

    fd           owned by whoever loaded it
    key_size, value_size  bytes; value_size is one CPU's
    cpus         0: one value for all; else how many values an entry has, one per possible CPU
    """

    name: str
    fd: int
    key_size: int
    value_size: int
    max_entries: int
    cpus: int = 0

    @classmethod
    def open(cls, name: str, fd: int, *, per_cpu: bool = False) -> BpfMap:
        """The map behind FD, with the sizes the kernel knows."""
        info = _MapInfo()
        _object_info(fd, info)
        cpus = library().libbpf_num_possible_cpus() if per_cpu else 0
        return cls(name, fd, info.key_size, info.value_size, info.max_entries, cpus)

    @property
    def _stride(self) -> int:
        """Bytes of one entry's value or values as the kernel hands them out."""
        return (self.value_size + 7) // 8 * 8 * self.cpus if self.cpus else self.value_size

    def items(self) -> dict[bytes, bytes]:
        """Every entry. One that changes meanwhile is there once, or not at all, in its old or its
        new form; others are not affected."""
        entries: dict[bytes, bytes] = {}
        for count, keys, values in self.batches():
            k, v = self.key_size, self._stride
            entries.update(
                zip(_parts(keys[: count * k], k), _parts(values[: count * v], v), strict=True)
            )
        return entries

    def get(self, key: bytes) -> bytes | None:
        """The value at KEY; None where there is none."""
        value = ctypes.create_string_buffer(self._stride)
        result = library().bpf_map_lookup_elem(self.fd, key, value)
        if result == -errno.ENOENT:
            return None
        _check(result, self.name)
        return value.raw

    def count(self) -> int:
        """How many entries there are."""
        return sum(count for count, _, _ in self.batches())

    def batches(self) -> Iterator[tuple[int, bytes, bytes]]:
        """The entries as the kernel hands them out: how many, their keys, their values; behind
        these lies what is of none."""
        lib = library()
        token = ctypes.create_string_buffer(max(self.key_size, 8))
        start, size = None, _BATCH
        while True:
            keys = ctypes.create_string_buffer(size * self.key_size)
            values = ctypes.create_string_buffer(size * self._stride)
            count = ctypes.c_uint32(size)
            result = lib.bpf_map_lookup_batch(
                self.fd, start, token, keys, values, ctypes.byref(count), None
            )
            if result == -errno.ENOSPC:  # one bucket holds more than this
                size *= 2
                continue
            if result != -errno.ENOENT:
                _check(result, self.name)
            if count.value:
                yield count.value, keys.raw, values.raw
            if result:
                return
            start = token

    def put(self, entries: Mapping[bytes, bytes]) -> None:
        """Write ENTRIES over what is there; the rest stays. ZtError where there is no room."""
        lib, keys, values = library(), b"".join(entries), b"".join(entries.values())
        k, v, done = self.key_size, self._stride, 0
        if (len(keys), len(values)) != (k * len(entries), v * len(entries)):
            # The kernel would go on reading beyond them, and make policy of what lies there.
            raise ZtError(f"entries of map {self.name} are not of {k} and {v} bytes")
        deadline = time.monotonic() + _REFILL_TIMEOUT_S
        while done < len(entries):
            end = min(done + _BATCH, len(entries))
            count = ctypes.c_uint32(end - done)
            result = lib.bpf_map_update_batch(
                self.fd,
                keys[done * k : end * k],
                values[done * v : end * v],
                ctypes.byref(count),
                None,
            )
            done += count.value
            if result in (-errno.E2BIG, -errno.ENOSPC):
                raise ZtError(f"map {self.name} is full: it holds {self.max_entries} entries")
            if count.value:
                deadline = time.monotonic() + _REFILL_TIMEOUT_S
            if result == -errno.ENOMEM and time.monotonic() < deadline:
                time.sleep(_REFILL_POLL_S)
                continue
            _check(result, self.name)

    def delete(self, keys: Collection[bytes]) -> None:
        """Delete KEYS; one that is not there is not missed."""
        lib, joined, k, done = library(), b"".join(keys), self.key_size, 0
        while done < len(keys):
            end = min(done + _BATCH, len(keys))
            count = ctypes.c_uint32(end - done)
            part = joined[done * k : end * k]
            result = lib.bpf_map_delete_batch(self.fd, part, ctypes.byref(count), None)
            if result == -errno.ENOENT:
                done += count.value + 1
                continue
            _check(result, self.name)
            done = end

    def sums(self) -> dict[bytes, tuple[int, ...]]:
        """Every entry of a per-CPU map of 64-bit counters, each counter summed over the CPUs."""
        words = self._stride // self.cpus // 8
        layout = struct.Struct(f"={words * self.cpus}Q")
        return {
            key: tuple(sum(layout.unpack(value)[i::words]) for i in range(words))
            for key, value in self.items().items()
        }

    def words(self) -> list[int]:
        """A per-CPU array of single 64-bit counters, each summed over the CPUs."""
        lib, values = library(), []
        buffer = (ctypes.c_uint64 * self.cpus)()
        for index in range(self.max_entries):
            key = ctypes.c_uint32(index)
            _check(lib.bpf_map_lookup_elem(self.fd, ctypes.byref(key), buffer), self.name)
            values.append(sum(buffer))
        return values


class SharedWords:
    """An array of 64-bit words that the programs read, mapped into this process.

    A word is written in one aligned store: a program sees the old or the new one, never a mix.
    """

    def __init__(self, fd: int, count: int) -> None:
        self._pages: mmap.mmap | None = mmap.mmap(fd, mmap.PAGESIZE)
        self._words = (ctypes.c_uint64 * count).from_buffer(self._pages)

    def __getitem__(self, index: int) -> int:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._words[index] = value

    def close(self) -> None:
        """Unmap; the words keep their values in the kernel."""
        if self._pages is not None:
            del self._words
            self._pages.close()
            self._pages = None
