"""Which networks subnets have in force: what is written, unless that cannot be. Pure.

A change that would cut off whoever is there is refused: what was in force stays so, and the
subnet's status says why. What was in force is read from `status.accepted`, so that a controller
that starts anew decides the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from controller.ipam.errors import AddressError
from controller.ipam.intervals import Intervals
from controller.ipam.subnet import Subnet as Space
from controller.ipam.subnet import hosts_of, intervals_of, networks_of
from controller.kinds.subnet import Subnet, is_logical
from controller.network.view import Kind
from controller.translate.addresses import overlap
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
    return _net(subnet, subnet.vpc or default_vpc, subnet.cidr, subnet.gateway)


def accepted(subnet: Subnet) -> Net | None:
    """What its status says was in force; None: it says nothing that can be read."""
    was = subnet.accepted
    if was is None:
        return None
    net = _net(subnet, was.vpc, was.cidr, was.gateway)
    return net if net.usable else None


def _unusable(name: str, vpc: str, cause: str, next_step: str) -> Net:
    problem = Problem(f"Subnet {name}", cause, next_step)
    return Net(name, vpc, usable=False, refused=(problem,))


def _net(subnet: Subnet, vpc: str, cidr: str, gateway: str) -> Net:

    def refuse(cause: str, next_step: str) -> Net:
        return _unusable(subnet.name, vpc, cause, next_step)

    try:
        networks = networks_of(_without_host_bits(cidr), subnet.name)
        for version in (4, 6):
            intervals_of(subnet.excluded, version, f"subnet {subnet.name}: excludeIps")
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
    return Net(subnet.name, vpc, networks, gateways, subnet.excluded, is_routed(subnet))


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
    subnets: Mapping[str, Subnet], in_force: Mapping[str, Net], default_vpc: str
) -> dict[str, Net]:
    """What each subnet has: of two of one VPC that share an address, the first in place keeps.

    First in place is what is in force, then the older object. A subnet that cannot have what it
    asks for keeps what it has, if it has anything.
    """
    placed: dict[str, Net] = {}
    order = sorted(subnets.values(), key=lambda one: (one.created, one.name))
    for subnet in order:
        was = in_force.get(subnet.name)
        if was is not None and was.usable and not _clash(was, placed):
            # Excluded addresses and how it is routed are always as written now.
            fresh = written(subnet, default_vpc)
            excluded = fresh.excluded if fresh.usable else was.excluded
            placed[subnet.name] = Net(
                was.name, was.vpc, was.networks, was.gateways, excluded, is_routed(subnet)
            )
    for subnet in order:
        asked = written(subnet, default_vpc)
        held = placed.pop(subnet.name, None)
        if not asked.usable:
            refused = asked.refused
        elif clash := _clash(asked, placed):
            cause, step = f"{asked.cidr} overlaps {clash}", "choose another cidrBlock"
            refused = (Problem(f"Subnet {subnet.name}", cause, step),)
        else:
            placed[subnet.name] = asked
            continue
        base = held or Net(subnet.name, asked.vpc, usable=False)
        placed[subnet.name] = refuse(base, refused)
    return placed


def refuse(net: Net, problems: tuple[Problem, ...]) -> Net:
    """The same, with why something else is not in force."""
    return Net(
        net.name, net.vpc, net.networks, net.gateways, net.excluded, net.routed, net.usable,
        problems,
    )  # fmt: skip


def _clash(net: Net, placed: Mapping[str, Net]) -> str:
    """Which other one of its VPC has an address of it; empty if none has."""
    if not net.routed:
        return ""
    for other in placed.values():
        if other.vpc != net.vpc or not other.routed or not other.usable or other.name == net.name:
            continue
        for one in net.networks:
            for two in other.networks:
                if one.version == two.version and overlap(one, two):
                    return f"{two} of Subnet {other.name} in VPC {net.vpc}"
    return ""
