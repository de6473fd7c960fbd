"""Addresses out of a range for names: what is held is kept, the rest is always the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dataplane.model.addr import IPAddress, IPNetwork


def allocate(
    network: IPNetwork,
    names: Collection[str],
    held: Mapping[str, IPAddress],
    taken: Collection[IPAddress] = (),
) -> dict[str, IPAddress]:
    """An address of `network` for each name, as far as they reach.

    A name keeps what it holds if that is a host address of the network, not `taken`, and held by
    no name before it in order; then each other name gets the smallest free address. What a name
    holds that is not asked for is free only once it holds it no longer: new rows are made before
    old ones go.
    """
    given: dict[str, IPAddress] = {}
    used = {*taken, *(address for name, address in held.items() if name not in names)}
    for name in sorted(names):
        address = held.get(name)
        if address is not None and address not in used and _is_host(network, address):
            given[name] = address
            used.add(address)
    free = (address for address in network.hosts() if address not in used)
    for name in sorted(set(names) - given.keys()):
        following = next(free, None)
        if following is not None:
            given[name] = following
    return given


def _is_host(network: IPNetwork, address: IPAddress) -> bool:
    if address.version != network.version or address not in network:
        return False
    # RFC 3021, RFC 6164: a /31 or /127 has two hosts; a /32 or /128 is one. IPv6 knows no
    # broadcast, but its first address is every router's (RFC 4291, 2.6.1).
    if network.max_prefixlen - network.prefixlen <= 1:
        return True
    last = network.broadcast_address if network.version == 4 else None
    return address not in {network.network_address, last}


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Whether two networks share an address."""
    return one.network_address in other or other.network_address in one


def within(inner: IPNetwork, outer: IPNetwork) -> bool:
    """Whether every address of one network is of the other."""
    return inner.network_address in outer and inner.prefixlen >= outer.prefixlen
