"""Tags and addresses go out in order, to one each, and come back late or never."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator import allocation, clock
from coordinator.api.context import Service
from coordinator.errors import Conflict
from coordinator.store.models import AddressRow, NodeRow
from tests.unit.coordinator.networks import key
from ztlab.model.identity import TAG_FIRST, TAG_MAX, client_id

ON_BOTH_STORES = True

NOW = clock.now()


def add_node(session: Session, number: int) -> str:
    node = NodeRow(
        id=f"node-{number}",
        name=f"n{number}",
        role="mesh",
        identity="web",
        public_key=key(number),
        client_id=client_id(key(number)),
        enrolled_at=NOW,
        wanted_epoch="",
        wanted_number=0,
        wanted_digest="",
    )
    session.add(node)
    session.flush()
    return node.id


def addresses(session: Session, node_id: str, **after: Any) -> tuple[str, ...]:
    return allocation.allocate_addresses(session, node_id, NOW + timedelta(**after))


def test_tags_begin_after_the_reserved_ones_and_are_never_reused(service: Service) -> None:
    with service.store.writing() as session:
        first, second = (allocation.allocate_tag(session, name, NOW) for name in ("a", "b"))
        assert (first, second) == (TAG_FIRST, TAG_FIRST + 1)
        allocation.retire_tag(session, second, NOW)
        assert allocation.allocate_tag(session, "b", NOW) == TAG_FIRST + 2


def test_when_the_tags_are_used_up_it_is_said(service: Service) -> None:
    from coordinator.store.models import TagRow

    with service.store.writing() as session:
        session.add(TagRow(tag=TAG_MAX, name="last", allocated_at=NOW))
        session.flush()
        with pytest.raises(Conflict, match="never reused"):
            allocation.allocate_tag(session, "one-more", NOW)


def test_a_node_gets_the_lowest_free_address_of_each_pool(service: Service) -> None:
    with service.store.writing() as session:
        assert addresses(session, add_node(session, 1)) == ("10.77.0.1", "fd77::1")
        assert addresses(session, add_node(session, 2)) == ("10.77.0.2", "fd77::2")


def test_network_and_broadcast_address_are_not_given(service: Service) -> None:
    with service.store.writing() as session:  # the pool is a /29
        given = [addresses(session, add_node(session, n))[0] for n in range(1, 7)]
        assert given == [f"10.77.0.{n}" for n in range(1, 7)]
        with pytest.raises(Conflict, match="no free address"):
            addresses(session, add_node(session, 8))


def test_an_address_rests_for_an_hour_after_its_node_left(service: Service) -> None:
    with service.store.writing() as session:
        first, second = add_node(session, 1), add_node(session, 2)
        addresses(session, first)
        allocation.release_addresses(session, first, NOW)
        assert addresses(session, second, minutes=59)[0] == "10.77.0.2"
        third = add_node(session, 3)
        assert addresses(session, third, minutes=60)[0] == "10.77.0.1"
        held = session.scalars(select(AddressRow.node_id).where(AddressRow.address == "10.77.0.1"))
        assert held.all() == [third]


@pytest.mark.parametrize(
    ("pool", "taken", "expected"),
    [
        ("10.0.0.0/8", [], "10.0.0.1"),
        ("10.0.0.0/8", ["10.0.0.1", "10.0.0.3"], "10.0.0.2"),
        ("fd77::/64", ["fd77::1", "fd77::2"], "fd77::3"),
        ("10.0.0.4/30", ["10.0.0.5"], "10.0.0.6"),
        ("fd77::/126", ["fd77::1", "fd77::2"], "fd77::3"),
    ],
)
def test_the_next_address_is_the_lowest_free_one(
    pool: str, taken: list[str], expected: str
) -> None:
    assert allocation.next_address(pool, taken) == expected
