"""Subnets, pools and who has what of them, and the facts that this makes. No I/O."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from controller.ipam.errors import AddressError
from controller.ipam.ipam import Ipam, Lease
from controller.ipam.subnet import Pool, outside
from controller.ipam.want import Want
from controller.kinds.addresses import POOL_RESOURCE, POOLS
from controller.kinds.nat import EIPS, VPC_PORTS
from controller.kinds.subnet import RESOURCE as SUBNET_RESOURCE
from controller.kinds.subnet import SUBNETS, Subnet
from controller.network.asks import Holder
from controller.network.booknodes import place_of
from controller.network.externalgw import external_subnet
from controller.network.nets import NETS, REFUSALS, USAGE, Net, Usage, accepted, place, refuse
from controller.network.nics import Held
from controller.network.reserved import Reserved
from controller.network.settings import DEFAULT_VPC
from controller.network.standins import ends
from controller.network.view import Kind, View
from controller.translate.ovn import Problem
from dataplane.model.addr import readable

Change = tuple[Kind[Any], Hashable, Any]
"""A fact as it is from now on; None: it is gone."""
_SUBNETS, _POOLS = str(SUBNET_RESOURCE), str(POOL_RESOURCE)


class Ledger:
    """The addresses' state, and what of it was not said yet.

    Attributes:
        freed: subnets in which somebody may get what was refused before.
        touched: interfaces that have something else than before.
    """

    def __init__(self) -> None:
        self.freed: set[str] = set()
        self.touched: set[str] = set()
        self._ipam = Ipam()
        self._nets: dict[str, Net] = {}
        self._pools: dict[str, Pool] = {}
        self._reserved: dict[str, dict[tuple[int, int], str]] = {}
        self._decided: Reserved = {}
        self._users: dict[str, int] = {}
        self._ending: frozenset[str] = frozenset()
        self._refused: dict[Holder, dict[str, Problem]] = {}
        self._stale_usage: set[str] = set()
        self._said: dict[tuple[Kind[Any], Hashable], Any] = {}
        self._out: dict[tuple[Kind[Any], Hashable], Any] = {}

    # -- facts that come out ----------------------------------------------------------------------

    def say(self, kind: Kind[Any], key: Hashable, fact: Any) -> None:
        """A fact as it is now; None: there is none."""
        if self._said.get((kind, key)) != fact:
            self._out[kind, key] = fact
        else:
            self._out.pop((kind, key), None)

    def publish(self) -> list[Change]:
        """What is otherwise than when this was asked last."""
        for name in self._stale_usage:
            self._say_usage(name)
        self._stale_usage.clear()
        found: list[Change] = []
        for (kind, key), fact in self._out.items():
            if fact is None:
                self._said.pop((kind, key), None)
            else:
                self._said[kind, key] = fact
            found.append((kind, key, fact))
        self._out = {}
        return found

    def refuse(self, holder: Holder, what: str, problem: Problem | None) -> None:
        """Why an object did not get something; None: it did."""
        there = self._refused.setdefault(holder, {})
        if problem is None:
            there.pop(what, None)
        else:
            there[what] = problem
        if not there:
            del self._refused[holder]
        self.say(REFUSALS, tuple(holder), tuple(there[name] for name in sorted(there)) or None)

    def refused(self) -> list[Holder]:
        """Who was refused something, in order."""
        return sorted(self._refused)

    def forgive(self, holder: Holder) -> None:
        """Forget what was refused to an object."""
        for what in list(self._refused.get(holder, ())):
            self.refuse(holder, what, None)

    def _say_usage(self, name: str) -> None:
        net = self._nets.get(name)
        pools = [""] + [pool.name for pool in self._pools.values() if pool.subnet == name]
        for pool in pools:
            if net is None or not net.usable:
                self.say(USAGE, (name, pool), None)
                continue
            found = self._ipam.usage(name, pool)
            self.say(
                USAGE,
                (name, pool),
                Usage(
                    {version: one.using for version, one in found.items()},
                    {version: one.available for version, one in found.items()},
                ),
            )

    # -- subnets and pools ------------------------------------------------------------------------

    def restore_nets(self, view: View) -> None:
        """The first time: what was in force is so until everybody has what they had."""
        there = _subnets(view)
        self._ending = _ending(view, there)
        known = {name: net for name, one in there.items() if (net := _accepted(one))}
        for net in known.values():
            self._take(net)
        for name, net in place(there, known, DEFAULT_VPC).items():
            if name not in known:
                self._take(net)

    def place_nets(self, view: View) -> tuple[str, ...]:
        """Have each subnet's network in force, as far as it can be; interfaces that lost theirs."""
        there = _subnets(view)
        self._ending = _ending(view, there)
        lost: list[str] = []
        for name in sorted(self._nets.keys() - there.keys()):
            lost += [lease.nic for lease in self._ipam.leases() if lease.subnet == name]
            for nic in lost:
                self.release(nic)
            self._ipam.remove_subnet(name)
            self.say(NETS, name, None)
            for pool in [p.name for p in self._pools.values() if p.subnet == name]:
                self.say(USAGE, (name, pool), None)
                del self._pools[pool]
            self.say(USAGE, (name, ""), None)
            self.forgive(Holder(_SUBNETS, "", name))
            del self._nets[name]
        placed = place(there, self._nets, DEFAULT_VPC, self._objection).values()
        for net in sorted(placed, key=lambda one: one.name):
            self._take(net)
        return tuple(lost)

    @property
    def may_move(self) -> bool:
        """Whether somebody left a subnet that could not be as it is written."""
        return any(net.refused for name in self.freed if (net := self._nets.get(name)))

    def _take(self, net: Net) -> None:
        before = self._nets.get(net.name)
        taken = self._fit(net, before if before and before.usable else None)
        self._nets[net.name] = taken
        self.say(NETS, net.name, taken)
        problem = taken.refused[0] if taken.refused else None
        self.refuse(Holder(_SUBNETS, "", net.name), "", problem)
        if before != taken:
            self._stale_usage.add(net.name)
            self.freed.add(net.name)

    def _objection(self, net: Net, held: Net) -> Problem | None:
        """Why a network cannot take the place of this one: somebody would lose his address."""
        who = f"Subnet {net.name}"
        if held.vpc != net.vpc and self._users.get(net.name):
            cause = f"it is of VPC {held.vpc}, and workloads have addresses of it"
            return Problem(who, cause, "delete them before the VPC changes")
        try:
            self._ipam.check_subnet(net.space)
        except AddressError as error:
            return Problem(who, error.cause, error.next_step)
        except Exception as error:  # noqa: BLE001  # any defect of ours
            return _defect(who, error)
        return None

    def _fit(self, net: Net, held: Net | None) -> Net:
        """The network, with its addresses to be had from now on."""
        if not net.usable or (held is not None and held.space == net.space):
            return net
        try:
            self._ipam.set_subnet(net.space)
        except AddressError as error:
            problem = Problem(f"Subnet {net.name}", error.cause, error.next_step)
        except Exception as error:  # noqa: BLE001  # any defect of ours
            problem = _defect(f"Subnet {net.name}", error)
        else:
            return net
        return refuse(held or Net(net.name, net.vpc, usable=False), (problem,))

    def place_pools(self, view: View) -> None:
        """Have the pools of the IPPools."""
        found = ((name, view.get(POOLS, name)) for name in view.all(POOLS))
        wanted = {name: Pool(name, one.subnet, one.addresses) for name, one in found if one}
        for name, old in list(self._pools.items()):
            if name not in wanted or wanted[name].subnet != old.subnet:
                self._ipam.remove_pool(old.subnet, name)
                del self._pools[name]
                self.forgive(Holder(_POOLS, "", name))
                self.say(USAGE, (old.subnet, name), None)
                self.freed.add(old.subnet)
                self._stale_usage.add(old.subnet)
        for holder in [one for one in self._refused if one.resource == _POOLS]:
            if holder.name not in wanted:
                self.forgive(holder)
        for name, pool in wanted.items():
            problem = None
            try:
                if self._pools.get(name) != pool or pool.subnet in self.freed:
                    self._ipam.set_pool(pool)
                    self._pools[name] = pool
                    self.freed.add(pool.subnet)
                    self._stale_usage.add(pool.subnet)
                if strange := outside(self._nets[pool.subnet].space, pool):
                    cause = f"no address of subnet {pool.subnet} is in {', '.join(strange)}"
                    problem = Problem(f"IPPool {name}", cause, "write addresses of its cidrBlock")
            except AddressError as error:
                problem = Problem(f"IPPool {name}", error.cause, error.next_step)
            except Exception as error:  # noqa: BLE001  # any defect of ours
                problem = _defect(f"IPPool {name}", error)
            self.refuse(Holder(_POOLS, "", name), "", problem)

    def decide(self, reserved: Reserved) -> None:
        """Who has which addresses beside interfaces, from the next `place_reserved` on."""
        self._decided = reserved

    def place_reserved(self, view: View) -> None:
        """Have external addresses given to no workload.

        Those that were decided, and those that OvnEips and Vpcs' ports wish for or say that they
        have: nobody comes before them who is heard of together with them.
        """
        wanted: dict[str, dict[tuple[int, int], str]] = {}

        def keep(subnet: str, whose: str, texts: tuple[str, ...]) -> None:
            for address in readable(texts):
                wanted.setdefault(subnet, {})[address.version, int(address)] = whose

        for name in view.all(EIPS):
            if (eip := view.get(EIPS, name)) is not None:
                subnet = eip.subnet or external_subnet(view)
                keep(subnet, f"OvnEip {name}", (*eip.wished, *eip.held))
        for name in view.all(VPC_PORTS):
            for subnet, held in ports.held if (ports := view.get(VPC_PORTS, name)) else ():
                keep(subnet, f"Vpc {name}", held)
        for subnet, decided in self._decided.items():
            wanted[subnet] = {**wanted.get(subnet, {}), **decided}
        for subnet in self._reserved.keys() | wanted.keys():
            mine = wanted.get(subnet, {})
            if mine != self._reserved.get(subnet, {}):
                self._ipam.reserve(subnet, mine)
                self.freed.add(subnet)
                self._stale_usage.add(subnet)
        self._reserved = wanted

    # -- leases -----------------------------------------------------------------------------------

    def lease(self, nic: str) -> Lease | None:
        """What an interface has."""
        return self._ipam.lease(nic)

    def leases(self) -> Iterator[Lease]:
        """All of them, by name."""
        return self._ipam.leases()

    def restore(self, nic: str, held: Held) -> None:
        """What the cluster says that an interface has.

        Raises:
            AddressError: it cannot have it.
        """
        if held.mac is not None:
            self._ipam.restore(Lease(nic, held.subnet, held.addresses, held.mac))
            self._note(nic, None)

    def use_up(self, nic: str, held: Held) -> None:
        """Have addresses be given last, as if they had just become free."""
        try:
            self.restore(nic, held)
        except AddressError:
            return
        self.release(nic)

    def acquire(self, nic: str, want: Want) -> None:
        """Give an interface what it asks for.

        Raises:
            AddressError: it cannot have it; what it has it still has.
        """
        before = self._ipam.lease(nic)
        unusable = [n for n in want.subnets if (net := self._nets.get(n)) and not net.usable]
        if unusable and len(unusable) == len(want.subnets):
            msg = f"{nic}: Subnet {unusable[0]} cannot be used"
            raise AddressError(msg, "its status says why")
        self._ipam.acquire(nic, self._of_those_that_stay(nic, want, before))
        self._note(nic, before)

    def _of_those_that_stay(self, nic: str, want: Want, before: Lease | None) -> Want:
        """Without Subnets that are being deleted: they would never be empty.

        Raises:
            AddressError: there are no others.
        """
        mine = before.subnet if before is not None else ""
        stay = tuple(name for name in want.subnets if name == mine or name not in self._ending)
        if stay == want.subnets:
            return want
        if not stay:
            msg = f"{nic}: Subnet {want.subnets[0]} is being deleted"
            raise AddressError(msg, "name another, or wait until it is gone")
        return replace(want, subnets=stay)

    def release(self, nic: str) -> None:
        """It has nothing any more."""
        before = self._ipam.lease(nic)
        self._ipam.release(nic)
        self._note(nic, before)

    def _note(self, nic: str, before: Lease | None) -> None:
        after = self._ipam.lease(nic)
        if before == after:
            return
        self.touched.add(nic)
        if before is not None:
            self._users[before.subnet] -= 1
            self.freed.add(before.subnet)
            self._stale_usage.add(before.subnet)
        if after is not None:
            self._users[after.subnet] = self._users.get(after.subnet, 0) + 1
            self._stale_usage.add(after.subnet)


def _accepted(subnet: Subnet) -> Net | None:
    """What was in force, as far as its status can be understood."""
    try:
        return accepted(subnet)
    except Exception:  # noqa: BLE001  # the same defect is told of what is written
        return None


def _defect(who: str, error: Exception) -> Problem:
    """A defect of ours costs one object its changes, and nobody his network."""
    return Problem(who, f"{error!r} at {place_of(error)}", "report this as a defect")


def _subnets(view: View) -> Mapping[str, Subnet]:
    found = ((name, view.get(SUBNETS, name)) for name in view.all(SUBNETS))
    return {name: subnet for name, subnet in found if subnet is not None}


def _ending(view: View, subnets: Mapping[str, Subnet]) -> frozenset[str]:
    return frozenset(name for name, one in subnets.items() if one.ending and ends(view, name))
