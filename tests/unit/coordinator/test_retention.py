"""The oldest revisions are forgotten, now and then."""

from __future__ import annotations

import pytest

from coordinator import retention
from coordinator.api.context import Service
from coordinator.retention import Retention
from tests.unit.coordinator.test_network import add_identity
from tests.unit.coordinator.test_revisions import kept


def test_the_oldest_are_forgotten_at_once_and_then_at_intervals(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_identity(service, "a")
    monkeypatch.setattr(retention, "EVERY_S", 0.0)
    tidy = Retention(service.store, 2)
    tidy.tick()
    assert kept(service) == 2
    for name in ("b", "c", "d"):
        add_identity(service, name)
    assert kept(service) == 5
    monkeypatch.setattr(retention, "EVERY_S", 3600.0)
    tidy.tick()
    assert kept(service) == 2

    add_identity(service, "e")
    tidy.tick()  # not due
    assert kept(service) == 3


def test_a_store_that_fails_is_asked_again_later(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add_identity(service, "a")
    monkeypatch.setattr(retention, "EVERY_S", 0.0)
    tidy = Retention(service.store, 1)
    with service.store.writing() as session:
        session.connection().exec_driver_sql("ALTER TABLE revisions RENAME TO elsewhere")
    tidy.tick()
    assert "could not be forgotten" in caplog.text
    with service.store.writing() as session:
        session.connection().exec_driver_sql("ALTER TABLE elsewhere RENAME TO revisions")

    tidy.tick()
    assert kept(service) == 1
