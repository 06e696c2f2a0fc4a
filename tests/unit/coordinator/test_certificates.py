"""Certificates that are about to end, that were given, and a switch that was interrupted."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator import authority, clock, tls
from coordinator.certificates import Certificates
from coordinator.settings import Settings
from tests.unit.coordinator import networks
from ztlab.errors import ZtError


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
