"""Labs of plain hosts: namespaces, cables, names and commands, without a WireGuard or an agent."""

from __future__ import annotations

import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e import traces
from tests.e2e.commands import ZTLAB, shown, ztlab
from tests.e2e.waiting import wait_until
from ztlab.errors import DeadlineExceeded, NotFound, Refused, ZtError
from ztlab.lab import build, namespaces, processes, reach, state, teardown
from ztlab.lab.lab import Lab
from ztlab.lab.plan import LabPlan, Listener, NodePlan
from ztlab.lab.state import LabRecord, NodeRecord

pytestmark = pytest.mark.root

TCP, UDP = Listener(proto="tcp", port=8080), Listener(proto="udp", port=5353)


def plan(name: str) -> LabPlan:
    return LabPlan(
        name=name,
        nodes=(
            NodePlan(name="h1", kind="host", listen=(TCP, UDP)),
            NodePlan(name="h2", kind="host"),
        ),
        document={},
    )


@pytest.fixture
def lab(lab_name: str) -> Iterator[Lab]:
    yield build.up(plan(lab_name))


def test_hosts_reach_each_other_by_name_in_both_families(lab: Lab) -> None:
    for family in ("-4", "-6"):
        lab.run("h2", ["ping", family, "-c1", "-W2", "h1"], check=True, timeout_s=5)


def test_many_hosts_on_one_link_need_not_look_for_each_other(lab_name: str) -> None:
    names = [f"h{i}" for i in range(1, 25)]
    hosts = tuple(NodePlan(name=name, kind="host") for name in names)
    crowd = build.up(LabPlan(name=lab_name, nodes=hosts, document={}))
    for family in ("-4", "-6"):
        crowd.run("h1", ["ping", family, "-c1", "-W2", "h24"], check=True, timeout_s=5)
        shown = crowd.run("h1", ["ip", family, "neigh", "show"], check=True).stdout.splitlines()
        assert len(shown) == len(names) - 1
        assert all("PERMANENT" in line for line in shown)


def test_a_node_sees_only_its_own_network_and_files(lab: Lab) -> None:
    list_all = ["ip", "-br", "link"]
    links = lab.run("h1", list_all, check=True).stdout.splitlines()
    names = {line.split()[0].partition("@")[0] for line in links}
    # Some kernels put a sit0 or the like into every namespace.
    fresh = subprocess.run(["unshare", "--net", *list_all], capture_output=True, text=True)
    assert names == {line.split()[0].partition("@")[0] for line in fresh.stdout.splitlines()} | {
        "eth0"
    }
    shells = lab.run("h1", ["sh", "-c", "ls /proc/[0-9]*/comm | wc -l; cat /proc/1/comm"])
    assert shells.stdout.split()[-1] == "ztlab-init"
    assert lab.run("h1", ["ls", "/run/netns"], check=True).stdout == ""
    lab.run("h1", ["touch", "/run/mark"], check=True)
    assert lab.run("h2", ["test", "-e", "/run/mark"]).returncode == 1
    assert not Path("/run/mark").exists()


def test_pins_of_one_node_are_not_seen_in_another(lab: Lab) -> None:
    create = "bpftool map create /sys/fs/bpf/mine type array key 4 value 4 entries 1 name mine"
    lab.run("h1", ["sh", "-c", create], check=True)
    assert "mine" in lab.run("h1", ["ls", "/sys/fs/bpf"], check=True).stdout.split()
    assert "mine" not in lab.run("h2", ["ls", "/sys/fs/bpf"], check=True).stdout.split()


def test_an_exit_code_is_the_programs_own(lab: Lab) -> None:
    assert lab.run("h1", ["sh", "-c", "exit 7"]).returncode == 7
    with pytest.raises(ZtError, match="exit code 7: sorry"):
        lab.run("h1", ["sh", "-c", "echo sorry >&2; exit 7"], check=True)


def test_a_program_nobody_has_is_not_found(lab: Lab) -> None:
    with pytest.raises(NotFound, match="no-such-program"):
        lab.run("h1", ["no-such-program"])


