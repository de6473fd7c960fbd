"""Which networks subnets have in force: what is written, unless that cannot be. Pure.

A change that would cut off whoever is there is refused: what was in force stays so, and the
subnet's status says why. What was in force is read from `status.accepted`, so that a controller
that starts anew decides the same.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address, ip_network

from controller.ipam.errors import AddressError
from controller.ipam.intervals import Intervals
from controller.ipam.subnet import Subnet as Space
from controller.ipam.subnet import hosts_of, intervals_of, networks_of
from controller.kinds.subnet import Subnet, is_logical
from controller.network.booknodes import place_of
from controller.network.view import Kind
from controller.translate.ovn import Problem
from dataplane.model.addr import IPAddress, IPNetwork, Mac


@dataclass(frozen=True, slots=True)
class Net:
    """A subnet's network as it is in force.

    Attributes:
        usable: something is in force; otherwise no switch is made.
        routed: the VPC's router has a port on it.
        gateways: one of each family.
        refused: why what is written is not in force.
    """

    name: str
    vpc: str
    networks: tuple[IPNetwork, ...] = ()
    gateways: tuple[IPAddress, ...] = ()
    excluded: tuple[str, ...] = ()
    routed: bool = True
    usable: bool = True
    refused: tuple[Problem, ...] = ()

    @property
    def space(self) -> Space:
        """For the addresses' side."""
        return Space(self.name, self.networks, self.gateways, self.excluded)

    @property
    def cidr(self) -> str:
        """As cidrBlock."""
        return ",".join(map(str, self.networks))

    @property
    def gateway(self) -> str:
        """As gateway: with a comma for both families."""
        return ",".join(map(str, self.gateways))

    def gateway_networks(self) -> tuple[str, ...]:
        """Each gateway with its network's length."""
        lengths = {network.version: network.prefixlen for network in self.networks}
        return tuple(f"{gateway}/{lengths[gateway.version]}" for gateway in self.gateways)


@dataclass(frozen=True, slots=True)
class Usage:
    """Addresses of a subnet or a pool by family: taken, and left."""

    using: Mapping[int, int] = field(default_factory=dict)
    available: Mapping[int, int] = field(default_factory=dict)


NETS: Kind[Net] = Kind("nets", {"vpc": lambda _, net: (net.vpc,) if net.usable else ()})
"""Keys are subnets' names; there is one for every Subnet."""

USAGE: Kind[Usage] = Kind("usage")
"""Keys are (subnet, pool), the pool empty for the subnet itself."""

REFUSALS: Kind[tuple[Problem, ...]] = Kind("refusals")
"""Why something got no address: keys are (resource, namespace, name)."""


def router_mac(port: str) -> Mac:
    """The MAC of a router's port: by its name, so that it is the same after every start."""
    octets = bytearray(hashlib.blake2b(port.encode(), digest_size=6).digest())
    octets[0] = octets[0] & 0xFC | 0x02
    return Mac(octets.hex(":"))


def is_routed(subnet: Subnet) -> bool:
    """Whether the VPC's router is its gateway; an underlay's is a router of the wire."""
    return is_logical(subnet.provider) and (not subnet.vlan or subnet.logical_gateway)


def written(subnet: Subnet, default_vpc: str) -> Net:
    """The network that a subnet asks for; not usable: it cannot be, by itself."""
    if not subnet.cidr and not subnet.vlan:
        cause, step = "it has no cidrBlock", "write one; only a subnet with a vlan may be without"
        return _unusable(subnet.name, subnet.vpc or default_vpc, cause, step)
    vpc = subnet.vpc or default_vpc
    routed = is_routed(subnet)
    return _net(subnet.name, vpc, subnet.cidr, subnet.gateway, subnet.excluded, routed)


def asked_by(subnet: Subnet, default_vpc: str) -> Net:
    """The same; a defect of ours costs one subnet what it asks for, and nobody his network."""
    try:
        return written(subnet, default_vpc)
    except Exception as error:  # noqa: BLE001  # any defect of ours
        cause = f"what it asks for is not understood: {error!r} at {place_of(error)}"
        vpc = subnet.vpc or default_vpc
        return _unusable(subnet.name, vpc, cause, "report this as a defect")


def accepted(subnet: Subnet) -> Net | None:
    """What its status says was in force; None: it says nothing that can be read."""
    was = subnet.accepted
    if was is None:
        return None
    routed = is_routed(subnet)
    # What cannot be read of what is written now is no reason against what was in force, and what
    # another network excludes tells nothing of this one.
    asked, mine = asked_by(subnet, was.vpc), subnet.excluded
    if was.excluded is not None and not (asked.usable and asked.cidr == was.cidr):
        mine = was.excluded
    for excluded in (mine, was.excluded or (), ()):
        net = _net(subnet.name, was.vpc, was.cidr, was.gateway, excluded, routed)
        if net.usable:
            return net
    return None


def _unusable(name: str, vpc: str, cause: str, next_step: str) -> Net:
    problem = Problem(f"Subnet {name}", cause, next_step)
    return Net(name, vpc, usable=False, refused=(problem,))


