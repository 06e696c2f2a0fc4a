"""On a real interface: attached, fed with real packets, repaired, and the belt behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyroute2 import IPRoute

from agent.datapath import attach, belt
from agent.datapath.compile import desired_state
from agent.datapath.datapath import Datapath
from agent.datapath.limits import Limits
from agent.datapath.maps import program_id
from agent.datapath.marks import MarkLayout
from tests.kernel import packets as p
from tests.kernel.conftest import MARKS
from tests.kernel.device import TUN, Lan, Tun, fresh_network_namespace, sh, sysctl, until
from tests.kernel.emptied import empty, zero_counters
from tests.unit.agent.datapath.configs import TAGS, node_config, rule
from ztlab.errors import NotFound, ZtError
from ztlab.model.verdict import AuthzMode, Hook, Verdict

pytestmark = [pytest.mark.root, pytest.mark.bpf]

BOTH = (Hook.INGRESS, Hook.EGRESS)
PING = node_config(
    rule("ping", "web", "api", "allow", proto="icmp"),
    rule("lan-out", "lan", "web", "allow"),
    rule("peers", "web", "guest", "allow"),
    role="gateway",
)


@pytest.fixture(scope="module")
def l3(loader: str) -> Iterator[Datapath]:
    """The programs as production loads them: the IP header is at offset 0."""
    datapath = Datapath.load(marks=MARKS, limits=Limits(flows=1024), loader=loader)
    yield datapath
    datapath.close()


@pytest.fixture
def tun(l3: Datapath) -> Iterator[Tun]:
    """`wg0` in a fresh namespace with this node's addresses, programs attached, enforcing PING."""
    with fresh_network_namespace():
        sysctl("net.ipv6.conf.default.disable_ipv6", "1")  # no router solicitations of its own
        for which in ("all", "default"):
            sysctl(f"net.ipv4.conf.{which}.rp_filter", "0")
            sysctl(f"net.ipv4.conf.{which}.send_redirects", "0")
        sysctl("net.ipv4.ip_forward", "1")
        device = Tun(TUN, f"{p.API}/24")
        state = desired_state(PING)
        l3.set_authz_mode(AuthzMode.ENFORCE)
        for phase in (l3.remove_identities, l3.apply_policy, l3.put_identities):
            phase(state)
        l3.attach(TUN)
        yield device
        l3.detach()
        device.close()
    empty(l3, "flows")
    zero_counters(l3)


@pytest.fixture
def lan(tun: Tun) -> Iterator[Lan]:
    device = Lan("192.168.0.1/16")
    yield device
    device.close()


def counted(datapath: Datapath) -> dict[tuple[int, Hook, Verdict], tuple[int, int]]:
    return {(c.tag, c.hook, c.verdict): (c.packets, c.bytes) for c in datapath.counters()}


def test_a_real_echo_is_answered_and_counted(l3: Datapath, tun: Tun) -> None:
    assert l3.is_attached() == {Hook.INGRESS: True, Hook.EGRESS: True}
    request = p.echo_request(p.WEB, p.API, id=5)
    tun.send(request)
    answer = p.IP(tun.receive())
    assert (answer.src, answer.dst, answer[p.ICMP].type) == (p.API, p.WEB, 0)
    assert counted(l3) == {
        (TAGS["web"], Hook.INGRESS, Verdict.ALLOWED): (1, len(request)),
        (TAGS["web"], Hook.EGRESS, Verdict.ESTABLISHED): (1, len(request)),
    }


def test_a_denied_echo_is_dropped_before_anything_answers(l3: Datapath, tun: Tun) -> None:
    tun.send(p.echo_request(p.GUEST, p.API))
    key = (TAGS["guest"], Hook.INGRESS, Verdict.NO_RULE)
    until(lambda: counted(l3).get(key) == (1, 28), "the drop to be counted")
    tun.send(p.echo_request(p.WEB, p.API))  # its answer comes after any answer to the other
    assert p.IP(tun.receive()).dst == p.WEB
    assert tun.waiting() is None


def test_events_come_with_the_packet_that_wakes_the_reader(l3: Datapath, tun: Tun) -> None:
    l3.set_logging(True)
    tun.send(p.echo_request(p.GUEST, p.API))
    (event,) = l3.read_events(5000)
    assert event.verdict is Verdict.NO_RULE and str(event.source) == p.GUEST
    assert l3.read_events(0) == []
    l3.set_logging(False)


def test_a_packet_between_two_peers_is_judged_once(l3: Datapath, tun: Tun) -> None:
    packet = p.udp(p.WEB, p.GUEST, 1, 2)
    tun.send(packet)
    assert p.IP(tun.receive()).dst == p.GUEST
    assert counted(l3) == {
        (TAGS["web"], Hook.INGRESS, Verdict.ALLOWED): (1, len(packet)),
        (TAGS["guest"], Hook.EGRESS, Verdict.OBSERVED): (1, len(packet)),
    }


def test_a_host_on_the_lan_is_its_resource_and_never_a_peer(
    l3: Datapath, tun: Tun, lan: Lan
) -> None:
    for source in (p.GUEST, p.WEB):
        lan.send(p.udp(source, p.WEB, 1, 2))
    honest = p.udp(p.LAN_HOST, p.WEB, 1, 2)
    lan.send(honest)
    assert p.IP(tun.receive()).src == p.LAN_HOST
    assert tun.waiting() is None
    assert counted(l3) == {
        (TAGS["guest"], Hook.EGRESS, Verdict.SPOOFED_SOURCE): (1, 28),
        (TAGS["web"], Hook.EGRESS, Verdict.SPOOFED_SOURCE): (1, 28),
        (TAGS["web"], Hook.EGRESS, Verdict.ALLOWED): (1, len(honest)),
    }


