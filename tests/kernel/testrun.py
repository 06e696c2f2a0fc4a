"""BPF_PROG_TEST_RUN: one packet through one loaded program, without traffic.

The kernel gives the packet an Ethernet header (net/bpf/test_run.c), so the programs are loaded with
an L3 offset of 14. Of struct __sk_buff it lets the caller set mark, ingress_ifindex, ifindex and
gso_segs, among others; ifindex must be an interface of this namespace.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

ETHERNET = 14
_LIVE_FRAMES = 2  # BPF_F_TEST_XDP_LIVE_FRAMES, kernel 5.18
_LIVE_BATCH = 64
PASSED, DROPPED = 0xFFFFFFFF, 2  # TC_ACT_UNSPEC, TC_ACT_SHOT


class _SkBuff(ctypes.Structure):
    """The beginning of the kernel's struct __sk_buff, as far as a test needs it."""

    _fields_ = [
        ("len", ctypes.c_uint32),
        ("pkt_type", ctypes.c_uint32),
        ("mark", ctypes.c_uint32),
        ("queue_mapping", ctypes.c_uint32),
        ("protocol", ctypes.c_uint32),
        ("vlan", ctypes.c_uint32 * 3),
        ("priority", ctypes.c_uint32),
        ("ingress_ifindex", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("tc_index", ctypes.c_uint32),
        ("cb", ctypes.c_uint32 * 5),
        ("hash", ctypes.c_uint32),
        ("tc_classid", ctypes.c_uint32),
        ("data", ctypes.c_uint32),
        ("data_end", ctypes.c_uint32),
        ("napi_id", ctypes.c_uint32),
        ("family", ctypes.c_uint32),
        ("remote_ip4", ctypes.c_uint32),
        ("local_ip4", ctypes.c_uint32),
        ("remote_ip6", ctypes.c_uint32 * 4),
        ("local_ip6", ctypes.c_uint32 * 4),
        ("remote_port", ctypes.c_uint32),
        ("local_port", ctypes.c_uint32),
        ("data_meta", ctypes.c_uint32),
        ("flow_keys", ctypes.c_uint64),
        ("tstamp", ctypes.c_uint64),
        ("wire_len", ctypes.c_uint32),
        ("gso_segs", ctypes.c_uint32),
        ("sk", ctypes.c_uint64),
        ("gso_size", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]


class _Options(ctypes.Structure):
    """libbpf's struct bpf_test_run_opts."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the program answered; duration_ns is the mean of all repetitions."""

    retval: int
    mark: int
    data: bytes
    duration_ns: int


def run(
    program: int,
    packet: bytes,
    *,
    mark: int = 0,
    ingress_ifindex: int = 0,
    ifindex: int = 1,
    gso_segs: int = 0,
    gso_size: int = 0,
    repeat: int = 1,
) -> Outcome:
    """PACKET, from its IP header on, through the program with this file descriptor."""
    # As IP the kernel would refuse a packet that is cut in its header; the programs look at the
    # version only.
    frame = bytes(12) + b"\x88\xb5" + packet
    context = _SkBuff(
        mark=mark,
        ingress_ifindex=ingress_ifindex,
        ifindex=ifindex,
        gso_segs=gso_segs,
        gso_size=gso_size,
    )
    after = ctypes.create_string_buffer(512)  # the whole of it, on any kernel
    out = ctypes.create_string_buffer(len(frame) + 256)
    options = _Options(
        sz=ctypes.sizeof(_Options),
        data_in=frame,
        data_out=ctypes.cast(out, ctypes.c_void_p),
        data_size_in=len(frame),
        data_size_out=len(out),
        ctx_in=ctypes.cast(ctypes.pointer(context), ctypes.c_void_p),
        ctx_out=ctypes.cast(after, ctypes.c_void_p),
        ctx_size_in=ctypes.sizeof(context),
        ctx_size_out=len(after),
        repeat=repeat,
    )
    result = ctypes.CDLL("libbpf.so.1").bpf_prog_test_run_opts(program, ctypes.byref(options))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return Outcome(
        retval=options.retval,
        mark=_SkBuff.from_buffer(after).mark,
        data=out.raw[ETHERNET : options.data_size_out],
        duration_ns=options.duration,
    )


def send(program: int, frame: bytes, count: int) -> None:
    """COUNT copies of FRAME, from the Ethernet header on, through this XDP program, which sends
    them out of an interface: real traffic, all made on the CPU that calls."""
    options = _Options(
        sz=ctypes.sizeof(_Options),
        data_in=frame,
        data_size_in=len(frame),
        repeat=count,
        flags=_LIVE_FRAMES,
        batch_size=_LIVE_BATCH,
    )
    result = ctypes.CDLL("libbpf.so.1").bpf_prog_test_run_opts(program, ctypes.byref(options))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