def test_a_program_that_takes_too_long_is_killed_with_all_it_started(lab: Lab) -> None:
    with pytest.raises(DeadlineExceeded):
        lab.run("h1", ["sh", "-c", "sleep 1000 & sleep 1000"], timeout_s=0.3)
    wait_until(lambda: not [p for p in lab.processes("h1") if "sleep" in p.argv])


def test_a_child_ends_with_the_process_that_started_it(lab: Lab) -> None:
    code = (
        "import os, signal, subprocess; from ztlab.lab.lab import Lab; lab = Lab.open()\n"
        "child = lab.popen('h2', ['sh', '-c', 'echo here; exec sleep 1000'],"
        " stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not [p for p in lab.processes("h2") if "sleep" in p.argv])


def test_a_daemon_outlives_its_starter_and_belongs_to_the_lab(lab: Lab, tmp_path: Path) -> None:
    inner = lab.spawn("h2", ["sh", "-c", "echo hello; exec sleep 1000"], tmp_path / "log")
    wait_until(lambda: any("sleep" in p.argv for p in lab.processes("h2")))
    (found,) = [p for p in lab.processes("h2") if "sleep" in p.argv]
    assert found.inner_pid == inner
    status = Path(f"/proc/{found.pid}/status").read_text()
    init = lab.record.init
    assert init is not None
    assert f"PPid:\t{init.pid}\n" in status
    wait_until(lambda: (tmp_path / "log").read_text() == "hello\n")


def test_a_listener_names_its_node_and_peer_on_tcp_and_udp(lab: Lab) -> None:
    with lab.connect("h2", ("h1", 8080)) as connection:
        assert b'"node": "h1"' in connection.recv(200)
        connection.send(b"anybody there?")
        assert connection.recv(200) == b"anybody there?"

    def ask() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(3)
            asking.sendto(b"ping", ("198.18.0.1", 5353))
            return asking.recv(200)

    assert lab.call("h2", ask) == b'{"node": "h1", "peer": "198.18.0.2", "port": 5353}\nping'


def test_a_listener_that_reads_nobody_still_answers_others(lab: Lab) -> None:
    """A sender that never reads must not block the one process behind every port."""
    with lab.connect("h2", ("h1", 8080)) as greedy:
        greedy.settimeout(1)
        for _ in range(200):
            try:
                greedy.send(b"x" * 65536)
            except TimeoutError:
                break
        with lab.connect("h2", ("h1", 8080)) as other:
            assert other.recv(200)


def test_a_paused_port_is_free_and_the_others_stay(lab: Lab) -> None:
    with lab.pause_listener("h1", TCP):
        with pytest.raises(ConnectionRefusedError):
            lab.connect("h2", ("h1", 8080))
        lab.call("h1", lambda: socket.create_server(("0.0.0.0", 8080)).close())
        listening = lab.run("h1", ["ss", "-Huln"], check=True).stdout
        assert ":5353" in listening
    with lab.connect("h2", ("h1", 8080)) as connection:
        assert connection.recv(200)
    with pytest.raises(NotFound), lab.pause_listener("h2", TCP):
        pass


def test_namespaces_have_names_that_ip_netns_understands(lab: Lab) -> None:
    done = subprocess.run(
        ["ip", "netns", "exec", f"{lab.name}.h1", "ip", "-br", "address", "show", "eth0"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "198.18.0.1/16" in done.stdout


def test_a_second_lab_of_one_name_is_refused_and_the_first_stands(lab: Lab) -> None:
    with pytest.raises(Refused) as caught:
        build.up(plan(lab.name))
    assert "ztlab down" in caught.value.hint
    assert Lab.open().status == "up"


def test_two_labs_stand_side_by_side_with_the_same_addresses(lab: Lab) -> None:
    other = build.up(plan(f"{lab.name}-b"))
    assert lab.underlay_addresses("h1") == other.underlay_addresses("h1")
    assert Lab.names() == (lab.name, other.name)
    with pytest.raises(NotFound, match="2 labs are standing"):
        Lab.open()
    before = traces.of_lab(other, traces.of_host())
    teardown.down(other.name)
    assert traces.left(before) == []
    lab.run("h2", ["ping", "-c1", "-W2", "h1"], check=True)


def test_a_lab_does_not_keep_an_earlier_labs_namespaces_alive(lab: Lab) -> None:
    """A mount namespace begins as a copy: with the other lab's names in it, if nobody looks."""
    other = build.up(plan(f"{lab.name}-b"))
    for node in other.record.nodes:
        mounts = other.run(node.name, ["cat", "/proc/self/mountinfo"], check=True).stdout
        assert "nsfs" not in mounts
    init = other.record.init
    assert init is not None
    assert "nsfs" not in Path(f"/proc/{init.pid}/mountinfo").read_text()
    assert f"/run/netns/{lab.name}.h1" in Path("/proc/self/mountinfo").read_text()  # the control


def test_down_takes_everything_and_a_second_down_finds_nothing(lab: Lab) -> None:
    before = traces.of_lab(lab, traces.of_host())
    child = lab.popen("h1", ["sleep", "1000"])
    teardown.down(lab.name)
    assert traces.left(before) == []
    assert child.wait(5) == -signal.SIGKILL
    assert not state.root().exists()
    with pytest.raises(NotFound):
        teardown.down(lab.name)


def test_down_works_after_the_labs_first_process_was_killed(lab: Lab) -> None:
    before = traces.of_lab(lab, traces.of_host())
    init = lab.record.init
    assert init is not None
    os.kill(init.pid, signal.SIGKILL)
    wait_until(lambda: processes.is_gone(init))
    assert Lab.open(lab.name).status == "dead"
    with pytest.raises(NotFound, match="not running"):
        lab.run("h1", ["true"])
    teardown.down(lab.name)
    assert traces.left(before) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_up_half_way_the_lab_goes_with_it(lab_name: str, number: int) -> None:
    """`up` is stopped while it waits, for ever in this test, for the lab's listeners."""
    code = (
        "import signal\n"
        "from tests.e2e.test_lab_hosts import plan\n"
        "from ztlab.cli.signals import terminated_as_interrupted\n"
        "from ztlab.lab import build\n"
        "from ztlab.lab.lab import Lab\n"
        "Lab.wait_for_listener = lambda *_, **__: (print('held', flush=True), signal.pause())\n"
        f"with terminated_as_interrupted(): build.up(plan({lab_name!r}))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        lab = Lab.open(lab_name)
        before = traces.of_lab(lab, traces.of_host())
        process.send_signal(number)
    assert process.returncode != 0
    if number == signal.SIGKILL:
        wait_until(lambda: lab.status == "dead")  # the kernel's part, without anybody's help
        teardown.down(lab_name)
    assert traces.left(before) == []


def test_exec_passes_streams_arguments_and_the_exit_code_through(lab: Lab) -> None:
    done = ztlab("exec", "h1", "--", "sh", "-c", 'echo "$1" "$ZTLAB_NODE"; exit 9', "sh", "a  b")
    assert (done.returncode, done.stdout) == (9, "a  b h1\n")
    done = subprocess.run(
        [ZTLAB, "exec", f"{lab.name}.h1", "--", "cat"], input="in\n", capture_output=True, text=True
    )
    assert done.stdout == "in\n"


def test_exec_works_from_a_directory_that_was_removed(lab: Lab, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"mkdir gone && cd gone && rmdir ../gone && exec {ZTLAB} exec h1 -- pwd"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "/\n"), done.stderr


def test_exec_of_a_killed_program_says_so_as_a_shell_does(lab: Lab) -> None:
    assert ztlab("exec", "h1", "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9


def test_exec_passes_a_terminate_on_to_the_program(lab: Lab) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    command = [ZTLAB, "exec", "h1", "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "bye\n"
    assert process.returncode == 3


def test_exec_keeps_the_callers_directory_where_the_node_has_it(lab: Lab, tmp_path: Path) -> None:
    done = ztlab("exec", "h1", "--", "pwd", cwd=tmp_path)
    assert done.stdout.strip() == str(tmp_path)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("exec", "h3", "--", "true"), 1, "has no node 'h3'"),
        (("exec", "h1", "--", "no-such-program"), 127, "no command 'no-such-program'"),
        (("exec", "h1"), 2, "COMMAND"),
        (("down", "nolab"), 1, "no lab 'nolab'"),
        (("logs", "h1"), 1, "runs no agent"),
        (("inspect", "--", "../x"), 1, "want 1 to 32"),
    ],
)
def test_a_users_slip_is_two_lines_and_no_traceback(
    lab: Lab, words: tuple[str, ...], code: int, says: str
) -> None:
    done = ztlab(*words)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_list_and_inspect_show_the_lab_as_tables_and_as_json(lab: Lab) -> None:
    (row,) = shown("list")
    assert (row["name"], row["state"], row["nodes"]) == (lab.name, "up", ["h1", "h2"])
    nodes = {node["name"]: node for node in shown("inspect")["nodes"]}
    assert nodes["h1"]["underlay"] == ["198.18.0.1/16", "fd18::1/64"]
    assert nodes["h1"]["listen"] == ["tcp/8080", "udp/5353"]
    assert "ztlab.lab.listener" in nodes["h1"]["processes"][0]["argv"]
    assert lab.name in ztlab("list").stdout
    assert "198.18.0.2" in ztlab("inspect").stdout


def test_down_all_takes_every_lab_and_none_is_fine_too(lab: Lab) -> None:
    build.up(plan(f"{lab.name}-b"))
    assert shown("down", "--all") == {"removed": [lab.name, f"{lab.name}-b"]}
    assert shown("down", "--all") == {"removed": []}
    assert shown("list") == []


def test_a_shells_prompt_says_where_it_is_and_nothing_stays_behind(lab: Lab) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(ZTLAB, [ZTLAB, "shell", "h1"])
    said = read_until(terminal, f"[{lab.name}/h1]")
    os.write(terminal, b"echo $((6 * 7)) $ZTLAB_NODE; exit 5\n")
    said += read_until(terminal, "42 h1")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(terminal)
    assert "cannot set terminal process group" not in said


def test_a_shell_survives_ctrl_c(lab: Lab) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(ZTLAB, [ZTLAB, "shell", "h1"])
    read_until(terminal, "/h1]")
    os.write(terminal, b"sleep 1000\n")
    wait_until(lambda: bool([p for p in lab.processes("h1") if "sleep" in p.argv]))
    os.write(terminal, b"\x03")
    os.write(terminal, b"echo still $((6 * 7)); exit 0\n")
    read_until(terminal, "still 42")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)


def read_until(terminal: int, text: str) -> str:
    """What TERMINAL says, up to and with TEXT."""
    said = ""
    deadline = time.monotonic() + 10
    while text not in said:
        assert time.monotonic() < deadline, said
        try:
            said += os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            raise AssertionError(f"it ended without {text!r}: {said}") from None
    return said


def test_a_closed_directory_is_open_for_an_unprivileged_user_in_one_namespace_only(
    state_dir: Path, tmp_path: Path
) -> None:
    """What the coordinator gets where the project lies in somebody's 0700 home directory."""
    project = tmp_path / "closed" / "project"
    project.mkdir(parents=True)
    (project / "program").write_text("hello")
    (tmp_path / "closed" / "secret").write_text("secret")
    project.parent.chmod(0o700)
    cover, uncover = reach.obstacles([project])
    for name in ("hosts", "resolv"):
        (tmp_path / name).touch()
    spec = {"name": "n", "binds": [], "cover": cover, "uncover": uncover}
    spec |= {name: str(tmp_path / name) for name in ("hosts", "resolv")}
    init = namespaces.start_init([spec], log=tmp_path / "log")
    try:
        node = NodeRecord(name="n", kind="host", namespaces=init.make()["n"])
        record = LabRecord(
            version=1,
            name="x",
            state="building",
            created_at=0,
            names=(),
            nodes=(node,),
            init=init.process,
        )

        def read(path: Path) -> str:
            user = ["setpriv", "--reuid", "64198", "--clear-groups", "cat", str(path)]
            command = partial(subprocess.run, user, capture_output=True, text=True)
            return namespaces.call_inside(
                record, node, lambda: command().stdout, kinds=namespaces.EVERYTHING
            )

        assert read(project / "program") == "hello"
        assert read(project.parent / "secret") == ""
    finally:
        init.close()
    assert stat.S_IMODE(project.parent.stat().st_mode) == 0o700
    assert (project.parent / "secret").read_text() == "secret"
    wait_until(lambda: not processes.is_alive(init.process))
