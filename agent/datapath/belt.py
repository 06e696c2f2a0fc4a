"""The belt: what came out of the tunnel and was not judged is dropped, by nftables.

It holds where the ingress program is missing: clsact deleted, or the interface made anew. One
table of our own, named after the interface; the rule matches by name, since an index would not hold
for an interface that is made anew.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from agent.datapath.marks import MarkLayout
from ztlab.errors import HostUnfit, ZtError

_FAMILY = "inet"
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_DEADLINE_S = 10.0


def install(interface: str, marks: MarkLayout) -> None:
    """Drop what comes from INTERFACE unjudged; atomically in place of an older belt."""
    table = _table(interface)
    _nft(
        f"table {_FAMILY} {table}\n"
        f"delete table {_FAMILY} {table}\n"
        f"table {_FAMILY} {table} {{\n"
        "  chain prerouting {\n"
        "    type filter hook prerouting priority raw; policy accept;\n"
        f'    iifname "{interface}" meta mark & {marks.judged:#x} == 0 counter drop\n'
        "  }\n"
        "}\n"
    )


def remove(interface: str) -> None:
    """Take the belt off; nothing happens where there is none."""
    table = _table(interface)
    _nft(f"table {_FAMILY} {table}\ndelete table {_FAMILY} {table}\n")


def is_installed(interface: str, marks: MarkLayout) -> bool:
    """Is there a belt on INTERFACE, whole, that looks at the judged bit of MARKS?"""
    rule = _drop_rule(interface)
    return rule is not None and any(_masks(part) == marks.judged for part in rule)


def _masks(part: dict[str, Any]) -> int | None:
    """The mask that PART of a rule takes of a packet's mark; None where it takes none."""
    left = part.get("match", {}).get("left")
    masked = left.get("&") if isinstance(left, dict) else None
    if not isinstance(masked, list) or masked[0] != {"meta": {"key": "mark"}}:
        return None
    return int(masked[1])


def dropped_packets(interface: str) -> int | None:
    """How many packets the belt has dropped since it was put on; None where there is none."""
    rule = _drop_rule(interface)
    if rule is None:
        return None
    return sum(int(part["counter"]["packets"]) for part in rule if "counter" in part)


def _table(interface: str) -> str:
    if not _INTERFACE.fullmatch(interface):
        raise ZtError(
            f"no belt can be named after interface {interface!r}",
            hint="use letters, digits, '_', '.' and '-', at most 15",
        )
    return f"zt_{interface}"


def _drop_rule(interface: str) -> list[dict[str, Any]] | None:
    """The parts of the rule that drops, if table, chain and rule are there and in their places."""
    listed = _run(["nft", "-j", "list", "table", _FAMILY, _table(interface)])
    if listed.returncode != 0:
        if "No such file or directory" in listed.stderr:
            return None
        raise _unfit(listed.stderr)
    objects = json.loads(listed.stdout)["nftables"]
    if not any(o.get("chain", {}).get("hook") == "prerouting" for o in objects):
        return None
    for parts in (o["rule"]["expr"] for o in objects if "rule" in o):
        names = [part["match"]["right"] for part in parts if "match" in part]
        if interface in names and any("drop" in part for part in parts):
            return list(parts)
    return None


def _nft(commands: str) -> None:
    """Run COMMANDS in one transaction."""
    done = _run(["nft", "-f", "-"], commands)
    if done.returncode != 0:
        raise _unfit(done.stderr)


def _run(command: list[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
        )
    except FileNotFoundError as error:
        raise HostUnfit("nft is not installed", hint="apt-get install nftables") from error


def _unfit(stderr: str) -> HostUnfit:
    lines = stderr.strip().splitlines() or ["it did not say why"]
    return HostUnfit(f"nft refused: {lines[0]}", hint="run as root, on a kernel with nftables")
