"""One subnet's addresses and MACs as they are given: who has what, and what is refused. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.ipam.errors import ConflictError, ExhaustedError, OutOfRangeError
from controller.ipam.intervals import Intervals
from controller.ipam.space import Space
from controller.ipam.subnet import Pool, Subnet, given_of, hosts_of, pooled_of
from controller.ipam.want import Want
from dataplane.model.addr import IPAddress, Mac


@dataclass(slots=True)
class State:
    """A subnet and what became of it. Spaces are by pool ("": the subnet's own) and family."""

    subnet: Subnet
    pools: dict[str, Pool] = field(default_factory=dict)
    spaces: dict[tuple[str, int], Space] = field(default_factory=dict)
    holders: dict[tuple[int, int], str] = field(default_factory=dict)
    using: dict[int, int] = field(default_factory=lambda: {4: 0, 6: 0})
    macs: dict[Mac, str] = field(default_factory=dict)
    reserved: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def taken(self, version: int) -> set[int]:
        """The addresses of a family that somebody has, as numbers."""
        return {number for family, number in self.holders if family == version}


def families_of(subnet: Subnet, want: Want) -> tuple[int, ...]:
    """The families that an interface gets of a subnet."""
    return tuple(v for v in subnet.versions if want.version in (None, v))


def ranges_of(
    subnet: Subnet, pools: Mapping[str, Pool], reserved: Mapping[tuple[int, int], str]
) -> dict[tuple[str, int], Intervals]:
    """What a subnet gives, by pool ("": itself) and family.

    Raises:
        RangeTextError: a range cannot be read.
    """
    found: dict[tuple[str, int], Intervals] = {}
    for network in subnet.networks:
        others = Intervals.of((n, n) for version, n in reserved if version == network.version)
        found["", network.version] = given_of(subnet, network, tuple(pools.values())) - others
        for pool in pools.values():
            found[pool.name, network.version] = pooled_of(subnet, network, pool) - others
    return found


def reshape(state: State, ranges: Mapping[tuple[str, int], Intervals]) -> None:
    """Have these ranges to give from; what is taken stays so."""
    spaces: dict[tuple[str, int], Space] = {}
    for key, given in ranges.items():
        space = state.spaces.get(key) or Space(Intervals())
        space.reshape(given, state.taken(key[1]))
        spaces[key] = space
    state.spaces = spaces


def check_host(state: State, nic: str, address: IPAddress) -> None:
    """Have an address is a host's of the subnet, and no gateway's.

    Raises:
        OutOfRangeError: it is none.
    """
    subnet = state.subnet
    network = subnet.network(address.version)
    if network is None or int(address) not in hosts_of(network):
        has = ", ".join(map(str, subnet.networks)) or "no network"
        msg = f"{nic}: {address} is no host's address of subnet {subnet.name} ({has})"
        raise OutOfRangeError(msg, "choose one of it")
    if address in subnet.gateways:
        msg = f"{nic}: {address} is the gateway of subnet {subnet.name}"
        raise OutOfRangeError(msg, "choose another")


def check_free(state: State, nic: str, address: IPAddress) -> None:
    """Have nobody else has an address.

    Raises:
        ConflictError: somebody has.
    """
    holder = state.holders.get((address.version, int(address)))
    if holder not in (None, nic):
        msg = f"{nic}: {address} of subnet {state.subnet.name} is taken by {holder}"
        raise ConflictError(msg, "choose another, or delete that one", holder or "")


def check_reserved(state: State, nic: str, address: IPAddress) -> None:
    """Have an address is reserved for nobody, or the interface has it already.

    Raises:
        ConflictError: it is reserved.
    """
    whose = state.reserved.get((address.version, int(address)))
    if whose is not None and state.holders.get((address.version, int(address))) != nic:
        msg = f"{nic}: {address} of subnet {state.subnet.name} is reserved for {whose}"
        raise ConflictError(msg, "choose another, or delete that one", whose)


def check_mac(state: State, nic: str, mac: Mac) -> None:
    """Have nobody else has a MAC.

    Raises:
        ConflictError: somebody has.
    """
    holder = state.macs.get(mac)
    if holder not in (None, nic):
        msg = f"{nic}: {mac} is the MAC of {holder} in subnet {state.subnet.name}"
        raise ConflictError(msg, "choose another, or none", holder or "")


def mac_for(state: State, nic: str) -> Mac:
    """A locally administered MAC by name: what comes again is the same to its neighbours.

    Raises:
        ExhaustedError: there is none.
    """
    for turn in range(1 << 16):
        seed = f"{state.subnet.name}/{nic}/{turn}".encode()
        octets = bytearray(hashlib.blake2b(seed, digest_size=6).digest())
        octets[0] = octets[0] & 0xFC | 0x02
        mac = Mac(octets.hex(":"))
        if state.macs.get(mac, nic) == nic:
            return mac
    msg = f"{nic}: subnet {state.subnet.name} has no MAC left for that name"
    raise ExhaustedError(msg, "give it one")
