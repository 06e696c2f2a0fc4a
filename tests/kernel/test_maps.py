"""Loading, and the three phases of a change against what the maps hold."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent import abi
from agent.abi import Kind, PolicyFlag
from agent.datapath.compile import desired_state
from agent.datapath.datapath import Datapath, _require_sizes
from agent.datapath.limits import Limits
from agent.datapath.maps import BpfMap
from agent.datapath.state import IdentityEntry
from tests.kernel import packets as p
from tests.kernel import testrun
from tests.kernel.conftest import MARKS, Node
from tests.unit.agent.datapath.configs import TAGS, node_config, rule
from ztlab.errors import ZtError
from ztlab.model.verdict import AuthzMode, Hook, Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

CONFIG = node_config(rule("r", "web", "api", "allow", proto="tcp", ports=("1000-1999",)))

TWO_PORTS = node_config(rule("dns", "web", "api", "allow", proto="udp", ports=(53, 5353)))


def sizes(datapath: Datapath) -> dict[str, int]:
    names = ("zt_ids", "zt_nets", "zt_pairs", "zt_policy")
    return {name: datapath._maps[name].count() for name in names}


def test_freshly_loaded_it_enforces_a_closed_door(loader: str) -> None:
    limits = Limits(ids=16, nets=16, policy=16, pairs=16, flows=1024, stats=64, ring_pages=1)
    datapath = Datapath.load(marks=MARKS, limits=limits, loader=loader)
    try:
        assert datapath.loader == loader
        assert datapath.authz_mode is AuthzMode.ENFORCE and datapath.epoch == 1
        assert not datapath.identities() and not datapath.counters() and not datapath.flow_count()
        assert datapath.is_attached() == {Hook.INGRESS: False, Hook.EGRESS: False}
    finally:
        datapath.close()


def test_entries_of_another_size_are_not_written(node: Node) -> None:
    bpf_map = node.datapath._maps["zt_policy"]
    key, value = bytes(bpf_map.key_size), bytes(bpf_map.value_size)
    for wrong in ({key: value[:-1]}, {key: value + b"x"}, {key[:-1]: value}):
        with pytest.raises(ZtError, match="are not of"):
            bpf_map.put(wrong)
    assert not bpf_map.items()
    bpf_map.put({key: value})  # control
    assert bpf_map.items() == {key: value}
    bpf_map.delete([key])


def test_each_phase_does_nothing_the_second_time(node: Node) -> None:
    datapath, state = node.datapath, desired_state(CONFIG)
    assert not datapath.remove_identities(state)
    assert datapath.apply_policy(state) and datapath.put_identities(state)
    epoch, held = datapath.epoch, sizes(datapath)
    assert not datapath.remove_identities(state)
    assert not datapath.apply_policy(state) and not datapath.put_identities(state)
    assert datapath.epoch == epoch and sizes(datapath) == held
    assert datapath.identities() == state.identities


def test_every_phase_that_changes_anything_raises_the_epoch(node: Node) -> None:
    node.configure(CONFIG)
    epochs = [node.datapath.epoch]
    fewer = desired_state(node_config(without=("guest",)))
    for phase in (node.datapath.remove_identities, node.datapath.apply_policy):
        assert phase(fewer)
        epochs.append(node.datapath.epoch)
    assert node.datapath.put_identities(desired_state(CONFIG))
    epochs.append(node.datapath.epoch)
    assert epochs == list(range(epochs[0], epochs[0] + 4))


def test_a_policy_change_switches_slots_and_leaves_nothing_of_the_old_one(node: Node) -> None:
    node.configure(CONFIG)
    before = node.datapath._config[abi.ConfigWord.POLICY] & PolicyFlag.SLOT
    node.configure(TWO_PORTS)
    assert node.datapath._config[abi.ConfigWord.POLICY] & PolicyFlag.SLOT != before
    assert sizes(node.datapath)["zt_policy"] == 2 and sizes(node.datapath)["zt_pairs"] == 1


def test_a_pair_of_which_policy_says_one_thing_needs_no_second_look_up(node: Node) -> None:
    node.configure(TWO_PORTS)
    node.configure(node_config(rule("dns", "web", "api", "allow", proto="udp", ports=(53,))))
    assert sizes(node.datapath)["zt_policy"] == 0 and sizes(node.datapath)["zt_pairs"] == 1
    assert node.ingress(p.udp(p.WEB, p.API, 1, 53)).event.rule == "dns"
    assert node.ingress(p.udp(p.WEB, p.API, 1, 54)).verdict is Verdict.NO_RULE
    assert node.ingress(p.tcp(p.WEB, p.API, 1, 53)).verdict is Verdict.NO_RULE
    assert node.ingress(p.udp(p.WEB, p.GUEST, 1, 53)).verdict is Verdict.NO_RULE


def test_what_an_interrupted_change_left_behind_is_cleared_by_the_next(node: Node) -> None:
    datapath = node.datapath
    node.configure(CONFIG)
    slot = datapath._config[abi.ConfigWord.POLICY] & PolicyFlag.SLOT
    junk = abi.PolicyKey(2, 3, 22, 6, 16, slot ^ 1)
    datapath._maps["zt_policy"].put({bytes(junk): bytes(abi.PolicyValue(1, 1))})
    node.configure(TWO_PORTS)
    keys = map(abi.PolicyKey.from_buffer_copy, datapath._maps["zt_policy"].items())
    assert sorted((key.protocol, key.port) for key in keys) == [(17, 53), (17, 5353)]


@pytest.mark.parametrize("phase", ["remove_identities", "put_identities"])
def test_a_change_of_identities_cut_off_before_its_epoch_cuts_flows_all_the_same(
    node: Node, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Its successor finds the maps as they should be: only a mark in the policy word is left."""
    datapath, allow = node.datapath, rule("r", "web", "api", "allow")
    guest = IPv4Network(p.GUEST)
    after = desired_state(node_config(allow, without=("guest",)))
    if phase == "put_identities":  # the address stays, and is somebody else's
        after = replace(after, identities={**after.identities, guest: IdentityEntry(5, Kind.NODE)})
    as_web = {**after.identities, guest: IdentityEntry(TAGS["web"], Kind.NODE)}
    before = replace(after, identities=as_web)
    for change in (datapath.remove_identities, datapath.apply_policy, datapath.put_identities):
        change(before)
    for source in (p.WEB, p.GUEST):
        assert node.ingress(p.udp(source, p.API, 1, 2)).passed
        assert node.ingress(p.udp(source, p.API, 1, 2)).verdict is Verdict.ESTABLISHED
    with monkeypatch.context() as patch:
        patch.setattr(Datapath, "_raise_epoch", killed)
        with pytest.raises(Killed):
            getattr(datapath, phase)(after)
    epoch = datapath.epoch
    for change in (datapath.remove_identities, datapath.apply_policy, datapath.put_identities):
        change(after)
    assert datapath.epoch == epoch + 1
    assert not node.ingress(p.udp(p.GUEST, p.API, 1, 2)).passed
    assert node.ingress(p.udp(p.WEB, p.API, 1, 2)).verdict is Verdict.ESTABLISHED
    assert not datapath.remove_identities(after) and not datapath.put_identities(after)


