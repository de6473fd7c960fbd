"""A subnet and its pools as addresses see them: texts of objects to ranges. Pure.

Source of the texts: Kube-OVN's Subnet (cidrBlock, gateway, excludeIps) and IPPool (ips): comma
joined for two families, "a..b" for a range.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from controller.ipam.errors import RangeTextError
from controller.ipam.intervals import Intervals
from dataplane.model.addr import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Subnet:
    """One subnet.

    `networks`: none (MACs only), one, or one of each family. `gateways` are never given to
    anybody, `excluded` only to who asks for one of them.
    """

    name: str
    networks: tuple[IPNetwork, ...] = ()
    gateways: tuple[IPAddress, ...] = ()
    excluded: tuple[str, ...] = ()

    @property
    def versions(self) -> tuple[int, ...]:
        """The families it has."""
        return tuple(network.version for network in self.networks)

    def network(self, version: int) -> IPNetwork | None:
        """Its network of one family."""
        return next((n for n in self.networks if n.version == version), None)


@dataclass(frozen=True, slots=True)
class Pool:
    """A part of a subnet that only those who name it are given addresses from (IPPool)."""

    name: str
    subnet: str
    addresses: tuple[str, ...] = field(default=())


def networks_of(text: str, name: str) -> tuple[IPNetwork, ...]:
    """cidrBlock: "10.16.0.0/16", "fd00::/64", both with a comma, or nothing.

    Raises:
        RangeTextError: it is not a network, has host bits, or two of one family.
    """
    found: list[IPNetwork] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ip_network(word))
        except ValueError as error:
            msg = f"subnet {name}: cidrBlock {word!r} is no network ({error})"
            raise RangeTextError(msg, "write 10.16.0.0/16") from error
    if len({network.version for network in found}) != len(found):
        msg = f"subnet {name}: cidrBlock {text!r} has two networks of one family"
        raise RangeTextError(msg, "give one of each")
    return tuple(sorted(found, key=lambda network: network.version))


def range_of(text: str, what: str) -> tuple[int, int, int]:
    """The family, first and last of "a", "a..b" or the network that an address is in.

    Raises:
        RangeTextError: it is none of these, mixes families, or ends before it begins.
    """
    word = text.strip()
    try:
        if "/" in word:
            # Host bits are cut off, as of a subnet's cidrBlock.
            network = ip_network(word, strict=False)
            return network.version, int(network.network_address), int(network.broadcast_address)
        first_text, dots, last_text = word.partition("..")
        first = ip_address(first_text)
        last = ip_address(last_text) if dots else first
    except ValueError as error:
        msg = f"{what}: {word!r} is no address, range or network ({error})"
        raise RangeTextError(msg, "write 10.16.0.2..10.16.0.9") from error
    if first.version != last.version or int(first) > int(last):
        msg = f"{what}: {word!r} does not go from an address to a later one of its family"
        raise RangeTextError(msg, "turn it round")
    return first.version, int(first), int(last)


def intervals_of(texts: Iterable[str], version: int, what: str) -> Intervals:
    """Those of these ranges that are of one family."""
    parts = (range_of(text, what) for text in texts)
    return Intervals.of((first, last) for family, first, last in parts if family == version)


def hosts_of(network: IPNetwork) -> Intervals:
    """The addresses of a network that a host may have.

    Not the network's own and IPv4's broadcast (RFC 1122), not IPv6's first, which is every
    router's (RFC 4291, 2.6.1); both of a /31 or /127 (RFC 3021, RFC 6164), the one of a /32.
    """
    first, last = int(network.network_address), int(network.broadcast_address)
    if network.max_prefixlen - network.prefixlen <= 1:
        return Intervals.of([(first, last)])
    return Intervals.of([(first + 1, last - 1 if network.version == 4 else last)])


def given_of(subnet: Subnet, network: IPNetwork, pools: Sequence[Pool]) -> Intervals:
    """What a subnet gives by itself: hosts, without gateways, what is excluded, and its pools."""
    version, what = network.version, f"subnet {subnet.name}"
    gateways = Intervals.of((int(g), int(g)) for g in subnet.gateways if g.version == version)
    given = hosts_of(network) - gateways - intervals_of(subnet.excluded, version, what)
    for pool in pools:
        given -= intervals_of(pool.addresses, version, f"pool {pool.name}")
    return given


def pooled_of(subnet: Subnet, network: IPNetwork, pool: Pool) -> Intervals:
    """What a pool gives: its addresses that are the subnet's hosts and no gateway."""
    version = network.version
    gateways = Intervals.of((int(g), int(g)) for g in subnet.gateways if g.version == version)
    wanted = intervals_of(pool.addresses, version, f"pool {pool.name}")
    return (wanted & hosts_of(network)) - gateways


def address_of(version: int, number: int) -> IPAddress:
    """The address that an integer stands for."""
    return IPv4Address(number) if version == 4 else IPv6Address(number)


def outside(subnet: Subnet, pool: Pool) -> tuple[str, ...]:
    """Which of a pool's ranges have no address of its subnet.

    Raises:
        RangeTextError: a range cannot be read.
    """
    parts = {text: Pool(pool.name, pool.subnet, (text,)) for text in pool.addresses}
    return tuple(
        text
        for text, part in parts.items()
        if not any(pooled_of(subnet, network, part).parts for network in subnet.networks)
    )
