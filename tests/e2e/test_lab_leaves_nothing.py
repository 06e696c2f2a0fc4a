"""After `down` nothing of a lab is left, whatever was killed before, wherever `up` was stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import traces
from tests.e2e.commands import ZTLAB, ztlab
from tests.e2e.plans import mesh
from tests.e2e.waiting import wait_until
from ztlab.lab import build, processes, state
from ztlab.lab.lab import Lab
from ztlab.lab.plan import LabPlan, NodePlan

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.wireguard, pytest.mark.bpf]

SCENARIO = Path(__file__).parents[2] / "scenarios" / "3node.yaml"


def kill_nothing(lab: Lab) -> None:
    """A lab in good health."""


def kill_init(lab: Lab) -> None:
    init = lab.record.init
    assert init is not None
    os.kill(init.pid, signal.SIGKILL)
    wait_until(lambda: processes.is_gone(init))


def kill_agents(lab: Lab) -> None:
    kill_programs(lab, "zt-agent", count=3)


def kill_coordinator(lab: Lab) -> None:
    kill_programs(lab, "zt-coordinator", count=1)


def kill_wireguard(lab: Lab) -> None:
    """Where the kernel has a WireGuard there is no process of it, and nothing to kill."""
    kill_programs(lab, "wireguard-go", count=0)


def kill_everything(lab: Lab) -> None:
    for process in reversed(lab.processes()):
        os.kill(process.pid, signal.SIGKILL)


def kill_programs(lab: Lab, name: str, *, count: int) -> None:
    found = [p for p in lab.processes() if any(Path(word).name == name for word in p.argv[:2])]
    assert len(found) >= count
    for process in found:
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "kill",
    [kill_nothing, kill_init, kill_agents, kill_coordinator, kill_wireguard, kill_everything],
)
def test_down_leaves_nothing_behind(lab_name: str, kill) -> None:  # type: ignore[no-untyped-def]
    host = traces.of_host()
    lab = build.up(mesh(lab_name))
    before = traces.of_lab(lab, host)
    assert len(before.programs) == 6  # two on each node, or the search below would prove nothing
    assert traces.left(before, within_s=0)  # likewise

    kill(lab)
    done = ztlab("down", lab_name)

    assert done.returncode == 0, done.stderr
    assert traces.left(before) == []
    assert not state.root().exists()


# Enters the PID namespace of process ARGV[1] with a child, and never waits for it.
UNREAPED = """
import ctypes, os, sys, time
pid_namespace = os.open(f"/proc/{sys.argv[1]}/ns/pid", os.O_RDONLY)
assert ctypes.CDLL(None).setns(pid_namespace, 0x20000000) == 0
if os.fork() == 0:
    os._exit(0)
print("done", flush=True)
time.sleep(60)
"""


def test_down_does_not_wait_for_a_parent_that_never_reaps(lab_name: str) -> None:
    host = traces.of_host()
    lab = build.up(LabPlan(name=lab_name, nodes=(NodePlan(name="h1", kind="host"),), document={}))
    before = traces.of_lab(lab, host)
    init = lab.record.init
    assert init is not None
    command = [sys.executable, "-c", UNREAPED, str(init.pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "done\n"

            done = ztlab("down", lab_name)

            assert done.returncode == 0, done.stderr
            assert not state.root().exists()
            assert not processes.is_alive(init)
        finally:
            parent.kill()
    assert traces.left(before) == []


@pytest.mark.parametrize("phase", ["coordinator", "policy and keys", "agents"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_up_that_is_stopped_half_way_leaves_nothing_behind(
    lab_name: str, phase: str, number: int
) -> None:
    host = traces.of_host()
    command = [ZTLAB, "up", str(SCENARIO), "--name", lab_name]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line == f"{lab_name}: {phase}\n":
                break
        before = traces.of_lab(Lab.open(lab_name), host)
        process.send_signal(number)
        said = process.stderr.read()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in said
    else:
        assert ztlab("down", lab_name).returncode == 0
    assert traces.left(before) == []
    assert not state.root().exists()


@pytest.mark.parametrize(
    ("program", "node"), [("zt-agent", "carol"), ("zt-coordinator", "coordinator")]
)
def test_a_program_that_dies_stops_up_at_once_with_its_name_and_log(
    lab_name: str, program: str, node: str
) -> None:
    host = traces.of_host()
    command = [ZTLAB, "up", str(SCENARIO), "--name", lab_name]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"{lab_name}: namespaces\n"
        assert process.stderr.readline() == f"{lab_name}: coordinator\n"
        lab = Lab.open(lab_name)
        before = traces.of_lab(lab, host)

        def victims() -> list[int]:
            return [
                p.pid
                for p in lab.processes(node)
                if "run" in p.argv and any(Path(word).name == program for word in p.argv[:2])
            ]

        wait_until(
            lambda: bool(victims()), within_s=40
        )  # after `init`, where it is the coordinator
        os.kill(victims()[0], signal.SIGKILL)
        said = process.stderr.read()
    assert process.returncode == 1
    assert f"{node} ended while the lab was starting; its log says" in said
    assert "Traceback" not in said
    assert traces.left(before) == []


def test_a_deadline_that_passes_is_told_with_what_was_missing_and_leaves_nothing(
    lab_name: str,
) -> None:
    done = ztlab("up", str(SCENARIO), "--name", lab_name, "--timeout", "1")
    assert done.returncode == 1
    assert any(what in done.stderr for what in ("not done after", "did not", "does not answer"))
    assert "Traceback" not in done.stderr
    assert not state.root().exists()
