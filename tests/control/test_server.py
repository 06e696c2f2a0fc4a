"""The process itself: who it is, how it starts and stops, what it says when it cannot."""

from __future__ import annotations

import pwd
import socket
import ssl
import stat
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from coordinator import settings, setup
from coordinator.errors import Conflict
from tests.control.process import (
    IMPATIENT,
    PROGRAM,
    RUN,
    STOP_S,
    cli,
    place,
    running,
    start,
    wait_until_it_answers,
    write_settings,
)
from ztlab.errors import Refused

NOTHING = "0" * 16


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}


def run(config: Path) -> subprocess.Popen[str]:
    command = [str(PROGRAM), "run", "--config", str(config)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.root
def test_started_as_root_or_not_it_is_nobody_and_can_do_nothing() -> None:
    nobody = pwd.getpwnam("nobody")
    with running(user="nobody") as here:
        for pid in (here.process.pid, here.worker_pid()):
            status = status_of(pid)
            assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
            assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
            assert status["Groups"] == ""
            assert status["NoNewPrivs"] == "1"
            for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert status[which] == NOTHING, f"{which} of {pid}"

        state = here.directory / "state"
        found = {path.name: path.stat() for path in (state, *state.iterdir())}
        assert {name for name, s in found.items() if stat.S_IMODE(s.st_mode) & 0o077} == set()
        # What only `init` needs stays out of the reach of what listens to the network.
        assert {name for name, s in found.items() if s.st_uid == 0} == {"authority.key"}
        assert "challenge.key" in found
        assert stat.S_IMODE((here.directory / "owner").stat().st_mode) == 0o600

        here.stop()
        here.process = start(here.directory, user="nobody")
        wait_until_it_answers(here)
        assert status_of(here.process.pid)["CapEff"] == NOTHING


@pytest.mark.root
def test_what_an_operator_can_repair_is_said_in_two_lines() -> None:
    with place() as directory:
        write_settings(directory)
        cli("init", at=directory)
        started = []
        for i, (changes, said) in enumerate(
            (
                ({"user": "root"}, "does not run as root"),
                ({"listen": "192.0.2.1:8443"}, "cannot listen on 192.0.2.1:8443"),
                ({"database": f"sqlite:///{directory}/none.db"}, "cannot use the store"),
            )
        ):
            write_settings(directory, **changes)
            config = (directory / "coordinator.toml").rename(directory / f"{i}.toml")
            started.append((run(config), said))
        for process, said in started:
            _, told = process.communicate(timeout=30)
            assert process.returncode != 0
            assert said in told and told.count("\n") == 2, told


def test_it_stops_at_once_and_starts_again_where_it_was() -> None:
    with running() as here:
        client, _ = here.enrol("alice")
        with client.stream() as stream:
            first = next(stream)
            assert here.stop() < STOP_S
        here.process = start(here.directory)
        wait_until_it_answers(here)
        with client.stream(digest=first.digest) as resumed:  # a token outlives a restart
            event = next(resumed)
        assert (event.kind, event.revision) == ("current", first.revision)
        here.stop()
        assert "Traceback" not in (here.directory / "log").read_text()


def test_who_stalls_in_the_middle_of_a_request_is_cut_off() -> None:
    half = (
        b"POST /api/v1/node/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\n\r\n{"
    )
    with running(program=IMPATIENT) as here:
        context = ssl.create_default_context(cadata=here.authority)
        address = ("127.0.0.1", int(here.url.rpartition(":")[2]))
        with (
            socket.create_connection(address, timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(half)
            answer = b"".join(iter(partial(connection.recv, 65536), b""))
        assert answer.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in answer
        assert "Traceback" not in (here.directory / "log").read_text()


def test_a_second_init_keeps_network_and_authority_and_renews_the_owners_token() -> None:
    with running() as here, closing(here.admin()) as admin:
        authority, network = here.authority, admin.network()
        again = cli("init", "--owner-token-file", str(here.directory / "owner"), at=here.directory)
        assert (again.stdout, again.stderr) == ("", "")
        assert here.authority == authority
        with closing(here.admin((here.directory / "owner").read_text().strip())) as fresh:
            assert fresh.network() == network
        with pytest.raises(Refused):
            admin.network()  # the former token is worth nothing any more

        with closing(here.admin(here.token("ci", "viewer"))) as viewer:
            assert viewer.network() == network
        with pytest.raises(Conflict, match="a token is called 'ci' already"):
            setup.create_token(settings.load(here.directory / "coordinator.toml"), "ci", "owner")


def test_a_shells_limit_of_open_files_does_not_bound_the_streams() -> None:
    low = ["prlimit", "--nofile=256:4096", "--"]
    with running(program=(*low, *RUN)) as coordinator:
        limits = Path(f"/proc/{coordinator.worker_pid()}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
    assert line.split()[3:5] == ["4096", "4096"]
