"""Addresses given out of ranges as a pure function: the same for the same claims, whoever asks.

Nothing is remembered: what was given before is what objects say of themselves (`held`). So it is
kept as long as it may be, of two who hold one address the older keeps it, and a new claim's choice
depends on its name, so that another new claim that is heard of first seldom changes it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from controller.ipam.intervals import Interval, Intervals
from controller.translate.vips import Fault
from dataplane.model.addr import IPAddress

_VERSIONS = (4, 6)
_TYPES: Mapping[int, type[IPv4Address | IPv6Address]] = {4: IPv4Address, 6: IPv6Address}


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody who wants one address of each of some families.

    Attributes:
        who: unique among the claims.
        age: what claims are ordered by: the older has the better right.
        families: 4, 6 or both.
        wished: these, and no others of their families.
        held: what it was given before, as far as is known.
    """

    who: Hashable
    age: tuple[str, ...]
    families: tuple[int, ...] = (4,)
    wished: tuple[IPAddress, ...] = ()
    held: tuple[IPAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """What a claim got, by family, and what it did not get."""

    addresses: Mapping[int, IPAddress] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


Ranges = Mapping[int, Intervals]
"""By family."""


def ranges_of(parts: Iterable[str]) -> tuple[Ranges, tuple[tuple[str, Fault], ...]]:
    """Ranges as texts: networks, addresses, `a-b` and `a..b`; and what is wrong with some."""
    found: dict[int, list[Interval]] = {version: [] for version in _VERSIONS}
    faults = []
    for text in parts:
        try:
            version, interval = _interval(text.strip())
        except ValueError as error:
            step = "write a network, an address, or 192.0.2.10-192.0.2.20"
            faults.append((text, Fault(str(error), step)))
            continue
        found[version].append(interval)
    return {version: Intervals.of(found[version]) for version in _VERSIONS}, tuple(faults)


def _interval(text: str) -> tuple[int, Interval]:
    if "/" in text:
        network = ip_network(text)
        return network.version, (int(network[0]), int(network[-1]))
    low, _, high = text.partition(".." if ".." in text else "-")
    first = ip_address(low.strip())
    last = ip_address(high.strip()) if high else first
    if first.version != last.version or int(first) > int(last):
        msg = f"{text!r} is no range: its end is before its beginning"
        raise ValueError(msg)
    return first.version, (int(first), int(last))


def give(
    ranges: Ranges, claims: Sequence[Claim], taken: Iterable[IPAddress] = ()
) -> dict[Hashable, Given]:
    """What each claim gets. `taken` are other people's, whatever the claims say."""
    others = frozenset(taken)
    in_order = sorted(claims, key=lambda claim: (claim.age, str(claim.who)))
    got: dict[Hashable, dict[int, IPAddress]] = {claim.who: {} for claim in in_order}
    faults: dict[Hashable, list[Fault]] = {claim.who: [] for claim in in_order}
    holders: dict[IPAddress, Hashable] = {}

    def settle(claim: Claim, address: IPAddress) -> None:
        got[claim.who][address.version] = address
        holders[address] = claim.who

    def wish(claim: Claim, *, held: bool) -> None:
        for address in claim.wished:
            if (address in claim.held) is not held:
                continue
            fault = _refusal(address, claim, ranges, others, holders)
            if address.version in got[claim.who]:
                fault = Fault(f"{address} is the second of its family", "name one of each")
            if fault is None:
                settle(claim, address)
            else:
                faults[claim.who].append(fault)

    # What somebody has, by a wish or by habit, is nobody's who wishes for it later: behind it may
    # be something that is used. Of those who come at once the older goes before the younger.
    for claim in in_order:
        wish(claim, held=True)
    for claim in in_order:
        for address in claim.held:
            if address.version in _wanted(claim, got[claim.who]) and not _refusal(
                address, claim, ranges, others, holders
            ):
                settle(claim, address)
    for claim in in_order:
        wish(claim, held=False)
    for version in _VERSIONS:
        asking = [one for one in in_order if version in _wanted(one, got[one.who])]
        if not asking:
            continue
        mine = ranges.get(version, Intervals())
        used = {int(a) for a in (*holders, *others) if a.version == version}
        for claim in asking:
            number = _choose(mine, used, claim.who)
            if number is None:
                why = "no IPv{} address is left" if mine.parts else "there are no IPv{} addresses"
                faults[claim.who].append(Fault(why.format(version), "give it more addresses"))
                continue
            settle(claim, _TYPES[version](number))
            used.add(number)
    return {who: Given(found, tuple(faults[who])) for who, found in got.items()}


def _wanted(claim: Claim, got: Mapping[int, IPAddress]) -> set[int]:
    """Families that it wants an address of, has none of, and has not named one of."""
    return set(claim.families) - got.keys() - {address.version for address in claim.wished}


def _refusal(
    address: IPAddress,
    claim: Claim,
    ranges: Ranges,
    others: frozenset[IPAddress],
    holders: Mapping[IPAddress, Hashable],
) -> Fault | None:
    if int(address) not in ranges.get(address.version, Intervals()):
        return Fault(f"{address} is none of the addresses to be had", "choose one of them")
    if address in others:
        return Fault(f"{address} is taken by a workload", "choose another")
    holder = holders.get(address)
    if holder is not None and holder != claim.who:
        return Fault(f"{address} is {_name(holder)}'s already", "choose another")
    return None


def _name(who: Hashable) -> str:
    return " ".join(map(str, who)) if isinstance(who, tuple) else str(who)


def _choose(ranges: Intervals, used: set[int], who: Hashable) -> int | None:
    """The free address that is next to a place which the name says.

    In the upper half: workloads' addresses are given from below, and may be given meanwhile.
    """
    if not ranges.parts:
        return None
    first, last = ranges.parts[0][0], ranges.parts[-1][1]
    middle = first + (last - first) // 2
    seed = int.from_bytes(blake2b(_name(who).encode(), digest_size=8).digest(), "big")
    for begin in (middle + seed % (last - middle + 1), first):
        found = ranges.following(begin)
        while found is not None and found in used:
            found = ranges.following(found + 1)
        if found is not None:
            return found
    return None
