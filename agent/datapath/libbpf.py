"""libbpf.so.1 through ctypes: its types, and what it says while it works.

It is there wherever iproute2 is, which depends on it.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ztlab.errors import HostUnfit

_INFO = 1  # enum libbpf_print_level: 0 warnings, 1 information, 2 debugging
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_LINE_MAX = 16 << 20  # bytes of one message; the verifier's log is one
_hearing = threading.Lock()

_INT, _POINTER, _TEXT = ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p
# Name to result and arguments; ctypes takes any other function's for integers.
_TYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    "bpf_object__open_file": (_POINTER, (_TEXT, _POINTER)),
    "bpf_object__load": (_INT, (_POINTER,)),
    "bpf_object__close": (None, (_POINTER,)),
    "bpf_object__find_map_by_name": (_POINTER, (_POINTER, _TEXT)),
    "bpf_object__find_program_by_name": (_POINTER, (_POINTER, _TEXT)),
    "bpf_map__fd": (_INT, (_POINTER,)),
    "bpf_map_create": (_INT, (_INT, _TEXT, *[ctypes.c_uint32] * 3, _POINTER)),
    "bpf_map_update_elem": (_INT, (_INT, _POINTER, _POINTER, ctypes.c_uint64)),
    "bpf_map__reuse_fd": (_INT, (_POINTER, _INT)),
    "bpf_map__set_max_entries": (_INT, (_POINTER, ctypes.c_uint32)),
    "bpf_map__initial_value": (_POINTER, (_POINTER, ctypes.POINTER(ctypes.c_size_t))),
    "bpf_obj_get": (_INT, (_TEXT,)),
    "bpf_obj_pin": (_INT, (_INT, _TEXT)),
    "bpf_program__fd": (_INT, (_POINTER,)),
    "bpf_program__set_autoload": (_INT, (_POINTER, ctypes.c_bool)),
    "bpf_program__set_type": (_INT, (_POINTER, _INT)),
    "libbpf_set_print": (_POINTER, (_POINTER,)),
}


@functools.cache
def library() -> ctypes.CDLL:
    """libbpf; HostUnfit where it is not installed, or too old."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for name, (result, arguments) in _TYPES.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        hint = "apt-get install libbpf1 (iproute2 brings it)"
        raise HostUnfit(f"cannot load libbpf: {error}", hint=hint) from error
    return lib


def possible_cpus() -> int:
    """How many CPUs this machine may ever have; their numbers are below it."""
    return int(library().libbpf_num_possible_cpus())


@contextmanager
def heard() -> Iterator[list[str]]:
    """What libbpf says in this block, warnings and information, instead of on standard error."""
    lib, libc = library(), ctypes.CDLL(None)
    said: list[str] = []
    libc.vsnprintf.argtypes = (_POINTER, ctypes.c_size_t, _TEXT, _POINTER)

    def hear(level: int, template: bytes, arguments: int) -> int:
        if level <= _INFO:
            line = ctypes.create_string_buffer(_LINE_MAX)
            # A va_list is, or is passed as, a pointer on every 64-bit system that has BPF.
            libc.vsnprintf(line, len(line), template, arguments)
            said.append(line.value.decode(errors="replace").rstrip())
        return 0

    callback = _PRINT(hear)
    with _hearing:  # libbpf has one listener per process
        before = lib.libbpf_set_print(ctypes.cast(callback, _POINTER))
        try:
            yield said
        finally:
            lib.libbpf_set_print(before)
