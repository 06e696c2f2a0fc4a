"""The programs on their way into the kernel, beside all else that an agent's start is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.loading import Loading
from agent.settings import Settings, load
from tests.kernel.device import fresh_network_namespace

pytestmark = [pytest.mark.root, pytest.mark.bpf]


@pytest.fixture
def wanted(tmp_path: Path) -> Iterator[Settings]:
    run_dir, file = tmp_path / "run", tmp_path / "agent.toml"
    run_dir.mkdir()
    file.write_text(
        'authz_mode = "enforce"\nlogging_enabled = false\n'
        f'run_dir = "{run_dir}"\n[datapath]\nloader = "libbpf"\n'
    )
    with fresh_network_namespace():
        yield load(file)


def of_bpf() -> list[str]:
    """What this process holds of the kernel's programs and maps."""
    held = []
    for entry in os.scandir("/proc/self/fd"):
        try:
            held.append(os.readlink(entry.path))
        except FileNotFoundError:  # the directory's own
            continue
    return sorted(name for name in held if "bpf" in name)


def test_what_is_taken_is_the_callers(wanted: Settings) -> None:
    before = of_bpf()
    with Loading(wanted) as programs:
        datapath = programs.take()
    assert of_bpf() != before
    assert datapath.loader == "libbpf" and programs.pins is not None
    assert programs.pins.directory.exists()
    datapath.abandon()
    assert of_bpf() == before
    assert not programs.pins.directory.exists()


def test_what_nobody_takes_is_let_go_of_and_leaves_no_pins(wanted: Settings) -> None:
    before, threads = of_bpf(), threading.active_count()
    with pytest.raises(ValueError, match="the rest did not start"), Loading(wanted) as programs:
        raise ValueError("the rest did not start")
    assert of_bpf() == before
    assert threading.active_count() == threads
    assert programs.pins is not None and not programs.pins.directory.exists()
    assert not list(wanted.run_path.iterdir())
