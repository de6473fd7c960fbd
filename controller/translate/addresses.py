"""Addresses out of a range for names: what is held is kept, the rest is always the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv4Network


def allocate(
    network: IPv4Network,
    names: Collection[str],
    held: Mapping[str, IPv4Address],
    taken: Collection[IPv4Address] = (),
) -> dict[str, IPv4Address]:
    """An address of `network` for each name, as far as they reach.

    A name keeps what it holds if that is a host address of the network, not `taken`, and held by
    no name before it in order; then each other name gets the smallest free address. What a name
    holds that is not asked for is free only once it holds it no longer: new rows are made before
    old ones go.
    """
    given: dict[str, IPv4Address] = {}
    used = {*taken, *(address for name, address in held.items() if name not in names)}
    for name in sorted(names):
        address = held.get(name)
        if address is not None and address not in used and _is_host(network, address):
            given[name] = address
            used.add(address)
    free = (address for address in network.hosts() if address not in used)
    for name in sorted(set(names) - given.keys()):
        address = next(free, None)
        if address is not None:
            given[name] = address
    return given


def _is_host(network: IPv4Network, address: IPv4Address) -> bool:
    if address not in network:
        return False
    # RFC 3021: a /31 has no network or broadcast address; a /32 is one host.
    return network.prefixlen >= 31 or address not in {
        network.network_address,
        network.broadcast_address,
    }