class Killed(Exception):
    """The agent is gone."""


def killed(*_: object, **__: object) -> None:
    raise Killed


def test_foreign_entries_in_the_identity_maps_are_removed(node: Node) -> None:
    node.configure(CONFIG)
    foreign = abi.IdKey(4, (*abi.pack_address(IPv4Address("10.0.0.99")),))
    node.datapath._maps["zt_ids"].put({bytes(foreign): bytes(abi.Identity(2, Kind.NODE))})
    assert IdentityEntry(2, Kind.NODE) in node.datapath.identities().values()
    assert node.datapath.remove_identities(desired_state(CONFIG))
    assert node.datapath.identities() == desired_state(CONFIG).identities


def test_a_flip_to_enforce_raises_the_epoch_and_a_repeated_one_does_not(node: Node) -> None:
    epoch = node.datapath.epoch
    node.datapath.set_authz_mode(AuthzMode.ENFORCE)
    assert node.datapath.epoch == epoch
    node.datapath.set_authz_mode(AuthzMode.OBSERVE)
    assert node.datapath.epoch == epoch and node.datapath.authz_mode is AuthzMode.OBSERVE
    node.datapath.set_authz_mode(AuthzMode.ENFORCE)
    assert node.datapath.epoch == epoch + 1


def test_the_epoch_wraps_round_zero_which_means_never(node: Node) -> None:
    word, before = abi.ConfigWord.POLICY, node.datapath._config[abi.ConfigWord.POLICY]
    node.datapath._config[word] = abi.EPOCH_MAX << abi.EPOCH_SHIFT | before & 0xFF
    node.configure(CONFIG)
    assert 0 < node.datapath.epoch < 4
    node.datapath._config[word] = before & ~0xFF | node.datapath._config[word] & 0xFF