def test_what_somebody_takes_off_is_put_back(l3: Datapath, tun: Tun) -> None:
    sh(f"tc filter del dev {TUN} egress")
    assert l3.is_attached() == {Hook.INGRESS: True, Hook.EGRESS: False}
    assert l3.repair() == (Hook.EGRESS,)
    sh(f"tc qdisc del dev {TUN} clsact")
    assert not any(l3.is_attached().values())
    assert l3.repair() == BOTH and l3.repair() == ()
    assert all(l3.is_attached().values())


def test_an_interface_made_anew_has_nothing_attached(l3: Datapath, tun: Tun) -> None:
    sh(f"ip link set {TUN} down")
    sh(f"ip link set {TUN} name old0")
    again = Tun(TUN)
    assert not any(l3.is_attached().values())
    assert l3.repair() == BOTH
    again.close()
    assert not any(l3.is_attached().values())
    l3.detach()  # nothing to take off, nothing to complain of


def test_filters_of_others_stay(l3: Datapath, tun: Tun) -> None:
    sh(f"tc filter add dev {TUN} ingress prio 50 protocol all u32 match u32 0 0 flowid 1:1")
    l3.attach(TUN)
    l3.detach()
    shown = sh(f"tc filter show dev {TUN} ingress")
    assert "u32" in shown and "zt_ingress" not in shown
    assert "zt_egress" not in sh(f"tc filter show dev {TUN} egress")


def test_detached_from_an_interface_without_others_nothing_is_left(l3: Datapath, tun: Tun) -> None:
    assert "zt_ingress" in sh(f"tc filter show dev {TUN} ingress")
    l3.detach()
    assert "clsact" not in sh(f"tc qdisc show dev {TUN}")
    assert not any(l3.is_attached().values())


def test_a_filter_of_somebody_else_in_our_place_is_not_replaced(l3: Datapath, tun: Tun) -> None:
    l3.detach()
    sh(f"tc qdisc add dev {TUN} clsact")
    with IPRoute() as ip:
        index = ip.link_lookup(ifname=TUN)[0]
        ip.tc(
            "add-filter",
            "bpf",
            index,
            handle=0x7A74,
            prio=1,
            fd=l3.programs[Hook.INGRESS],
            name="theirs",
            parent=0xFFFFFFF2,
            direct_action=True,
        )
    with pytest.raises(ZtError, match="another filter has handle"):
        l3.attach(TUN)
    assert "theirs" in sh(f"tc filter show dev {TUN} ingress")


def test_an_interface_that_is_not_there_is_named(l3: Datapath, tun: Tun) -> None:
    with pytest.raises(NotFound, match="'nope0'"):
        attach.attach("nope0", l3.programs)


def test_the_filters_name_carries_the_programs_number(l3: Datapath, tun: Tun) -> None:
    shown = sh(f"tc filter show dev {TUN} ingress")
    number = program_id(l3.programs[Hook.INGRESS])
    assert f"zt_ingress:{number}" in shown and f"id {number} " in shown


def test_the_belt_holds_when_the_program_is_gone(l3: Datapath, tun: Tun) -> None:
    belt.install(TUN, MARKS)
    assert belt.is_installed(TUN, MARKS)
    assert not belt.is_installed(TUN, MarkLayout.from_mask(0x7F001000))
    tun.send(p.echo_request(p.WEB, p.API))
    assert p.IP(tun.receive()).dst == p.WEB  # judged, so the belt lets it pass
    sh(f"tc qdisc del dev {TUN} clsact")
    tun.send(p.echo_request(p.GUEST, p.API))
    until(lambda: belt.dropped_packets(TUN) == 1, "the belt to count a packet")
    belt.remove(TUN)
    assert not belt.is_installed(TUN, MARKS)
    tun.send(p.echo_request(p.WEB, p.API))  # control: without belt and program it is open
    assert p.IP(tun.receive()).dst == p.WEB
    assert tun.waiting() is None


def test_the_belt_is_made_and_removed_any_number_of_times(l3: Datapath, tun: Tun) -> None:
    for _ in range(2):
        belt.install(TUN, MARKS)
    assert sh("nft list table inet zt_wg0").count("drop") == 1
    for _ in range(2):
        belt.remove(TUN)
    assert sh("nft list tables") == ""


@pytest.mark.parametrize(
    "damage", ["flush chain inet zt_wg0 prerouting", "delete table inet zt_wg0"]
)
def test_a_damaged_belt_is_not_taken_for_one(l3: Datapath, tun: Tun, damage: str) -> None:
    belt.install(TUN, MARKS)
    sh(f"nft {damage}")
    assert not belt.is_installed(TUN, MARKS)


def test_in_observe_every_packet_carries_the_judged_bit(l3: Datapath, tun: Tun) -> None:
    belt.install(TUN, MARKS)
    l3.set_authz_mode(AuthzMode.OBSERVE)
    tun.send(p.echo_request(p.STRANGER, p.API))
    assert p.IP(tun.receive()).dst == p.STRANGER
    assert belt.dropped_packets(TUN) == 0


def test_a_belt_for_a_name_nft_would_misread_is_refused() -> None:
    with pytest.raises(ZtError, match="no belt can be named"):
        belt.install('wg0" drop', MARKS)
