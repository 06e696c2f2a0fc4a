"""Certificates that are about to end, that were given, and a switch that was interrupted."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from coordinator import authority, clock, setup, tls
from coordinator.certificates import Certificates
from coordinator.settings import Settings
from coordinator.store.engine import opened
from coordinator.store.models import AuditRow
from tests.unit.coordinator import networks
from ztlab.errors import ZtError

if TYPE_CHECKING:
    from _typeshed import StrPath


def age(settings: Settings) -> None:
    """Its certificate has a day left."""
    files = tls.TlsFiles(settings.directory)
    tls.make_server(files, settings.names, 1, files.authority, files.authority_key)


def test_who_may_read_the_authoritys_key_renews_in_time_and_takes_it_over(
    settings: Settings,
) -> None:
    fresh = Certificates(settings)
    fresh.renew_if_due()
    assert not fresh.is_due() and not fresh.look(), "what is fresh is left alone"

    age(settings)
    running = Certificates(settings)
    assert running.is_due()
    before = running.shown
    running.renew_if_due()
    assert running.look() and not running.is_due()
    assert running.shown.context is not before.context
    assert running.shown.expires_at > clock.now() + timedelta(days=80)
    assert running.shown.authorities == before.authorities


def test_who_may_not_says_what_is_to_be_done(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    age(settings)
    running = Certificates(settings)
    tls.TlsFiles(settings.directory).authority_key.unlink()
    running.renew_if_due()
    assert not running.look()
    assert "run `zt-coordinator renew`" in caplog.text


def test_a_certificate_of_another_authority_is_refused_at_the_start(
    settings: Settings, tmp_path: Path
) -> None:
    Certificates(settings)
    other = tmp_path / "other"
    other.mkdir()
    tls.prepare(other, settings.names)
    own, theirs = tls.TlsFiles(settings.directory), tls.TlsFiles(other)
    own.server.write_bytes(theirs.server.read_bytes())
    own.server_key.write_bytes(theirs.server_key.read_bytes())
    with pytest.raises(ZtError, match="is of none of the authorities"):
        Certificates(settings)


def test_a_given_certificate_is_given_whole(tmp_path: Path) -> None:
    wanted = networks.settings(tmp_path)
    with pytest.raises(ValueError, match="together, or none"):
        replace(wanted, certificate="/etc/server.pem")
    given = replace(wanted, certificate="/a.pem", private_key="/a.key", authority="/b.pem")
    assert tls.paths(given).authorities == (Path("/b.pem"),)
    with pytest.raises(ZtError, match="a certificate was given"):
        authority.begin(given)


@pytest.mark.parametrize("interrupted", ["before the key moved", "after the key moved"])
def test_a_switch_that_was_interrupted_is_done_again(settings: Settings, interrupted: str) -> None:
    running = Certificates(settings)
    files = tls.TlsFiles(settings.directory)
    with pytest.raises(ZtError, match="no coming authority"):
        authority.switch(settings)
    coming = authority.begin(settings).coming
    assert authority.begin(settings).coming == coming, "again: the same"
    key = files.next_authority_key
    tls.make_server(files, settings.names, 90, files.next_authority, key)
    if interrupted == "after the key moved":
        os.replace(key, files.authority_key)
    # The service shows the coming one's already, and would tell nodes of both.
    assert running.look()
    assert tls.fingerprint(running.shown.authority).hex() == coming

    found = authority.progress(settings)
    assert (found.current, found.coming, found.setup_keys) == (coming, coming, ())
    found = authority.switch(settings)
    assert (found.current, found.coming) == (coming, None)
    assert not files.next_authority.exists() and not key.exists()
    running.look()
    assert [tls.fingerprint(pem).hex() for pem in running.shown.authorities] == [coming]
    assert tls.renew(settings, even_if_fresh=True), "its key is where renewals look for it"
    assert Certificates(settings).shown.authorities == running.shown.authorities


class Stopped(BaseException):
    """As a process that is killed: nothing of it goes on."""


def stop_before(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The STEP-th file (from 0) that is about to be put in its place never is."""
    put, steps = os.replace, itertools.count()

    def counted(source: StrPath, target: StrPath) -> None:
        if next(steps) == step:
            raise Stopped
        put(source, target)

    monkeypatch.setattr(os, "replace", counted)


@pytest.mark.parametrize("step", range(4))
def test_stopped_at_any_step_of_a_switch_init_repairs_it_and_it_can_be_done_again(
    settings: Settings, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = authority.begin(settings).coming
    with monkeypatch.context() as stopping:
        stop_before(step, stopping)
        with pytest.raises(Stopped):
            authority.switch(settings)

    setup.initialise(settings)  # as the error at the next start says
    assert Certificates(settings).shown.expires_at > clock.now() + timedelta(days=80)
    found = authority.switch(settings)
    assert (found.current, found.coming) == (coming, None)
    assert [tls.fingerprint(p).hex() for p in Certificates(settings).shown.authorities] == [coming]
    with opened(settings.database_url) as store, store.reading() as session:
        rows = session.scalars(select(AuditRow).where(AuditRow.kind == "authority")).all()
    assert [row.action for row in rows] == ["begin", *["switch"] * (1 if step < 3 else 2)]
    assert rows[-1].after == {"sha256": [coming]}


@pytest.mark.parametrize("step", range(2))
def test_stopped_while_the_certificate_is_renewed_init_repairs_it(
    settings: Settings, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as stopping:
        stop_before(step, stopping)
        with pytest.raises(Stopped):
            tls.renew(settings, even_if_fresh=True)
    setup.initialise(settings)
    assert Certificates(settings).look() is False