def test_a_policy_switched_under_traffic_drops_nothing_that_both_allow(node: Node) -> None:
    """Packets of no flow, so that each is judged, on another CPU while the slots change."""
    node.datapath.set_logging(False)
    timestamp = bytes(p.ip(p.WEB, p.API) / p.ICMP(type=13))
    program = node.datapath.programs[Hook.INGRESS]
    policies = [
        desired_state(node_config(rule(name, *ends, "allow", proto=proto), default="deny"))
        for name, ends, proto in (("a", ("web", "api"), "icmp"), ("b", ("*", "*"), "any"))
    ]
    node.configure(node_config(rule("a", "web", "api", "allow", proto="icmp")))
    stop = threading.Event()
    sent = 0

    def send() -> None:
        nonlocal sent
        while not stop.is_set():
            testrun.run(program, timestamp, repeat=5000)
            sent += 5000

    sender = threading.Thread(target=send)
    sender.start()
    epoch = node.datapath.epoch
    try:
        for i in range(100):
            assert node.datapath.apply_policy(policies[1 - i % 2])
    finally:
        stop.set()
        sender.join()
    assert node.datapath.epoch == epoch + 100
    assert sent > 5000
    counted = {key[2]: packets for key, (packets, _) in node.counted().items()}
    assert counted == {Verdict.ALLOWED: sent}


def test_thousands_of_entries_are_written_read_and_deleted(node: Node) -> None:
    ports = tuple(range(1, 20_000, 2))
    node.configure(node_config(rule("odd", "web", "api", "allow", proto="tcp", ports=ports)))
    assert sizes(node.datapath)["zt_policy"] == len(ports)
    node.configure(node_config())
    assert sizes(node.datapath)["zt_policy"] == 0


def test_a_map_without_room_is_an_error_that_names_it(node: Node) -> None:
    nets = node.datapath._maps["zt_nets"]
    many = {
        bytes(abi.NetKey(32 + 24, 4, (10, i >> 8, i & 255))): bytes(abi.Identity(2, 2))
        for i in range(nets.max_entries + 1)
    }
    with pytest.raises(ZtError, match="zt_nets is full"):
        nets.put(many)


def test_maps_of_other_sizes_than_we_think_are_refused(node: Node) -> None:
    maps = dict(node.datapath._maps)
    flows = maps["zt_flows"]
    assert flows.value_size == ctypes.sizeof(abi.Flow)
    maps["zt_flows"] = BpfMap("zt_flows", flows.fd, flows.key_size, flows.value_size + 8, 1)
    with pytest.raises(ZtError, match="zt_flows has keys and values of"):
        _require_sizes(maps)
