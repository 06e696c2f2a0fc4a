"""The local switches, with the real programs and the real belt, in a namespace of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.datapath import belt
from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from agent.gate import Gate
from agent.keys import NodeKey
from agent.settings import Settings
from agent.sync import Synchronizer
from tests.kernel.conftest import MARKS
from tests.kernel.device import fresh_network_namespace, until
from ztlab.errors import ZtError
from ztlab.model.verdict import AuthzMode

pytestmark = [pytest.mark.root, pytest.mark.bpf]

WG = "wg0"
ENFORCE, OBSERVE = AuthzMode.ENFORCE, AuthzMode.OBSERVE
FLIPS = 30
HELD_S = 20.0


@pytest.fixture
def namespace(loaded: Datapath) -> Iterator[None]:
    with fresh_network_namespace():
        yield
    loaded.set_authz_mode(ENFORCE)


@pytest.fixture
def gate(loaded: Datapath, namespace: None) -> Gate:
    made = Gate(WG, MARKS, ENFORCE)
    made.open(loaded, ENFORCE)
    made.fit_belt()
    return made


def is_belted() -> bool:
    return belt.is_installed(WG, MARKS)


@pytest.mark.usefixtures("namespace")
def test_a_switch_does_not_wait_for_what_is_being_applied(loaded: Datapath, tmp_path: Path) -> None:
    settings = Settings(authz_mode=ENFORCE, logging_enabled=True, name="me", run_dir=str(tmp_path))
    sync = Synchronizer(settings, NodeKey(bytes(range(32))), MARKS, Limits())
    sync._gate.open(loaded, ENFORCE)
    has_begun, may_end = threading.Event(), threading.Event()

    def change() -> None:
        has_begun.set()
        may_end.wait(HELD_S)

    applying = threading.Thread(target=sync.owner.run, args=(change,))
    applying.start()
    try:
        assert has_begun.wait(10)
        for mode in (OBSERVE, ENFORCE):
            sync.set_authz_mode(mode)
            assert loaded.authz_mode is sync.authz_mode is mode
            assert is_belted() == (mode is ENFORCE)
        for enabled in (True, False):
            sync.set_logging(enabled=enabled)
            assert loaded.logs_flows == enabled
        assert applying.is_alive(), "they waited for the change"
    finally:
        may_end.set()
        applying.join()
        sync.close()
        loaded.set_logging(False)
    with pytest.raises(ZtError, match="stopping"):
        sync.set_authz_mode(OBSERVE)


def test_the_belt_never_outlasts_enforcing_however_the_watch_comes_in_between(
    gate: Gate, loaded: Datapath
) -> None:
    """Whoever reads the mode, and puts on the belt only then, leaves one in observe."""
    stop = threading.Event()
    looks = 0

    def watch() -> None:
        nonlocal looks
        while not stop.is_set():
            gate.repair_belt()
            looks += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for flip in range(FLIPS):
            mode = (OBSERVE, ENFORCE)[flip % 2]
            gate.set_mode(mode)
            seen = looks
            until(lambda seen=seen: looks > seen, "the watch to look")  # type: ignore[misc]
            assert loaded.authz_mode is gate.mode is mode
            assert is_belted() == gate.is_belted == (mode is ENFORCE)
    finally:
        stop.set()
        watcher.join()


def test_a_gate_that_is_closed_switches_nothing(gate: Gate, loaded: Datapath) -> None:
    gate.close()
    with pytest.raises(ZtError, match="stopping"):
        gate.set_mode(OBSERVE)
    with pytest.raises(ZtError, match="stopping"):
        gate.set_logging(True, "flow", denials_per_s=0)
    assert not loaded.logs_flows
    assert loaded.authz_mode is ENFORCE and is_belted()
