"""Make a lab from a plan: everything that can overlap does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from ztlab.client.admin import AdminClient
from ztlab.errors import DeadlineExceeded, Refused, Unreachable, ZtError
from ztlab.lab import execute, files, reach, ready, state, teardown
from ztlab.lab.addressing import Cable, cables
from ztlab.lab.control import admit, enrolling, owner_token_path
from ztlab.lab.draft import draft
from ztlab.lab.lab import Lab, require_root
from ztlab.lab.links import lay_cables
from ztlab.lab.names import check_lab_name
from ztlab.lab.namespaces import InitHandle, bind_names, refuse_taken_names, start_init
from ztlab.lab.pace import scaled
from ztlab.lab.plan import COORDINATOR, LabPlan
from ztlab.lab.state import LabRecord, NodeRecord

Progress = Callable[[str, str], None]
"""Called with a phase ("agents") and what is seen of it ("2 of 3 enrolled"; "" when it begins)."""

DEFAULT_TIMEOUT_S = 60.0


def _silent(_phase: str, _seen: str) -> None:
    """The progress of a caller who does not want any."""


@dataclass(slots=True)
class _Building:
    """One call of `up`, on its way."""

    plan: LabPlan
    lab: Lab
    progress: Progress
    deadline: float
    phases_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.progress(name, "")
        began = time.monotonic()
        yield
        self.phases_s[name] = round(time.monotonic() - began, 3)

    def save(self, **changes: Any) -> None:
        self.lab.record = replace(self.lab.record, **changes)
        state.write(self.lab.record)


def up(
    plan: LabPlan,
    *,
    progress: Progress = _silent,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    source: str | None = None,
) -> Lab:
    """Make the lab of PLAN and return it ready; nothing is left of it if that fails.

    Ready: every agent enrolled and its programs attached, the network converged, a completed
    handshake on every tunnel. ZtError if a program dies, DeadlineExceeded after TIMEOUT_S seconds,
    Refused if a lab of that name stands.
    """
    require_root()
    check_lab_name(plan.name)
    wires = cables(plan)
    with state.lock(plan.name):
        if state.lab_dir(plan.name).exists():
            raise Refused(
                f"lab {plan.name!r} is there already",
                hint=f"`ztlab down {plan.name}` removes it; --name makes a second one",
            )
        record = draft(plan, source=source)
        refuse_taken_names(record.names)
        building = _Building(plan, Lab(record), progress, time.monotonic() + scaled(timeout_s))
        try:
            _build(building, wires)
        except BaseException:
            with teardown.uninterrupted():
                teardown.remove(plan.name)
            raise
        return building.lab


def _build(building: _Building, wires: tuple[Cable, ...]) -> None:
    plan, lab = building.plan, building.lab
    with ExitStack() as stack:
        # Left in the reverse order: without its leash the lab ends, and so does what waits for it.
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=1, thread_name_prefix="up"))
        with building.phase("namespaces"):
            init = _make_namespaces(building)
            stack.callback(init.close)
            bind_names(lab.record)
            lay_cables(lab.record, wires, lans=len(plan.lans))
        _start_programs(building, pool)
        with building.phase("finish"):
            files.write_hosts(lab.record)
            init.keep()
            building.save(state="up", phases_s=building.phases_s)


def _make_namespaces(building: _Building) -> InitHandle:
    """Files first, then the PID 1 that owns all else, written down before it makes anything."""
    lab = building.lab
    base = lab.directory
    base.mkdir(mode=0o755)
    state.write(lab.record)
    files.write_all(building.plan, lab.record)
    init = start_init([_spec(lab.record, node) for node in lab.record.nodes], log=base / "init.log")
    try:
        building.save(init=init.process)
        held = init.make()
    except BaseException:
        init.close()
        raise
    nodes = tuple(replace(node, namespaces=held[node.name]) for node in lab.record.nodes)
    building.save(nodes=nodes)
    return init


def _spec(record: LabRecord, node: NodeRecord) -> dict[str, Any]:
    """What ztlab.lab.init is told about one namespace."""
    base = state.lab_dir(record.name)
    spec: dict[str, Any] = {
        "name": node.name,
        "hosts": str(base / "hosts"),
        "resolv": str(base / "resolv.conf"),
        "binds": [],
        "cover": [],
        "uncover": [],
    }
    if node.kind == "coordinator":
        spec["cover"], spec["uncover"] = reach.obstacles(reach.program_directories())
        spec["binds"] = [[str(state.coordinator_dir(record.name)), files.COORDINATOR_HOME]]
    return spec


def _start_programs(building: _Building, pool: ThreadPoolExecutor) -> None:
    """Listeners and agents at once, beside the coordinator; then the network comes together."""
    plan, lab = building.plan, building.lab
    nodes = enrolling(plan)
    daemons = ready.Daemons(lab)
    served: Future[AdminClient] | None = None
    if nodes:
        served = pool.submit(_start_coordinator, building, daemons)
    for node in nodes:
        directory = state.node_dir(lab.name, node.name)
        command = [execute.program("zt-agent"), "run", "--config", str(directory / "agent.toml")]
        daemons.add(node.name, lab.spawn(node.name, command, directory / "log"), directory / "log")
    _start_listeners(building, daemons)
    if served is not None:
        _bring_together(building, served, daemons)
    with building.phase("listeners"):
        for record in lab.nodes:
            if record.listen:
                daemons.check()
                left = max(1.0, building.deadline - time.monotonic())
                lab.wait_for_listener(record.name, set(record.listen), timeout_s=left)


def _start_listeners(building: _Building, daemons: ready.Daemons) -> None:
    lab = building.lab
    for record in lab.nodes:
        if record.listen:
            log = state.node_dir(lab.name, record.name) / "listener.log"
            command = [sys.executable, "-m", "ztlab.lab.listener", *record.listen]
            daemons.add(f"{record.name}'s listener", lab.spawn(record.name, command, log), log)


def _start_coordinator(building: _Building, daemons: ready.Daemons) -> AdminClient:
    """Set it up and start it, as production does; a client once it answers."""
    lab = building.lab
    program = execute.program("zt-coordinator")
    log = lab.log_path(COORDINATOR)
    config = ["--config", f"{files.COORDINATOR_HOME}/coordinator.toml"]
    token = f"{files.COORDINATOR_HOME}/{owner_token_path(lab.name).name}"
    command = [program, "init", *config, "--owner-token-file", token]
    left = max(0.1, building.deadline - time.monotonic())
    done = lab.run(COORDINATOR, command, timeout_s=left)
    log.write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        raise ZtError(f"`zt-coordinator init` failed; it says:\n{ready.tail(log)}")
    daemons.add(COORDINATOR, lab.spawn(COORDINATOR, [program, "run", *config], log), log)
    admin = lab.admin()
    while True:
        daemons.check()
        try:
            admin.network()
            return admin
        except Unreachable as error:
            if time.monotonic() > building.deadline:
                raise DeadlineExceeded(
                    f"the coordinator does not answer ({error}); its log says:\n{ready.tail(log)}"
                ) from None
        time.sleep(0.02)


def _bring_together(
    building: _Building, served: Future[AdminClient], daemons: ready.Daemons
) -> None:
    """Policy, setup keys, enrolment, convergence, handshakes; then the tunnel addresses."""
    lab, plan = building.lab, building.plan
    nodes = enrolling(plan)
    with building.phase("coordinator"):
        while not served.done():
            daemons.check()
            time.sleep(0.01)
        admin = served.result()
    with building.phase("policy and keys"):
        admit(lab, admin, plan)
    with building.phase("agents"):
        report = _reporter(building, "agents")
        ready.wait_for_network(admin, len(nodes), daemons, building.deadline, report)
    with building.phase("tunnels"):
        report = _reporter(building, "tunnels")
        names = tuple(node.name for node in nodes)
        ready.wait_for_agents(lab, names, daemons, building.deadline, report)
    addresses = {node.name: node.addresses for node in admin.nodes()}
    record = lab.record
    for node in nodes:
        told = replace(record.node(node.name), tunnel=addresses[node.name])
        record = state.update_node(record, told)
    building.save(nodes=record.nodes)


def _reporter(building: _Building, phase: str) -> ready.Report:
    return lambda seen: building.progress(phase, seen)
