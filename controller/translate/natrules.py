"""Rules of what is translated on its way out, as OVN's NAT rows can have them.

A row of the type snat has a network of sources and a set of destinations that see the source as it
is (exempted_ext_ips, ovn-nb(5)); the row with the longest prefix goes first. So sources are cut
into networks that no two rows share, and for each the rules are gone through once: what is left of
them is the one set, whatever the order and the overlaps of the rules were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    summarize_address_range,
)

from controller.ipam.intervals import Interval, Intervals
from dataplane.model.addr import IPNetwork
from dataplane.model.config import Outgoing, OutgoingRule

Kept = tuple[str, ...]
"""Destinations that see sources as they are, as an address set has them: networks, sorted."""


def alike(ways: Iterable[Outgoing]) -> dict[Kept, list[IPNetwork]]:
    """The networks that are translated, by whom they are not translated to; the fewest of each."""
    found: dict[Kept, list[IPNetwork]] = {}
    for way in ways:
        for network in way.networks:
            for kept, parts in _cut(network, way.rules):
                found.setdefault(kept, []).extend(parts)
    return {kept: collapsed(networks) for kept, networks in found.items()}


def _cut(
    network: IPNetwork, rules: tuple[OutgoingRule, ...]
) -> Iterator[tuple[Kept, Iterable[IPNetwork]]]:
    version = network.version
    everywhere = Intervals(((0, 2**network.max_prefixlen - 1),))
    left = Intervals((_ends(network),))
    mine = [
        (_members(rule.sources, version, left), _members(rule.destinations, version, everywhere),
         rule.translated)
        for rule in rules
    ]  # fmt: skip
    if all(not sources.size or translated for sources, _, translated in mine):
        yield (), (network,)
        return
    for part in _elements(left, [sources for sources, _, _ in mine]):
        there, kept = everywhere, Intervals()
        for sources, destinations, translated in mine:
            if part[0] in sources:
                if not translated:
                    kept |= there & destinations
                there -= destinations
        if kept != everywhere:
            yield tuple(map(str, _networks(kept.parts, version))), _networks((part,), version)


def _elements(whole: Intervals, sets: Iterable[Intervals]) -> Iterator[Interval]:
    """The largest intervals of the whole that each of the sets has all or nothing of."""
    cuts = {first for one in sets for first, _ in one.parts}
    cuts |= {last + 1 for one in sets for _, last in one.parts}
    for first, last in whole.parts:
        begins = sorted({first, *(cut for cut in cuts if first < cut <= last)})
        ends = [*(begin - 1 for begin in begins[1:]), last]
        yield from zip(begins, ends, strict=True)


def _members(networks: tuple[IPNetwork, ...], version: int, whole: Intervals) -> Intervals:
    if not networks:
        return whole
    return whole & Intervals.of(_ends(one) for one in networks if one.version == version)


def _ends(network: IPNetwork) -> Interval:
    return int(network.network_address), int(network.broadcast_address)


def _networks(parts: Iterable[Interval], version: int) -> list[IPNetwork]:
    found: list[IPNetwork] = []
    for first, last in parts:
        if version == 4:
            found += summarize_address_range(IPv4Address(first), IPv4Address(last))
        else:
            found += summarize_address_range(IPv6Address(first), IPv6Address(last))
    return found


def collapsed(networks: Iterable[IPNetwork]) -> list[IPNetwork]:
    """The fewest networks that have exactly the same addresses."""
    found = list(networks)
    return [
        *collapse_addresses(one for one in found if isinstance(one, IPv4Network)),
        *collapse_addresses(one for one in found if isinstance(one, IPv6Network)),
    ]
