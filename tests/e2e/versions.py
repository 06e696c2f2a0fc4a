"""Another version of the agent: a copy of this tree in which the layout of a map is different."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from agent import abi

ROOT = Path(__file__).parents[2]
_PAD = '("pad", ctypes.c_uint8 * 3)]\n'
# Of each structure, what stands in the header and what in abi.py, and each with a field more.
LAYOUTS = {
    "zt_flow": (
        ("\t__u64 vouched[2];\n", "\t__u64 vouched[2];\n\t__u64 more[8];\n"),
        ('("vouched", ctypes.c_uint64 * 2),\n',
         '("vouched", ctypes.c_uint64 * 2), ("more", ctypes.c_uint64 * 8),\n'),
    ),
    "zt_policy_value": (
        ("24 bits */\n\t__u8 action;\n\t__u8 pad[3];\n",
         "24 bits */\n\t__u8 action;\n\t__u8 pad[3];\n\t__u32 more[2];\n"),
        ('class PolicyValue(Record):\n    _fields_ = [("rule", ctypes.c_uint32), '
         f'("action", ctypes.c_uint8), {_PAD}',
         'class PolicyValue(Record):\n    _fields_ = [("rule", ctypes.c_uint32), '
         f'("action", ctypes.c_uint8), {_PAD[:-2]}, ("more", ctypes.c_uint32 * 2)]\n'),
    ),
}  # fmt: skip


def make(directory: Path, layout: str) -> Path:
    """A tree in DIRECTORY, to be put on PYTHONPATH, whose schema is the next, and whose structure
    LAYOUT is bigger."""
    for package in ("agent", "ztlab"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, directory / package, ignore=leave)  # with the C sources
    header, python = directory / "agent/datapath/bpf/zt_abi.h", directory / "agent/abi.py"
    in_header, in_python = LAYOUTS[layout]
    _edit(header, f"#define ZT_SCHEMA {abi.SCHEMA}\n", f"#define ZT_SCHEMA {abi.SCHEMA + 1}\n")
    _edit(python, f"\nSCHEMA = {abi.SCHEMA} ", f"\nSCHEMA = {abi.SCHEMA + 1} ")
    _edit(header, *in_header)
    _edit(python, *in_python)
    if layout == "zt_policy_value":
        encode = directory / "agent/datapath/encode.py"
        _edit(encode, 'Struct("=IB3x")', 'Struct("=IB3x8x")')
    environment = {**os.environ, "PYTHONPATH": str(directory)}
    build = [sys.executable, "-m", "agent.datapath.build", "--force"]
    done = subprocess.run(build, cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and str(directory) in done.stdout, done.stdout + done.stderr
    return directory


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} has {text.count(old)} times {old!r}"
    path.write_text(text.replace(old, new))
