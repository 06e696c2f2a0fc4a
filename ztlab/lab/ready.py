"""When is a lab ready? Read from outside only: /metrics of each agent, the management API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ztlab.client.admin import AdminClient
from ztlab.errors import DeadlineExceeded, Unreachable, ZtError
from ztlab.lab import execute, metrics
from ztlab.lab.lab import Lab
from ztlab.model.verdict import Hook

_POLL_S = 0.05
_LOG_LINES = 15
Report = Callable[[str], None]


class Daemons:
    """The programs that `up` started, so that the death of one is noticed at once."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._started: dict[str, tuple[int, Path]] = {}

    def add(self, name: str, inner_pid: int, log: Path) -> None:
        self._started[name] = (inner_pid, log)

    def check(self) -> None:
        """ZtError with the last lines of its log if one of them has ended."""
        for name, (pid, log) in list(self._started.items()):
            if not execute.is_running(self._lab.record, pid):
                raise ZtError(
                    f"{name} ended while the lab was starting; its log says:\n{tail(log)}"
                )

    def tail(self, name: str) -> str:
        return tail(self._started[name][1])


def tail(log: Path, lines: int = _LOG_LINES) -> str:
    """The last LINES lines of LOG, indented."""
    try:
        text = log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        text = []
    return "\n".join(f"  {line}" for line in text) or "  (nothing)"


def missing(text: str, others: Iterable[str]) -> tuple[str, ...]:
    """What an agent's /metrics TEXT still lacks for it to be ready, in words; empty if nothing.

    others  is only used to name tunnels without a handshake in a fixed order
    """
    lacks = []
    if metrics.total(text, "zt_agent_enrolled") != 1:
        lacks.append("not enrolled")
    if metrics.total(text, "zt_stream_connected") != 1:
        lacks.append("no stream from the coordinator")
    for hook in Hook:
        if metrics.total(text, "zt_datapath_attached", {"hook": hook.word}) != 1:
            lacks.append(f"no program on {hook.word}")
    shaken = {
        s.labels["peer"]: s.value
        for s in metrics.parse(text)
        if s.name == "zt_peer_last_handshake_seconds"
    }
    peers = metrics.total(text, "zt_peers")
    if peers is None or peers != len(shaken):
        lacks.append("its peers are not configured")
    silent = [name for name in others if shaken.get(name) == 0]
    silent += sorted(n for n, at in shaken.items() if at == 0 and n not in silent)
    lacks += [f"no handshake with {name}" for name in silent]
    return tuple(lacks)


def wait_for_network(
    admin: AdminClient, nodes: int, daemons: Daemons, deadline: float, report: Report
) -> None:
    """Until NODES nodes are enrolled and each acknowledged its wanted revision."""
    said = ""
    while True:
        daemons.check()
        network = admin.network()
        if network.has_converged and network.nodes.total == nodes:
            return
        seen = f"{network.nodes.total} of {nodes} enrolled, {network.nodes.converged} converged"
        if seen != said:
            report(seen)
            said = seen
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"the network did not converge: {seen}{_why(admin)}")
        time.sleep(_POLL_S)


def _why(admin: AdminClient) -> str:
    errors = [
        f"{n.name}: {n.applied.error}" for n in admin.nodes() if n.applied and n.applied.error
    ]
    return "".join(f"\n  {line}" for line in errors)


def wait_for_agents(
    lab: Lab, names: tuple[str, ...], daemons: Daemons, deadline: float, report: Report
) -> None:
    """Until every agent of NAMES is enrolled, connected, attached, and shook hands on every tunnel.

    What was ready once is not asked again.
    """
    pending: Mapping[str, tuple[str, ...]] = dict.fromkeys(names, ())
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="metrics") as pool:
        while pending:
            daemons.check()
            lacks = pool.map(lambda name: (name, _ask(lab, name, names)), pending)
            left = {name: what for name, what in lacks if what}
            if left != pending and left:
                report("; ".join(f"{name}: {what[0]}" for name, what in left.items()))
            pending = left
            if pending and time.monotonic() > deadline:
                lines = [f"{name}: {', '.join(what)}" for name, what in pending.items()]
                first = next(iter(pending))
                raise DeadlineExceeded(
                    "not every agent became ready:\n  "
                    + "\n  ".join(lines)
                    + f"\nthe last lines of {first}'s log:\n{daemons.tail(first)}"
                )
            if pending:
                time.sleep(_POLL_S)


def _ask(lab: Lab, name: str, names: Iterable[str]) -> tuple[str, ...]:
    try:
        return missing(lab.metrics(name), names)
    except Unreachable:
        return ("its /metrics does not answer",)
