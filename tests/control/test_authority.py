"""Certificates and authorities that change under a running coordinator, and nodes that follow."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from agent.keys import load_or_make
from coordinator import tls
from tests.contract.wire import Follower
from tests.control.process import (
    PROGRAM,
    Coordinator,
    Keys,
    cli,
    place,
    running,
    start,
    wait_until_it_answers,
    write_settings,
)
from tests.control.served import until
from tests.control.sessions import new_session, node_settings
from ztlab.client.node import NodeClient
from ztlab.errors import Refused, Unreachable


def shown(here: Coordinator) -> x509.Certificate:
    """The certificate that a new connection meets."""
    port = int(here.url.rpartition(":")[2])
    return x509.load_pem_x509_certificate(
        ssl.get_server_certificate(("127.0.0.1", port), timeout=5).encode()
    )


def status(here: Coordinator) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        cli("authority", "status", "--json", at=here.directory).stdout
    )
    return answer


def test_a_renewed_certificate_is_shown_to_new_connections_and_open_streams_live_on() -> None:
    with running(certificate_days=3) as here:
        client, _ = here.enrol("alice")
        with closing(Follower(client)) as follower:
            until(lambda: follower.kinds() == ["config"], "the stream runs")
            before = shown(here)
            assert before.not_valid_after_utc - datetime.now(UTC) < timedelta(days=3)
            assert cli("renew", at=here.directory).stdout == "not due\n"
            assert shown(here).serial_number == before.serial_number

            assert cli("renew", "--now", at=here.directory).stdout == "renewed\n"
            until(lambda: shown(here).serial_number != before.serial_number, "the new one is shown")
            with closing(here.admin()) as admin:
                admin.create_identity("made-later")
            until(lambda: len(follower.events) == 2, "the open stream goes on")
            assert not follower.has_ended


def test_it_renews_its_certificate_by_itself_before_it_ends() -> None:
    with place() as directory:
        write_settings(directory, certificate_days=90)
        cli("init", at=directory)
        tls.make_server(
            files := tls.TlsFiles(directory / "state"),
            ("127.0.0.1", "localhost"),
            1,
            files.authority,
            files.authority_key,
        )
        old = x509.load_pem_x509_certificate(files.server.read_bytes()).serial_number
        process = start(directory)
        try:
            until(
                lambda: (
                    x509.load_pem_x509_certificate(files.server.read_bytes()).serial_number != old
                ),
                "it renews what is due",
                within_s=20,
            )
        finally:
            process.terminate()
            process.wait(timeout=10)


def test_half_of_a_change_is_not_taken_over() -> None:
    with running() as here:
        before = shown(here).serial_number
        files = tls.TlsFiles(here.directory / "state")
        key, kept = files.server_key, files.server_key.read_bytes()
        other = here.directory / "other"
        other.mkdir()
        tls.prepare(other, ("127.0.0.1",))
        tls.write_file(key, tls.TlsFiles(other).server_key.read_bytes(), 0o600, key.stat())
        log = here.directory / "log"
        until(lambda: "is not taken over" in log.read_text(), "it is said")
        assert shown(here).serial_number == before
        tls.write_file(key, kept, 0o600, key.stat())
        cli("renew", "--now", at=here.directory)
        until(lambda: shown(here).serial_number != before, "the whole change is taken over")


@contextmanager
def given(directory: Path) -> Iterator[tuple[Coordinator, Path]]:
    """A coordinator with a certificate of an authority of somebody else, and its files."""
    files = directory / "given"
    files.mkdir(mode=0o755)
    tls.prepare(files, ("127.0.0.1",))
    _open(files)
    paths = {
        "certificate": str(files / "server.pem"),
        "private_key": str(files / "server.key"),
        "authority": str(files / "authority.pem"),
    }
    port = write_settings(directory, **paths)
    cli("init", "--owner-token-file", str(directory / "owner"), at=directory)
    here = _Given(directory, f"https://127.0.0.1:{port}", start(directory), "")
    here.owner = (directory / "owner").read_text().strip()
    try:
        wait_until_it_answers(here)
        yield here, files
    finally:
        for client in here.clients:
            client.close()
        here.process.terminate()
        here.process.wait(timeout=10)


def _open(files: Path) -> None:
    for path in files.iterdir():
        path.chmod(0o644)


class _Given(Coordinator):
    @property
    def authority(self) -> str:
        return (self.directory / "given/authority.pem").read_text()


def test_a_given_certificate_is_shown_pinned_and_followed_when_it_is_replaced() -> None:
    with place() as directory, given(directory) as (here, files):
        assert not (directory / "state/authority.pem").exists()
        here.enrol("alice")  # by a setup key that pins the given authority
        before = shown(here).serial_number
        own = tls.TlsFiles(files)
        tls.make_server(own, ("127.0.0.1",), 30, own.authority, own.authority_key)
        _open(files)
        until(lambda: shown(here).serial_number != before, "the new one is shown")
        here.enrol("bob")


def test_the_authority_is_rolled_over_and_no_node_is_lost() -> None:
    with running() as here:
        client, keys = here.enrol("alice")
        late, late_keys = here.enrol("late")
        old = client._transport.trusted
        assert client.learn_authorities() is None

        cli("authority", "rotate", at=here.directory)
        coming = status(here)["coming"]
        learnt: list[str] = []

        def learns(who: NodeClient) -> bool:
            if (pems := who.learn_authorities()) is not None:
                learnt.append(pems)
            return len(who._transport.trusted) == 2

        until(lambda: learns(client), "the node learns the coming authority")
        assert client._transport.authority_hash == old[0], "the present one still verifies"
        client.learn_authorities()  # says that it knows it
        assert (status(here)["know"], status(here)["waiting_for"]) == (1, ["late"])

        refused = _try("authority", "switch", at=here.directory)
        assert refused[0] == 1 and "nodes.late" in refused[1]

        learns(late)
        late.learn_authorities()
        with closing(Follower(client)) as follower:
            until(lambda: follower.kinds() == ["config"], "a stream of before the switch runs")
            cli("authority", "switch", at=here.directory)
            # Whoever pins the old one alone is out: the certificate is another authority's.
            stubborn = NodeClient(here.url, _first(learnt[0]), None)
            until(lambda: _is_shut_out(stubborn), "the new certificate is shown")
            for who, key in ((client, keys), (late, late_keys)):
                until(partial(_renews, who, key), "its proof is bound to the new one")
                assert who._transport.authority_hash.hex() == coming
                until(partial(_forgets, who), "it forgets the old one")
            assert not follower.has_ended
        found = status(here)
        assert (found["current"], found["coming"]) == (coming, None)
        # What is made from now on pins the new one, and lets in.
        here.enrol("bob")


def test_an_agent_follows_a_roll_over_by_itself_and_keeps_what_it_learnt(tmp_path: Path) -> None:
    with running(token_ttl_s=10) as here:
        directory = tmp_path / "agent"
        directory.mkdir()
        settings = node_settings(directory, here.url, "alice")
        with closing(here.admin()) as admin:
            made = admin.create_setup_key(role="mesh", name="alice")
        (directory / "setup-key").write_text(made.key or "")
        key = load_or_make(directory / "private.key")
        session = new_session(settings, key, apply=lambda revision, config: None)
        pinned = directory / "authority.pem"
        session.start()
        try:
            until(lambda: session.status.is_connected, "it is connected")
            first = pinned.read_text()
            cli("authority", "rotate", at=here.directory)
            until(lambda: status(here)["know"] == 1, "it says that it trusts both", within_s=25)
            assert pinned.read_text().startswith(first) and pinned.read_text().count("BEGIN") == 2
            cli("authority", "switch", at=here.directory)
            coming = tls.read_authority(here.directory / "state")
            until(lambda: pinned.read_text() == coming != first, "it forgets the old", within_s=25)
        finally:
            session.stop()
        # Another start, from what is on the disk alone.
        again = new_session(settings, key, apply=lambda revision, config: None)
        again.start()
        try:
            until(lambda: again.status.is_connected, "it is connected again")
        finally:
            again.stop()


def test_a_setup_key_that_would_be_void_stands_in_the_way_of_the_switch() -> None:
    with running() as here:
        with closing(here.admin()) as admin:
            made = admin.create_setup_key(role="mesh")
        cli("authority", "rotate", at=here.directory)
        code, said = _try("authority", "switch", at=here.directory)
        assert code == 1 and f"setup-keys.{made.id}" in said
        with closing(here.admin()) as admin:
            admin.delete_setup_key(made.id)
        assert _try("authority", "switch", at=here.directory)[0] == 0


def test_a_proof_for_the_former_authority_is_refused_after_the_switch() -> None:
    """Who has the former authority's key, and is in between, gets no use out of a proof."""
    with running() as here:
        client, keys = here.enrol("alice")
        cli("authority", "rotate", at=here.directory)
        until(lambda: client.learn_authorities() is not None, "it learns the coming one")
        # Its connection is of before the switch, and so is what it binds its proof to.
        cli("authority", "switch", "--force", at=here.directory)
        stale = client._transport.authority_hash
        until(lambda: _is_bound_anew(here), "the switch is taken over")
        with pytest.raises(Refused) as caught:
            client.renew(public_key=keys.public, prove=keys.prove)
        assert caught.value.status == 401
        client.renew(public_key=keys.public, prove=keys.prove)  # on a new connection
        assert client._transport.authority_hash != stale


def _is_bound_anew(here: Coordinator) -> bool:
    issuer = tls.read_authority(here.directory / "state").encode()
    return shown(here).issuer == x509.load_pem_x509_certificate(issuer).subject


def _first(pems: str) -> str:
    return pems[: pems.index("-----END CERTIFICATE-----\n") + len("-----END CERTIFICATE-----\n")]


def _is_shut_out(client: NodeClient) -> bool:
    try:
        client._transport.reconnect()
        client._transport.request("GET", "/health")
    except Unreachable as error:
        return "TLS failed" in str(error)
    return False


def _renews(client: NodeClient, keys: Keys) -> bool:
    try:
        client.renew(public_key=keys.public, prove=keys.prove)
    except Refused:
        return False
    return True


def _forgets(client: NodeClient) -> bool:
    client.learn_authorities()
    return len(client._transport.trusted) == 1


def _try(*arguments: str, at: Path) -> tuple[int, str]:
    command = [str(PROGRAM), *arguments, "--config", str(at / "coordinator.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr
