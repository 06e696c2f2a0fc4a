"""Labs for tests, each with a state directory and a name of its own."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ztlab.lab import state, teardown

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def has_wireguard_go(request: pytest.FixtureRequest) -> None:
    """The marker is content with either WireGuard; what runs with kind "userspace" needs this."""
    params = getattr(request.node, "callspec", None)
    if params and params.params.get("kind") == "userspace" and not shutil.which("wireguard-go"):
        pytest.skip("needs wireguard: wireguard-go is not installed")


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Only this test's labs are in it: `Lab.names()` and `down --all` see no others."""
    path = tmp_path / "ztlab"
    monkeypatch.setenv("ZTLAB_STATE_DIR", str(path))
    return path


@pytest.fixture
def lab_name(state_dir: Path) -> Iterator[str]:
    """A name nobody else has; its lab, if one was made, is taken down when the test ends."""
    name = f"t{os.getpid()}-{next(_numbers)}"
    yield name
    for standing in state.names():
        teardown.down(standing)
