"""Pins of network namespaces that are gone are found; what is still in force is left alone."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.datapath import pins, stale
from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from agent.datapath.pins import Pins
from tests.kernel.conftest import MARKS
from tests.kernel.device import TUN, Tun, fresh_network_namespace, sh

pytestmark = [pytest.mark.root, pytest.mark.bpf]

LIMITS = Limits(flows=64, frags=64, rules=64, stats=256, ring_pages=16)


class Place:
    """Where an agent pins: a BPF file system of its own, and its configuration file."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.root = pins.file_system(run_dir)
        self.config = run_dir / "agent.toml"
        self.config.write_text(
            f'name = "me"\nstate_dir = "{run_dir}/state"\nrun_dir = "{run_dir}"\n'
            'authz_mode = "enforce"\nlogging_enabled = true\n'
        )

    def enforce(self, interface: str = TUN) -> Path:
        """What an agent does here, and leaves when it ends; where it pinned it."""
        found = Pins(interface, self.run_dir)
        datapath = Datapath.load(
            marks=MARKS, limits=LIMITS, loader="libbpf", pins=found, run_dir=self.run_dir
        )
        datapath.attach(interface)
        datapath.close()
        return found.directory

    def found(self) -> list[Path]:
        return [each.directory for each in stale.stale(self.run_dir)]

    def command(self, *words: str, answer: str = "") -> tuple[int, str]:
        """`zt-agent remove --stale WORDS...`: (exit code, what it said)."""
        arguments = ["remove", "--config", str(self.config), "--stale", *words]
        done = CliRunner().invoke(main, arguments, input=answer)
        return done.exit_code, done.output


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(pins, "BPFFS", tmp_path / "none")
    with fresh_network_namespace():  # this test's own: an agent that looks has one, too
        found = Place(tmp_path)
        yield found
    subprocess.run(["umount", str(found.root)], check=True)


@contextmanager
def elsewhere() -> Iterator[Tun]:
    """In another namespace with a wg0, which is gone with the block unless somebody holds it."""
    with fresh_network_namespace():
        tun = Tun(TUN, "10.0.0.2/24")
        try:
            yield tun
        finally:
            tun.close()


def is_whole(directory: Path) -> bool:
    """Are both programs and all the maps there?"""
    (current,) = directory.iterdir()
    return len(list((current / "programs").iterdir())) == 2 and any((current / "maps").iterdir())


def test_pins_of_a_namespace_that_is_gone_are_listed_and_removed_when_it_is_confirmed(
    place: Place,
) -> None:
    with elsewhere():
        directory = place.enforce()
        assert place.found() == []  # control: it is there, this thread is in it
    assert place.found() == [directory]

    code, said = place.command(answer="n\n")
    assert code == 1 and f"{directory}: wg0 in net:[{directory.parent.name}]" in said
    assert is_whole(directory)

    code, said = place.command(answer="y\n")
    assert (code, said.splitlines()[-1]) == (0, "removed")
    assert not (place.root / "ztlab").exists() or not list((place.root / "ztlab").iterdir())
    assert place.command("--yes") == (0, "no pins of a network namespace that is gone\n")


@pytest.mark.parametrize("how", ["thread", "descriptor", "mount"])
def test_a_namespace_that_somebody_holds_is_not_thought_to_be_gone(
    place: Place, tmp_path: Path, how: str
) -> None:
    with ExitStack() as held:
        with elsewhere():
            directory = place.enforce()
            if how == "thread":
                sleeper = subprocess.Popen(["sleep", "60"])
                held.callback(sleeper.wait)
                held.callback(sleeper.kill)
            elif how == "descriptor":
                held.callback(os.close, os.open("/proc/thread-self/ns/net", os.O_RDONLY))
            else:
                (tmp_path / "netns").touch()
                sh(f"mount --bind /proc/thread-self/ns/net {tmp_path / 'netns'}")
                held.callback(sh, f"umount {tmp_path / 'netns'}")
        assert place.found() == []
        assert place.command("--yes")[0] == 0 and is_whole(directory)
    assert place.found() == [directory]  # control: it was that which held it


def test_what_runs_in_a_namespace_that_is_not_seen_stays_pinned_and_enforced(place: Place) -> None:
    """Nothing but a socket holds it, of which /proc does not say where it is."""
    with ExitStack() as held:
        with fresh_network_namespace():
            sh("ip link add wg0 type veth peer name wg1")
            directory = place.enforce()
            before = sorted((next(directory.iterdir()) / "programs").iterdir())
            held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        assert place.found() == [directory]

        code, said = place.command("--yes")

        assert code == 1 and f"{directory} stays: its programs run" in said
        assert is_whole(directory)
        assert sorted((next(directory.iterdir()) / "programs").iterdir()) == before
    # Control: without the socket the namespace goes, and with it what holds the programs.
    assert place.command("--yes")[0] == 0
    assert not directory.exists()


def test_nothing_else_is_touched(place: Place) -> None:
    tun = Tun(TUN, "10.0.0.2/24")
    own = place.enforce()
    with elsewhere():
        gone = place.enforce()
    others = [place.root / "theirs" / "4026531000", place.root / "ztlab" / "theirs",
              gone.parent / "wg9" / "theirs"]  # fmt: skip
    for other in others:
        other.mkdir(parents=True)
    assert place.found() == [gone]
    assert place.command("--yes")[0] == 0
    assert not gone.exists() and is_whole(own)
    assert all(other.is_dir() for other in others)
    tun.close()
