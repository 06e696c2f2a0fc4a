"""Tags and tunnel addresses: handed out in order, never to two, and not again too soon."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from ipaddress import IPv4Network, ip_address, ip_network

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from coordinator.errors import Conflict
from coordinator.store.models import AddressRow, NetworkRow, TagRow
from ztlab.model.identity import TAG_FIRST, TAG_MAX

ADDRESS_REST = timedelta(hours=1)  # peers and logs may still mean the former holder


def allocate_tag(session: Session, name: str, now: datetime) -> int:
    """The smallest tag that nobody ever had, given to NAME. Conflict when there is none left."""
    # Retired tags stay in the table, so what is used has no holes and its end is the smallest.
    highest = session.scalar(select(func.max(TagRow.tag)))
    tag = TAG_FIRST if highest is None else highest + 1
    if tag > TAG_MAX:
        raise Conflict(f"all tags up to {TAG_MAX} were handed out; a tag is never reused")
    session.add(TagRow(tag=tag, name=name, allocated_at=now))
    session.flush()
    return tag


def retire_tag(session: Session, tag: int, now: datetime) -> None:
    """TAG names nobody any more, and nobody else ever."""
    session.execute(update(TagRow).where(TagRow.tag == tag).values(retired_at=now))


def allocate_addresses(session: Session, node_id: str, now: datetime) -> tuple[str, ...]:
    """One address from each pool for a new node. Conflict when a pool has none left."""
    rested = AddressRow.released_at <= now - ADDRESS_REST
    for row in session.scalars(select(AddressRow).where(rested)).all():
        session.delete(row)
    session.flush()  # one of them may be given again at once
    network = session.scalars(select(NetworkRow)).one()
    allocated = []
    for i, pool in enumerate(network.pools):
        taken = session.scalars(select(AddressRow.address).where(AddressRow.pool == i))
        address = next_address(pool, taken)
        session.add(AddressRow(address=address, pool=i, node_id=node_id))
        allocated.append(address)
    return tuple(allocated)


def next_address(pool: str, taken: Iterable[str]) -> str:
    """The lowest address of POOL that is not TAKEN; Conflict when there is none.

    The first is never given (the network's, in IPv6 the routers' anycast), nor IPv4's last
    (broadcast).
    """
    network = ip_network(pool)
    used = {int(ip_address(address)) for address in taken}
    first = int(network.network_address) + 1
    last = int(network.broadcast_address) - isinstance(network, IPv4Network)
    # Among the first len(used) + 1 candidates one is free, so a huge pool costs nothing.
    for candidate in range(first, min(last, first + len(used)) + 1):
        if candidate not in used:
            return str(type(network.network_address)(candidate))
    raise Conflict(f"the pool {pool} has no free address left")


def release_addresses(session: Session, node_id: str, now: datetime) -> None:
    """A node left: its addresses rest, then they are free."""
    held = (AddressRow.node_id == node_id) & AddressRow.released_at.is_(None)
    for row in session.scalars(select(AddressRow).where(held)).all():
        row.released_at = now