@lru_cache(maxsize=8192)
def _net(
    name: str, vpc: str, cidr: str, gateway: str, excluded: tuple[str, ...], routed: bool
) -> Net:
    """What these texts make; remembered, since every change of a subnet asks it of all."""

    def refuse(cause: str, next_step: str) -> Net:
        return _unusable(name, vpc, cause, next_step)

    try:
        networks = networks_of(_without_host_bits(cidr), name)
        for version in (4, 6):
            intervals_of(excluded, version, f"subnet {name}: excludeIps")
    except AddressError as error:
        return refuse(error.cause, error.next_step)
    given: dict[int, IPAddress] = {}
    for word in filter(None, (part.strip() for part in gateway.split(","))):
        try:
            address = ip_address(word)
        except ValueError:
            return refuse(f"the gateway {word!r} is no address", "write one of the cidrBlock")
        network = next((one for one in networks if address in one), None)
        if network is None:
            cause = f"the gateway {address} is not in the cidrBlock {cidr or '(none)'}"
            return refuse(cause, "choose one of it, or leave the gateway out")
        if int(address) not in hosts_of(network):
            cause = f"the gateway {address} is the address of {network} itself or its broadcast"
            return refuse(cause, "choose another one of it")
        if address.version in given:
            return refuse(f"the gateway {gateway!r} has two of one family", "give one of each")
        given[address.version] = address
    for network in networks:
        if network.version not in given:
            given[network.version] = _first(hosts_of(network), network)
    gateways = tuple(given[version] for version in sorted(given))
    return Net(name, vpc, networks, gateways, excluded, routed)


def _without_host_bits(cidr: str) -> str:
    words = []
    for word in cidr.split(","):
        try:
            words.append(str(ip_network(word.strip(), strict=False)))
        except ValueError:  # which is said with its cause by who reads it next
            words.append(word)
    return ",".join(words)


def _first(hosts: Intervals, network: IPNetwork) -> IPAddress:
    number = hosts.parts[0][0]
    return ip_address(network.network_address + (number - int(network.network_address)))


def place(
    subnets: Mapping[str, Subnet],
    in_force: Mapping[str, Net],
    default_vpc: str,
    objection: Callable[[Net, Net], Problem | None] = lambda _new, _held: None,
) -> dict[str, Net]:
    """What each subnet has: of two of one VPC that share an address, the first in place keeps.

    First in place is what is in force, then the older object. A subnet that cannot have what it
    asks for keeps what it has, if it has anything. Placing what was placed changes nothing.

    Args:
        subnets: all of them, by name.
        in_force: what they have.
        default_vpc: of those that name none.
        objection: why a network cannot take the place of one that is in force.
    """
    placed: dict[str, Net] = {}
    taken = _Taken()
    order = sorted(subnets.values(), key=lambda one: (one.created, one.name))
    for subnet in order:
        was = in_force.get(subnet.name)
        if was is None or not was.usable:
            continue
        # How it is routed is always as written now, and so are excluded addresses, of this network:
        # what one excludes that may be refused says nothing of it.
        fresh = asked_by(subnet, default_vpc)
        same = fresh.usable and fresh.networks == was.networks
        excluded = fresh.excluded if same else was.excluded
        net = Net(was.name, was.vpc, was.networks, was.gateways, excluded, is_routed(subnet))
        if not taken.clash(net):
            placed[subnet.name] = net
            taken.add(net)
    held = dict(placed)
    while order:
        # Who moves away may make room for somebody who was asked before him.
        left: list[Subnet] = []
        for subnet in order:
            asked, mine = asked_by(subnet, default_vpc), held.get(subnet.name)
            if mine is not None:
                taken.remove(mine)
            refused = _refused(asked, mine, taken, objection)
            if refused:
                base = mine or Net(subnet.name, asked.vpc, usable=False)
                placed[subnet.name] = refuse(base, refused)
                taken.add(base)
                left.append(subnet)
            else:
                placed[subnet.name] = asked
                taken.add(asked)
        if len(left) == len(order):
            break
        order = left
    return placed


def _refused(
    asked: Net,
    held: Net | None,
    taken: _Taken,
    objection: Callable[[Net, Net], Problem | None],
) -> tuple[Problem, ...]:
    if not asked.usable:
        return asked.refused
    if clash := taken.clash(asked):
        cause, step = f"{asked.cidr} overlaps {clash}", "choose another cidrBlock"
        return (Problem(f"Subnet {asked.name}", cause, step),)
    if held is not None and asked != held and (problem := objection(asked, held)) is not None:
        return (problem,)
    return ()


def refuse(net: Net, problems: tuple[Problem, ...]) -> Net:
    """The same, with why something else is not in force."""
    return Net(
        net.name, net.vpc, net.networks, net.gateways, net.excluded, net.routed, net.usable,
        problems,
    )  # fmt: skip


_Part = tuple[int, int, str, str]
"""First and last address, whose, and the network."""


class _Taken:
    """The networks that routers have, by VPC and family: no two of one share an address."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int], list[_Part]] = {}

    def clash(self, net: Net) -> str:
        """Which other one of its VPC has an address of it; empty if none has."""
        for key, (first, last, *_) in _parts(net):
            there = self._parts.get(key, [])
            at = bisect_right(there, last, key=lambda part: part[0]) - 1
            if at >= 0 and there[at][1] >= first:
                _, _, name, network = there[at]
                return f"{network} of Subnet {name} in VPC {net.vpc}"
        return ""

    def add(self, net: Net) -> None:
        """Have it."""
        for key, part in _parts(net):
            insort(self._parts.setdefault(key, []), part)

    def remove(self, net: Net) -> None:
        """Have it no more."""
        for key, part in _parts(net):
            self._parts[key].remove(part)


def _parts(net: Net) -> Iterator[tuple[tuple[str, int], _Part]]:
    for network in net.networks if net.routed and net.usable else ():
        first, last = int(network.network_address), int(network.broadcast_address)
        yield (net.vpc, network.version), (first, last, net.name, str(network))
