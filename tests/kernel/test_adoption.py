"""An agent ends, however it ends; the next one finds programs, maps, flows and counters."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import abi
from agent.datapath import adoption, attach, pins
from agent.datapath.compile import desired_state
from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from agent.datapath.loaded import Wanted
from agent.datapath.maps import program_id
from agent.datapath.marks import MarkLayout
from agent.datapath.pins import Pins
from tests.kernel import packets as p
from tests.kernel.conftest import MARKS
from tests.kernel.device import TUN, Tun, fresh_network_namespace, sh, sysctl, until
from tests.unit.agent.datapath.configs import TAGS, node_config, rule
from ztlab.model.verdict import AuthzMode, Hook, Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

CONFIG = node_config(
    rule("other", "guest", "web", "deny"), rule("ping", "web", "api", "allow", proto="icmp")
)
LIMITS = Limits(flows=1024)
OTHER_MARKS = MarkLayout.from_mask(0x7F001000)
ALLOWED = (TAGS["web"], Hook.INGRESS, Verdict.ALLOWED)
ANSWERED = (TAGS["web"], Hook.EGRESS, Verdict.ESTABLISHED)


class Place:
    """A node with `wg0` and a run_dir; `start` is what an agent does with the datapath."""

    def __init__(self, run_dir: Path, loader: str) -> None:
        self.run_dir, self.loader = run_dir, loader
        self.tun = Tun(TUN, f"{p.API}/24")
        self._running: list[Datapath] = []

    def load(self, limits: Limits = LIMITS, marks: MarkLayout = MARKS) -> Datapath:
        datapath = Datapath.load(
            marks=marks,
            limits=limits,
            loader=self.loader,
            pins=Pins(TUN, self.run_dir),
            run_dir=self.run_dir,
        )
        self._running.append(datapath)
        return datapath

    def start(self, limits: Limits = LIMITS, marks: MarkLayout = MARKS) -> Datapath:
        datapath = self.load(limits, marks)
        datapath.set_authz_mode(AuthzMode.ENFORCE)
        datapath.set_logging(True)
        configure(datapath)
        datapath.attach(TUN)
        return datapath

    def kill(self, datapath: Datapath) -> None:
        """What the end of a process does to it, and no more."""
        self._running.remove(datapath)
        datapath.close()

    def echo(self, source: str = p.WEB, id: int = 7) -> None:
        """A request comes out of the tunnel, and its answer enters it."""
        self.tun.send(p.echo_request(source, p.API, id=id))
        assert p.IP(self.tun.receive()).dst == source

    def close(self) -> None:
        for datapath in self._running:
            datapath.close()
        self.tun.close()
        Pins(TUN, self.run_dir).remove()


def configure(datapath: Datapath) -> None:
    state = desired_state(CONFIG)
    for phase in (datapath.remove_identities, datapath.apply_policy, datapath.put_identities):
        phase(state)


@pytest.fixture
def place(tmp_path: Path, loader: str) -> Iterator[Place]:
    with fresh_network_namespace():
        sysctl("net.ipv6.conf.default.disable_ipv6", "1")
        for which in ("all", "default"):
            sysctl(f"net.ipv4.conf.{which}.rp_filter", "0")
        node = Place(tmp_path, loader)
        yield node
        node.close()


def counted(datapath: Datapath) -> dict[tuple[int, Hook, Verdict], int]:
    return {(c.tag, c.hook, c.verdict): c.packets for c in datapath.counters()}


def numbers(datapath: Datapath) -> set[int]:
    return {program_id(fd) for fd in datapath.programs.values()}


def test_the_same_programs_are_adopted_with_flows_counters_and_events(place: Place) -> None:
    first = place.start()
    place.echo()
    before = numbers(first), first.epoch, counted(first)
    place.kill(first)
    place.echo()  # nobody is there, and it is judged and counted

    second = place.load()

    assert second.origin == "adopted" and second.loader == place.loader
    assert (numbers(second), second.epoch) == before[:2]
    assert second.flow_count() == 1 and second.authz_mode is AuthzMode.ENFORCE
    assert counted(second)[ANSWERED] == 2 and before[2][ANSWERED] == 1
    names = {(event.verdict, event.rule) for event in second.read_events(0)}
    assert (Verdict.ALLOWED, "ping") in names  # named right by who has not been told the policy


def test_told_the_same_policy_a_successor_changes_nothing(place: Place) -> None:
    place.kill(place.start())
    second = place.load()
    epoch = second.epoch
    configure(second)
    second.attach(TUN)
    assert second.epoch == epoch and all(second.is_attached().values())


CHANGES: dict[str, Callable[[Place], Datapath]] = {
    "other programs": lambda place: place.start(marks=OTHER_MARKS),
    "other sizes": lambda place: place.start(limits=Limits(flows=2048)),
    "other rings": lambda place: place.start(dataclasses.replace(LIMITS, ring_pages=1024)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_programs_or_sizes_keeps_flows_counters_and_policy(
    place: Place, change: str
) -> None:
    first = place.start()
    place.echo()
    epoch = first.epoch
    place.kill(first)

    second = CHANGES[change](place)

    is_reused = change == "other programs" and place.loader == "libbpf"
    assert second.origin == ("reused" if is_reused else "carried")
    assert all(second.is_attached().values()) and attach.numbers(TUN) == numbers(second)
    place.echo(id=8)
    now = counted(second)
    assert [(h.rule, h.packets) for h in second.rule_hits() if h.packets] == [("ping", 4)]
    assert now[ANSWERED] == 2 and second.flow_count() == 2 and second.epoch >= epoch
    place.tun.send(p.echo_request(p.GUEST, p.API))
    denied = (TAGS["guest"], Hook.INGRESS, Verdict.NO_RULE)
    until(lambda: counted(second).get(denied) == 1, "the denial to be counted")
    place.kill(second)
    third = CHANGES[change](place)
    assert third.origin == "adopted"  # and what it counts is the sum of all
    assert counted(third)[ANSWERED] == 2


def test_another_schema_is_carried_over_and_the_old_one_unpinned(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = place.start()
    place.echo()
    place.kill(first)
    monkeypatch.setattr(abi, "SCHEMA", abi.SCHEMA + 1)

    second = place.start()

    assert second.origin == "carried" and second.flow_count() == 1
    place.echo()
    assert counted(second)[ANSWERED] == 2
    folder = second.pinned_in
    assert folder is not None
    assert [path.name for path in folder.iterdir()] == [f"v{abi.SCHEMA}"]


def test_where_a_layout_changed_its_map_begins_empty_and_the_policy_is_told_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = place.start()
    place.echo()
    place.kill(first)
    monkeypatch.setattr(abi, "SCHEMA", abi.SCHEMA + 1)
    ours = adoption._layout
    changed = abi.MAPS["zt_flows"], abi.MAPS["zt_policy"]
    monkeypatch.setattr(adoption, "_layout", lambda *k: "another" if k in changed else ours(*k))

    second = place.load()

    assert second.flow_count() == 0 and second.identities() == {}


@pytest.mark.parametrize("change", CHANGES)
def test_no_packet_is_lost_while_the_programs_are_exchanged(place: Place, change: str) -> None:
    """Echo requests come in all the while; each one must be answered before the next."""
    first = place.start()
    place.echo()
    place.kill(first)
    stop = threading.Event()
    answered: list[int] = []

    def send() -> None:
        while not stop.is_set() or len(answered) < 200:
            place.echo()
            answered.append(1)

    sender = threading.Thread(target=send)
    sender.start()
    second = CHANGES[change](place)
    stop.set()
    sender.join()
    assert counted(second)[ANSWERED] == len(answered) + 1
    assert len(answered) >= 200
    assert place.tun.waiting() is None


def test_who_was_killed_before_its_programs_took_over_leaves_the_old_ones_in_force(
    place: Place,
) -> None:
    first = place.start()
    place.echo()
    running = numbers(first)
    place.kill(first)
    place.kill(place.load(marks=OTHER_MARKS))  # pinned, and not attached

    third = place.load()

    assert numbers(third) == running and third.origin == "adopted"
    configure(third)
    third.attach(TUN)
    assert third.pinned_in is not None
    assert [path.name for path in third.pinned_in.iterdir()] == [f"v{abi.SCHEMA}"]


def test_who_was_killed_just_after_taking_over_is_adopted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.kill(place.start())
    with monkeypatch.context() as patched:
        patched.setattr(Pins, "settle", lambda pins: None)
        second = place.start(marks=OTHER_MARKS)
        running = numbers(second)
        place.kill(second)
    third = place.start(marks=OTHER_MARKS)
    assert numbers(third) == running and third.origin == "adopted"
    assert third.pinned_in is not None
    assert [path.name for path in third.pinned_in.iterdir()] == [f"v{abi.SCHEMA}"]


def test_without_a_statement_the_maps_are_kept_and_the_programs_loaded_anew(place: Place) -> None:
    first = place.start()
    place.echo()
    before = numbers(first)
    place.kill(first)
    for path in place.run_dir.glob("datapath.*"):
        path.unlink()
    second = place.start()
    assert not numbers(second) & before
    assert second.origin == ("reused" if place.loader == "libbpf" else "carried")
    assert second.flow_count() == 1


def test_what_a_dead_namespace_left_under_the_same_inode_is_not_taken_over(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = place.start()
    place.echo()
    place.kill(first)
    monkeypatch.setattr(adoption, "namespace_cookie", lambda: pins.namespace_cookie() + 1)
    second = place.load()
    assert second.origin == "fresh" and second.flow_count() == 0 and counted(second) == {}


def test_removal_leaves_neither_pins_nor_mount_nor_files(place: Place) -> None:
    datapath = place.start()
    folder = datapath.pinned_in
    assert folder is not None and (folder / f"v{abi.SCHEMA}" / "maps" / "zt_flows").exists()
    datapath.detach()
    datapath.unpin()
    assert not folder.exists() and not folder.parent.exists()
    assert list(place.run_dir.iterdir()) == []


def test_an_interface_with_a_dot_in_its_name_can_be_pinned(place: Place) -> None:
    dotted = Pins("wg0.5", place.run_dir)
    assert "." not in dotted.directory.name and dotted.find(frozenset()) is None
    datapath = place.load()
    dotted.stage(datapath._loaded, adoption._statement(_wanted()))
    dotted.settle()
    found = dotted.find(frozenset())
    assert found is not None and found.maps.keys() == datapath._loaded.maps.keys()
    found.close()
    dotted.remove()


def _wanted() -> Wanted:
    return Wanted(marks=MARKS, limits=LIMITS)


def test_filters_of_others_outlive_start_exchange_and_removal(place: Place) -> None:
    sh(f"tc qdisc add dev {TUN} clsact")
    theirs_is = "1,6 0 0 4294967295"  # classic BPF: take every packet
    command = f"tc filter add dev {TUN} ingress prio 7 protocol all bpf flowid 1:7 bytecode"
    subprocess.run([*command.split(), theirs_is], check=True)

    def foreign() -> list[str]:
        shown = sh(f"tc filter show dev {TUN} ingress").splitlines()
        return [line for line in shown if "pref 7 " in line]

    theirs = foreign()
    assert theirs

    first = place.start()
    assert foreign() == theirs
    place.kill(first)
    second = place.start(marks=OTHER_MARKS)
    assert foreign() == theirs
    place.echo()
    second.detach()
    second.unpin()
    assert foreign() == theirs and "clsact" in sh(f"tc qdisc show dev {TUN}")


def test_where_nothing_can_be_pinned_it_is_said(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from agent.datapath import pins; from ztlab.errors import *\n"
        f"here = pins.BPFFS = Path({str(tmp_path)!r})\n"
        "try: pins.Pins('wg0', here)\n"
        "except HostUnfit as error: print(error, error.hint)\n"
    )
    bare = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable]
    done = subprocess.run([*bare, "-c", code], capture_output=True, text=True, check=True)
    assert f"no BPF file system at {tmp_path}, and none can be mounted" in done.stdout
    assert "mount -t bpf" in done.stdout
    assert list(tmp_path.iterdir()) == []
