"""After a whole run at debug level no secret stands anywhere but in the file made for it."""

from __future__ import annotations

import base64
import hmac
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from contextlib import closing
from email.message import Message
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from sqlalchemy import select

from coordinator.store.engine import opened
from coordinator.store.models import AuditRow, ChallengeRow
from tests.e2e.plans import mesh
from tests.e2e.test_rotation import kill_agent, rotate
from tests.e2e.waiting import wait_until
from ztlab.client.node import NodeClient
from ztlab.errors import Refused
from ztlab.lab import build, execute, files, state
from ztlab.lab.control import owner_token_path
from ztlab.lab.lab import Lab
from ztlab.lab.plan import COORDINATOR

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.wireguard, pytest.mark.bpf]

NODES = ("alice", "bob", "carol")


def test_no_secret_stands_where_it_does_not_belong(lab_name: str) -> None:
    lab = build.up(mesh(lab_name))
    _restart_verbosely(lab)
    secrets = _secrets_of_nodes(lab)
    secrets["the owner's token"] = owner_token_path(lab.name).read_text().strip()
    secrets["a second administrator's token"] = _token(lab)
    secrets["a session cookie"] = _log_in(lab, secrets["the owner's token"])
    _be_refused(lab, secrets)
    assert rotate(lab, "alice").returncode == 0
    secrets |= {f"{what}, later": text for what, text in _secrets_of_nodes(lab).items()}
    lab.admin().revoke_node("carol")
    wait_until(lambda: "refused" in lab.log_path(COORDINATOR).read_text())

    raw = _forms(secrets) | _raw_keys(lab)
    assert len(raw) > 20
    assert _found(lab, raw) == set()

    # What would be found if it were there: in a log, in the database's directory, in a process.
    planted = lab.directory / "planted.log"
    for what, content in raw.items():
        planted.write_bytes(b"some text " + content + b" and more")
        assert f"{what} in planted.log" in _found(lab, {what: content})
    planted.unlink()
    token = secrets["the owner's token"]
    wait = "import sys; print(1, flush=True); sys.stdin.read()"
    for argument, environment in ((token, {}), ("x", {"ZT_TEST": token})):
        command = [sys.executable, "-c", wait, argument]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == b"1\n"
            assert _in_process(process.pid, {"it": token.encode()})
            assert process.stdin is not None
            process.stdin.close()


def _restart_verbosely(lab: Lab) -> None:
    """Everybody at debug level; the logs go on in the same files."""
    home = files.COORDINATOR_HOME
    (process,) = (p for p in lab.processes(COORDINATOR) if p.pid == _oldest(lab))
    os.kill(process.pid, signal.SIGTERM)
    wait_until(lambda: not lab.processes(COORDINATOR), 20)
    program = [execute.program("zt-coordinator"), "run", "--verbose"]
    log = lab.log_path(COORDINATOR)
    lab.spawn(COORDINATOR, [*program, "--config", f"{home}/coordinator.toml"], log)
    for node in NODES:
        kill_agent(lab, node)
        directory = state.node_dir(lab.name, node)
        agent = [execute.program("zt-agent"), "run", "--verbose"]
        lab.spawn(node, [*agent, "--config", str(directory / "agent.toml")], directory / "log")
    wait_until(lambda: _has_converged(lab), 30)


def _oldest(lab: Lab) -> int:
    return min(process.pid for process in lab.processes(COORDINATOR))


def _has_converged(lab: Lab) -> bool:
    try:
        return (
            all(_is_connected(lab, node) for node in NODES) and lab.admin().network().has_converged
        )
    except Exception:  # it is just starting
        return False


def _is_connected(lab: Lab, node: str) -> bool:
    done = lab.run(node, ["zt-agent", "status", "--json"], timeout_s=30)
    return done.returncode == 0 and '"is_connected": true' in done.stdout


def _secrets_of_nodes(lab: Lab) -> dict[str, str]:
    found = {}
    for node in NODES:
        home = state.node_dir(lab.name, node)
        found[f"{node}'s private key"] = (home / "state/private.key").read_text().strip()
        found[f"{node}'s token"] = json.loads((home / "state/session.json").read_text())["token"]
        if (home / "setup-key").exists():
            found[f"{node}'s setup key"] = (home / "setup-key").read_text().strip()
    return found


def _token(lab: Lab) -> str:
    done = lab.admin().call("POST", "/tokens", {"name": "second", "role": "viewer"})
    return str(done["token"])


