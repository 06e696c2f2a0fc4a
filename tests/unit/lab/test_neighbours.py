"""Labs with more neighbours than Linux remembers are told where everybody is."""

from __future__ import annotations

from ztlab.lab.addressing import Cable
from ztlab.lab.neighbours import Neighbour, mac, told


def cables(count: int, bridge: str = "underlay") -> list[Cable]:
    return [
        Cable(
            node=f"n{i}",
            bridge=bridge,
            interface="eth0",
            addresses=(f"198.18.0.{i}/16", f"fd18::{i:x}/64"),
        )
        for i in range(1, count + 1)
    ]


def test_a_few_nodes_find_each_other_by_themselves() -> None:
    assert told(cables(16), room=1024) == {}


def test_of_many_each_is_told_of_every_other_in_both_families() -> None:
    found = told(cables(17), room=1024)
    assert len(found) == 17
    assert {len(neighbours) for neighbours in found.values()} == {32}
    assert found["n2"][:2] == [
        Neighbour(interface="eth0", address="198.18.0.1", mac=mac(0)),
        Neighbour(interface="eth0", address="fd18::1", mac=mac(0)),
    ]


def test_nobody_is_told_of_who_is_on_another_link() -> None:
    lan = Cable(node="far", bridge="lan0", interface="lan0", addresses=("10.0.0.1/24",))
    found = told([*cables(17), lan], room=1024)
    assert found["far"] == []
    assert "10.0.0.1" not in {one.address for one in found["n1"]}


def test_hardware_addresses_are_unicast_locally_administered_and_each_anothers() -> None:
    assert mac(0) == "02:7a:74:00:00:00" and mac(0x1234) == "02:7a:74:00:12:34"
    assert int(mac(7)[:2], 16) & 3 == 2
