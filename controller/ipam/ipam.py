"""Who has which address and MAC, in every subnet. No I/O: rebuilt from the cluster's objects.

All that matters is in the leases, which are objects of the cluster: an `Ipam` that is given the
same subnets, pools and leases refuses and grants what the one before would (only the order in
which released addresses come again is forgotten).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from controller.ipam.errors import (
    AddressError,
    ConflictError,
    ExhaustedError,
    FamilyError,
    NoSubnetError,
    OutOfRangeError,
)
from controller.ipam.state import (
    State,
    check_free,
    check_host,
    check_mac,
    check_reserved,
    families_of,
    mac_for,
    ranges_of,
    reshape,
)
from controller.ipam.subnet import Pool, Subnet, address_of, pooled_of
from controller.ipam.want import Addresses, Want
from dataplane.model.addr import IPAddress, Mac


@dataclass(frozen=True, slots=True)
class Lease:
    """What one interface has: at most one address of a family, IPv4 first."""

    nic: str
    subnet: str
    addresses: Addresses
    mac: Mac


@dataclass(frozen=True, slots=True)
class Usage:
    """One family of a subnet or pool: how many are taken of it, and how many might be given."""

    using: int
    available: int


class Ipam:
    """Every subnet's addresses. Whatever raises `AddressError` changed nothing."""

    def __init__(self) -> None:
        self._subnets: dict[str, State] = {}
        self._reserved: dict[str, Mapping[tuple[int, int], str]] = {}
        self._leases: dict[str, Lease] = {}

    # -- subnets and pools ----------------------------------------------------------------------

    def set_subnet(self, subnet: Subnet) -> None:
        """A subnet comes, or is another one.

        Raises:
            RangeTextError: a range of `excluded` cannot be read.
            OutOfRangeError: somebody's address would not be of it any more.
            ConflictError: somebody has the address of a gateway.
        """
        self.check_subnet(subnet)
        before = self._subnets.get(subnet.name)
        mine = self._reserved.get(subnet.name, {})
        state = State(subnet, reserved=mine) if before is None else before
        ranges = ranges_of(subnet, state.pools, state.reserved)
        state.subnet = subnet
        reshape(state, ranges)
        self._subnets[subnet.name] = state

    def check_subnet(self, subnet: Subnet) -> None:
        """Whether everybody could keep his address if a subnet were this one; nothing changes.

        Raises:
            OutOfRangeError: somebody's address would not be of it any more.
            ConflictError: somebody has the address of a gateway.
        """
        state = self._subnets.get(subnet.name)
        if state is None:
            return
        gateways = {(g.version, int(g)) for g in subnet.gateways}
        for (version, number), nic in state.holders.items():
            address, network = address_of(version, number), subnet.network(version)
            if network is None or address not in network:
                msg = f"subnet {subnet.name}: {address} of {nic} is not in its networks any more"
                raise OutOfRangeError(msg, "delete that workload first, or keep the network")
            if (version, number) in gateways:
                msg = f"subnet {subnet.name}: the gateway {address} is the address of {nic}"
                raise ConflictError(msg, "choose another gateway, or delete that workload", nic)

    def remove_subnet(self, name: str) -> None:
        """A subnet goes, and its pools and leases with it; one that is not there: nothing."""
        if self._subnets.pop(name, None) is not None:
            self._leases = {n: lease for n, lease in self._leases.items() if lease.subnet != name}

    def set_pool(self, pool: Pool) -> None:
        """A pool comes, or is another one. Who has an address of it keeps it.

        Raises:
            NoSubnetError: its subnet is not there.
            RangeTextError: a range of it cannot be read.
            ConflictError: an address of it is in another pool of the subnet.
        """
        state = self._state(pool.subnet, f"pool {pool.name}")
        pools = {**state.pools, pool.name: pool}
        for network in state.subnet.networks:
            mine = pooled_of(state.subnet, network, pool)
            for other in (p for p in pools.values() if p.name != pool.name):
                if (both := mine & pooled_of(state.subnet, network, other)).parts:
                    address = address_of(network.version, both.parts[0][0])
                    msg = f"pool {pool.name}: {address} is in pool {other.name} too"
                    raise ConflictError(msg, "take it out of one of them", other.name)
        ranges = ranges_of(state.subnet, pools, state.reserved)
        state.pools = pools
        reshape(state, ranges)

    def remove_pool(self, subnet: str, name: str) -> None:
        """A pool goes; its addresses are the subnet's again."""
        state = self._subnets.get(subnet)
        if state is not None and state.pools.pop(name, None) is not None:
            reshape(state, ranges_of(state.subnet, state.pools, state.reserved))

    def reserve(self, subnet: str, addresses: Mapping[tuple[int, int], str]) -> None:
        """These addresses, by family and number, are others' than interfaces', and whose.

        They are given to nobody; who has one keeps it. The subnet need not be there yet.
        """
        self._reserved[subnet] = addresses
        state = self._subnets.get(subnet)
        if state is not None:
            state.reserved = addresses
            reshape(state, ranges_of(state.subnet, state.pools, addresses))

    # -- leases ---------------------------------------------------------------------------------

    def lease(self, nic: str) -> Lease | None:
        """What an interface has."""
        return self._leases.get(nic)

    def leases(self) -> Iterator[Lease]:
        """All of them, by name."""
        return (self._leases[nic] for nic in sorted(self._leases))

    def acquire(self, nic: str, want: Want) -> Lease:
        """What an interface gets; the same again if it has that already.

        What it has and does not want any more is given back, once there is something in its place.

        Raises:
            AddressError: (one of its kinds) nothing was given; what it has it still has.
        """
        held = self._leases.get(nic)
        if held is not None and self._suits(held, want):
            return held
        if not want.subnets:
            msg = f"{nic}: no subnet is named for it, by itself or by its namespace"
            raise NoSubnetError(msg, "annotate one of them with logical_switch")
        first: AddressError | None = None
        for name in want.subnets:
            try:
                chosen = self._choose(nic, want, name)
            except AddressError as error:
                # The first subnet's word: the others are there for when it is full.
                first = first or error
                continue
            return self._put(chosen)
        assert first is not None
        raise first

    def restore(self, lease: Lease) -> None:
        """What the cluster's objects say that an interface has.

        Raises:
            NoSubnetError: its subnet is not there.
            OutOfRangeError: an address is none of the subnet's hosts, or its gateway.
            ConflictError: somebody else has it.
        """
        state = self._state(lease.subnet, lease.nic)
        for address in lease.addresses:
            check_host(state, lease.nic, address)
            check_free(state, lease.nic, address)
        check_mac(state, lease.nic, lease.mac)
        self._put(lease)

    def release(self, nic: str) -> None:
        """It has nothing any more."""
        lease = self._leases.pop(nic, None)
        if lease is None:
            return
        state = self._subnets[lease.subnet]
        del state.macs[lease.mac]
        for address in lease.addresses:
            del state.holders[address.version, int(address)]
            state.using[address.version] -= 1
            for (_, version), space in state.spaces.items():
                if version == address.version:
                    space.release(int(address))

    # -- sight ----------------------------------------------------------------------------------

    def usage(self, subnet: str, pool: str = "") -> Mapping[int, Usage]:
        """By family. A subnet's counts its pools in what is used, not in what it may give.

        What is reserved is used, too.
        """
        state = self._state(subnet, "usage")
        others = {4: 0, 6: 0}
        for version, _ in state.reserved.keys() - state.holders.keys():
            others[version] += 1
        return {
            version: Usage(
                sum(
                    family == version and number in space.ranges for family, number in state.holders
                )
                if pool
                else state.using[version] + others[version],
                space.free,
            )
            for (name, version), space in state.spaces.items()
            if name == pool
        }

    # -- within ---------------------------------------------------------------------------------

    def _state(self, name: str, who: str) -> State:
        state = self._subnets.get(name)
        if state is None:
            msg = f"{who}: there is no subnet {name!r}"
            raise NoSubnetError(msg, "create it, or name another")
        return state

    def _suits(self, held: Lease, want: Want) -> bool:
        if want.subnets and held.subnet not in want.subnets:
            return False
        if want.mac is not None and held.mac != want.mac:
            return False
        state = self._subnets[held.subnet]
        if {a.version for a in held.addresses} != set(families_of(state.subnet, want)):
            return False
        if want.choices:
            return any(set(choice) <= set(held.addresses) for choice in want.choices)
        if want.pool:
            spaces = (state.spaces.get((want.pool, a.version)) for a in held.addresses)
            return all(
                space is not None and int(address) in space.ranges
                for space, address in zip(spaces, held.addresses, strict=True)
            )
        return True

    def _choose(self, nic: str, want: Want, name: str) -> Lease:
        state = self._state(name, nic)
        if want.pool and want.pool not in state.pools:
            msg = f"{nic}: subnet {name} has no pool {want.pool!r}"
            raise NoSubnetError(msg, "create it, or name another")
        families = families_of(state.subnet, want)
        if want.version is not None and not families:
            msg = f"{nic}: subnet {name} has no IPv{want.version}"
            raise FamilyError(msg, "ask for what it has")
        fixed = self._fixed(nic, want, state)
        chosen = dict(fixed)
        for version in families:
            if version not in chosen:
                chosen[version] = self._next(nic, state, want.pool, version)
        addresses = tuple(chosen[version] for version in sorted(chosen))
        mac = want.mac
        if mac is not None:
            check_mac(state, nic, mac)
        held = self._leases.get(nic)
        if mac is None:
            # An interface that only moves within its subnet stays the same to its neighbours.
            kept = held is not None and held.subnet == name
            mac = held.mac if held is not None and kept else mac_for(state, nic)
        return Lease(nic, name, addresses, mac)

    def _fixed(self, nic: str, want: Want, state: State) -> dict[int, IPAddress]:
        """The first choice that nobody else has."""
        last: AddressError | None = None
        for choice in want.choices:
            try:
                for address in choice:
                    check_host(state, nic, address)
                    check_free(state, nic, address)
                    check_reserved(state, nic, address)
            except ConflictError as error:
                last = last or error
                continue
            return {address.version: address for address in choice}
        if last is not None:
            raise last
        return {}

    def _next(self, nic: str, state: State, pool: str, version: int) -> IPAddress:
        space = state.spaces.get((pool, version))
        number = space.next() if space is not None else None
        if number is None:
            where = f"pool {pool}" if pool else f"subnet {state.subnet.name}"
            msg = f"{nic}: {where} has no IPv{version} address left"
            raise ExhaustedError(msg, "widen it, or delete workloads that need none")
        return address_of(version, number)

    def _put(self, lease: Lease) -> Lease:
        self.release(lease.nic)
        state = self._subnets[lease.subnet]
        state.macs[lease.mac] = lease.nic
        for address in lease.addresses:
            number = int(address)
            state.using[address.version] += (address.version, number) not in state.holders
            state.holders[address.version, number] = lease.nic
            for (_, version), space in state.spaces.items():
                if version == address.version:
                    space.take(number)
        self._leases[lease.nic] = lease
        return lease