def _log_in(lab: Lab, token: str) -> str:
    """What the browser of somebody who logs in gets."""
    admin = lab.admin()
    address = urlsplit(admin._transport.url)
    assert address.hostname is not None and address.port is not None
    context = ssl.create_default_context(cadata=_authority(lab))

    def ask(body: str | None, more: dict[str, str]) -> tuple[Message, str]:
        assert address.hostname is not None and address.port is not None
        plain = lab.coordinator_socket((address.hostname, address.port), 10.0)
        connection = http.client.HTTPSConnection(address.hostname, address.port)
        with closing(connection):
            connection.sock = context.wrap_socket(plain, server_hostname=address.hostname)
            connection.request("GET" if body is None else "POST", "/ui/login", body, more)
            answer = connection.getresponse()
            return answer.headers, answer.read().decode()

    headers, page = ask(None, {})
    csrf = re.search(r'name="csrf"[^>]*value="([^"]+)"', page)
    assert csrf is not None, page
    kind = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Cookie": str(headers["Set-Cookie"]).partition(";")[0],
    }
    headers, _ = ask(urlencode({"token": token, "csrf": csrf[1]}), kind)
    cookies = [text.partition(";")[0] for text in headers.get_all("Set-Cookie") or ()]
    return next(text.partition("=")[2] for text in cookies if "zts_" in text)


def _authority(lab: Lab) -> str:
    return (state.coordinator_dir(lab.name) / "state/authority.pem").read_text()


def _be_refused(lab: Lab, secrets: dict[str, str]) -> None:
    """Secrets that come to the wrong door: as tokens that they are not."""
    admin = lab.admin()
    for text in secrets.values():
        with closing(
            NodeClient(
                admin._transport.url,
                _authority(lab),
                text,
                socket_factory=lab.coordinator_socket,
            )
        ) as client:
            for path in ("/network", "/node/rotation"):
                try:
                    client._transport.request("GET", path)
                except Refused:
                    continue


def _forms(secrets: dict[str, str]) -> dict[str, bytes]:
    """Each as it is written, and as the bytes that it stands for, where these are others."""
    found = {}
    for what, text in secrets.items():
        found[what] = text.encode()
        if what.endswith(("private key", "private key, later")):
            found[f"{what}, raw"] = base64.b64decode(text)
            found[f"{what}, hexadecimal"] = base64.b64decode(text).hex().encode()
        if text.startswith("zt1."):
            found[f"{what}, its secret"] = text.split(".")[1].encode()
    return found


def _raw_keys(lab: Lab) -> dict[str, bytes]:
    """What challenges' one-time keys are made of, and such a key itself."""
    home = state.coordinator_dir(lab.name) / "state"
    key = (home / "challenge.key").read_bytes()
    with closing(
        NodeClient(
            lab.admin()._transport.url, _authority(lab), socket_factory=lab.coordinator_socket
        )
    ) as client:
        asked = {"purpose": "token", "public_key": lab.admin().node("bob").public_key}
        given = client._transport.request("POST", "/node/challenge", asked, bearer="")
    with opened(f"sqlite:///{home / 'ztlab.db'}") as store, store.reading() as session:
        row = session.get_one(ChallengeRow, given["challenge_id"])
        assert session.scalars(select(AuditRow)).first() is not None  # there is something to grep
        nonce = row.nonce
    one_time = hmac.digest(key, b"ztlab-challenge-v1" + nonce, "sha256")
    return {"the challenge key": key, "a one-time key": one_time}


def _found(lab: Lab, secrets: dict[str, bytes]) -> set[str]:
    """Each "secret in place" of the lab's files and processes, but for the files made for them."""
    own = {"private.key", "former.key", "next.key", "setup-key", "session.json", "challenge.key"}
    own.add(owner_token_path(lab.name).name)
    found = set()
    roots = (lab.directory, state.coordinator_dir(lab.name))
    paths = {path for root in roots for path in root.rglob("*") if path.is_file()}
    assert {"ztlab.db", "ztlab.db-wal", "log"} <= {path.name for path in paths}
    for path in paths:
        if path.name not in own:
            found |= {f"{what} in {path.name}" for what in _in_file(path, secrets)}
    pids = [process.pid for node in (COORDINATOR, *NODES) for process in lab.processes(node)]
    assert len(pids) >= 1 + len(NODES)
    for pid in pids:
        found |= {f"{what} in process {pid}" for what in _in_process(pid, secrets)}
    for node in NODES:
        shown = lab.run(node, ["zt-agent", "status", "--json"], timeout_s=30)
        told = (shown.stdout + shown.stderr + lab.metrics(node)).encode()
        found |= {f"{what} in {node}'s status" for what, text in secrets.items() if text in told}
    return found


def _in_file(path: Path, secrets: dict[str, bytes]) -> set[str]:
    """Which of them stand in it. An agent that writes a file anew takes the draft's name away."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        assert path.name.endswith(".tmp"), path
        return set()
    return {what for what, text in secrets.items() if text in content}


def _in_process(pid: int, secrets: dict[str, bytes]) -> set[str]:
    """Which of them stand in the arguments or the environment of a process."""
    content = b""
    for name in ("cmdline", "environ"):
        try:
            content += Path(f"/proc/{pid}/{name}").read_bytes()
        except OSError:  # it ended meanwhile
            continue
    return {what for what, text in secrets.items() if text in content}
