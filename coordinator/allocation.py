"""Tags and tunnel addresses: handed out in order, never to two, and not again too soon."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Network, ip_network
from socket import AF_INET, AF_INET6, inet_pton

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from coordinator import clock
from coordinator.errors import Conflict
from coordinator.store.models import AddressRow, NetworkRow, NodeRow, TagRow
from ztlab.errors import SchemaError
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


def assign_addresses(session: Session, node_id: str, wanted: Sequence[str], now: datetime) -> None:
    """Give a node the addresses WANTED, one of each pool as /32 or /128; what it had rests.

    SchemaError names each that is none, lies in no pool, is somebody's or rests still.
    """
    pools = session.scalars(select(NetworkRow)).one().pools
    held = select(AddressRow).where(AddressRow.node_id == node_id, AddressRow.released_at.is_(None))
    present = {row.address: row for row in session.scalars(held)}
    faults: list[str] = []
    chosen: dict[int, str] = {}
    for i, text in enumerate(wanted):
        try:
            pool, address = _place(text, pools)
            _check_free(session, address, node_id, now)
        except ValueError as error:
            faults.append(f"addresses[{i}]: {error}")
            continue
        if chosen.setdefault(pool, address) != address:
            faults.append(
                f"addresses[{i}]: want one address of each pool, got two of {pools[pool]}"
            )
    missing = [pool for i, pool in enumerate(pools) if i not in chosen]
    if missing and not faults:
        faults.append(f"addresses: want one of each pool, got none of {', '.join(missing)}")
    if faults:
        raise SchemaError(faults)
    for address, row in present.items():
        if address not in chosen.values():
            row.released_at = now
    for pool, address in chosen.items():
        if address not in present:
            row = session.get(AddressRow, address) or AddressRow(address=address, pool=pool)
            row.node_id, row.released_at = node_id, None
            session.add(row)


def _place(text: str, pools: Sequence[str]) -> tuple[int, str]:
    """The pool that a host prefix lies in, and its address; ValueError says why it may not be."""
    network = ip_network(text)
    if str(network) != text or network.prefixlen != network.max_prefixlen:
        raise ValueError(f"want an address as /32 or /128, in canonical form, got {text!r}")
    address = network.network_address
    for i, pool in enumerate(map(ip_network, pools)):
        if address in pool:
            is_last = address == pool.broadcast_address and isinstance(pool, IPv4Network)
            if address == pool.network_address or is_last:
                raise ValueError(f"{address} is the pool {pool}'s own")
            return i, str(address)
    raise ValueError(f"{address} lies outside the network's range: {', '.join(pools)}")


def _check_free(session: Session, address: str, node_id: str, now: datetime) -> None:
    """ValueError if ADDRESS is another node's, or was so short ago that it rests."""
    row = session.get(AddressRow, address)
    if row is None or row.node_id == node_id:
        return
    if row.released_at is None:
        name = session.get_one(NodeRow, row.node_id).name
        raise ValueError(f"{address} is node {name}'s")
    if row.released_at > now - ADDRESS_REST:
        raise ValueError(f"{address} rests until {clock.rfc3339(row.released_at + ADDRESS_REST)}")


def next_address(pool: str, taken: Iterable[str]) -> str:
    """The lowest address of POOL that is not TAKEN; Conflict when there is none.

    The first is never given (the network's, in IPv6 the routers' anycast), nor IPv4's last
    (broadcast).
    """
    network = ip_network(pool)
    # Every enrolment looks at all of them: the C library reads one in a tenth of ipaddress's time.
    family = AF_INET if isinstance(network, IPv4Network) else AF_INET6
    used = {int.from_bytes(inet_pton(family, address), "big") for address in taken}
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
