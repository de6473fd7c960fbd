"""The stage between facts and units that gives addresses out. No I/O.

Everything that matters is in the cluster: what pods' and nodes' annotations, IPs, Vips' status and
our own logical switch ports say was given is restored first, then whoever has nothing is given
something, in the order of names. So a controller that starts anew, at whatever moment the one
before it died, gives nobody's address to anybody else.

What comes out are facts, as from any object: LEASES, NETS, USAGE and REFUSALS. The loop puts them
into its store as they are returned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any

from controller.ipam.errors import AddressError
from controller.ipam.want import PRIMARY, Want
from controller.kinds.addresses import POOLS, VIP_RESOURCE, VIPS
from controller.kinds.subnet import SUBNETS
from controller.kinds.workloads import INSTANCES
from controller.kube.resources import Key
from controller.network.asks import RESERVES, SOURCES, STRUCTURE, Ask, Asks, Holder, Source
from controller.network.booknodes import place_of
from controller.network.facts import LEASES, PODS, VIP_ANNOTATION, NicLease
from controller.network.heldports import HeldPort
from controller.network.keeping import (
    KEEPERS,
    Kept,
    keeper_named,
    keeper_of,
    keeps,
    of_port,
    pod_of,
)
from controller.network.ledger import Change, Ledger
from controller.network.nics import Held
from controller.network.reserved import Reserved
from controller.network.view import Kind, View
from controller.translate.ovn import Problem

_VIPS = str(VIP_RESOURCE)


class Allocator:
    """Call `start` once every kind has been listed, then `changed` for every batch of changes.

    Attributes:
        faults: by object, None for what is nobody's alone: defects that kept it as it was.
    """

    def __init__(self, view: View) -> None:
        """`view` shows the facts as they are whenever something is called here."""
        self._view = view
        self._ledger = Ledger()
        self._asks: dict[Holder, tuple[Ask, ...]] = {}
        self._holders: dict[str, dict[Holder, Ask]] = {}
        self._kept = Kept()
        self._last: dict[str, tuple[Key, str]] = {}
        self._waiting: dict[str, tuple[str, ...]] = {}
        self._untold: set[Holder] = set()
        self.faults: dict[Holder | None, str] = {}
        self._unplaced: dict[str, HeldPort] = {}
        self._by_resource = {source.resource: source for source in SOURCES}
        self._pods = next(source.resource for source in SOURCES if source.kind is PODS)

    # -- what the loop calls ----------------------------------------------------------------------

    def start(self, ports: Iterable[HeldPort] = (), unread: Iterable[Key] = ()) -> list[Change]:
        """The first time: restore everything, then give.

        Args:
            ports: those of ours, as they are.
            unread: pods that are there and cannot be read.
        """
        view = self._view
        for step in (
            self._ledger.restore_nets,
            self._ledger.place_pools,
            self._ledger.place_reserved,
        ):
            self._safely(None, partial(step, view))
        entered: list[tuple[Holder, Ask]] = []

        def enter(holder: Holder, source: Source, key: Any) -> None:
            asks = self._enter(holder, source.asks(view, key))
            entered.extend((holder, ask) for ask in asks)

        for source in SOURCES:
            for key in view.all(source.kind):
                holder = source.holder(key)

                self._safely(holder, partial(enter, holder, source, key))
        there = tuple(ports)
        mute = [holder for holder in self._ledger.refused() if holder in self.faults]
        mute += [Holder(self._pods, *key) for key in unread]
        broken = {f"{holder.name}.{holder.namespace}": holder for holder in mute}
        for port in there:
            # Nobody can say what such a pod asks for: it has what its ports say.
            if (whose := of_port(port.port, broken.get)) is not None:
                self._safely(whose, partial(self._remember, entered, whose, port))
        # Once in the networks that were in force, and once in those that are from now on: the
        # controller before may have died after it gave and before it said what is in force.
        self._safely(None, partial(self._restore_all, entered, there))
        self._safely(None, partial(self._ledger.place_nets, view))
        self._safely(None, partial(self._ledger.place_pools, view))
        self._safely(None, partial(self._restore_all, entered, there))
        self._unplaced = {one.port: one for one in there if self._ledger.lease(one.port) is None}
        for port in self._unplaced.values():
            # Nobody is known who has it; perhaps not yet: it is given to others last.
            self._safely(None, partial(self._ledger.use_up, port.port, _held(port)))
        for holder, ask in entered:
            if self._ledger.lease(ask.nic) is None:
                self._safely(holder, partial(self._acquire, holder, ask))
        self._ledger.freed.clear()
        return self._publish()

    def changed(self, keys: Mapping[Kind[Any], Iterable[Hashable]]) -> list[Change]:
        """Facts of these keys are others than before; the facts that follow from it."""
        told = {kind: list(found) for kind, found in keys.items()}
        if self.faults.pop(None, None) is not None:
            # What is common to all failed: all of it once more.
            for kind in (*STRUCTURE, *RESERVES):
                told.setdefault(kind, [])
        self._safely(None, partial(self._place, told))
        if vips := self._vips_of(told.get(PODS, ())):
            told[VIPS] = sorted({*told.get(VIPS, ()), *vips})
        for holder, asks in sorted(self._asking(told).items(), key=_turn):
            self._safely(holder, partial(self._refresh, holder, asks))
        for kind in KEEPERS:
            for key in told.get(kind, ()):
                self._safely(None, partial(self._recheck, key))
        if self._ledger.may_move:
            self._safely(None, partial(self._place, {SUBNETS: ()}))
        self._retry()
        return self._publish()

    def reserve(self, decided: Reserved) -> list[Change]:
        """These addresses are others' than interfaces' now; the facts that follow from it."""
        self._ledger.decide(decided)
        self._safely(None, partial(self._ledger.place_reserved, self._view))
        self._retry()
        return self._publish()

    def _remember(self, entered: list[tuple[Holder, Ask]], holder: Holder, port: HeldPort) -> None:
        first = f"{holder.name}.{holder.namespace}"
        provider = port.port[len(first) + 1 :] or PRIMARY
        ask = Ask(port.port, provider, Want((port.switch,)), _held(port))
        entered.append((holder, ask))
        self._asks[holder] = (*self._asks.get(holder, ()), ask)
        self._holders.setdefault(port.port, {})[holder] = ask
        self._last[port.port] = Key(*holder[1:]), provider

    def _place(self, told: Mapping[Kind[Any], Iterable[Any]]) -> None:
        """Have networks, pools and reserved addresses as they are written now."""
        if SUBNETS in told:
            for nic in self._ledger.place_nets(self._view):
                for holder, ask in self._holders.get(nic, {}).items():
                    self._safely(holder, partial(self._acquire, holder, ask))
        if SUBNETS in told or POOLS in told:
            self._ledger.place_pools(self._view)
        if any(kind in told for kind in RESERVES):
            self._ledger.place_reserved(self._view)
        if SUBNETS in told and self._unplaced:
            self._restore_all((), self._unplaced.values())
            self._unplaced = {
                name: port
                for name, port in self._unplaced.items()
                if self._ledger.lease(name) is None
            }

    def _asking(self, told: Mapping[Kind[Any], Iterable[Any]]) -> dict[Holder, Asks]:
        """What those ask for who changed, or whom a change may help."""
        found: dict[Holder, Asks] = {}

        def ask(source: Source, key: Any) -> None:
            found[source.holder(key)] = source.asks(self._view, key)

        for source in SOURCES:
            for key in told.get(source.kind, ()):
                self._safely(source.holder(key), partial(ask, source, key))
        if any(kind in told for kind in STRUCTURE):
            # And those who have not been told yet: to them it is as if they came now.
            for holder in {*self._ledger.refused(), *self._untold} - found.keys():
                if (one := self._by_resource.get(holder.resource)) is not None:
                    self._safely(holder, partial(ask, one, _key(one, holder)))
        return found

    def _safely(self, holder: Holder | None, step: Callable[[], object]) -> None:
        """Have a defect of ours cost one object its changes, and nobody his network."""
        try:
            step()
        except Exception as error:  # noqa: BLE001  # any defect of ours
            self.faults[holder] = f"{error!r} at {place_of(error)}"
            if holder is not None:
                text = f"its addresses: {error!r}; what it has it keeps"
                problem = Problem(str(holder), text, "report this as a defect")
                self._ledger.refuse(holder, "!", problem)

    # -- who asks ---------------------------------------------------------------------------------

    def _vips_of(self, pods: Iterable[Any]) -> set[str]:
        """The Vips that these pods have, or had."""
        found: set[str] = set()
        for key in pods:
            pod = self._view.get(PODS, key)
            if pod is not None and (name := pod.annotations.get(VIP_ANNOTATION)):
                found.add(name)
            for ask in self._asks.get(Holder(self._pods, key.namespace, key.name), ()):
                there = self._holders.get(ask.nic, {})
                found.update(holder.name for holder in there if holder.resource == _VIPS)
        return found

    def _enter(self, holder: Holder, asks: Asks) -> tuple[Ask, ...]:
        """Note what an object asks for."""
        if asks.found:
            self._asks[holder] = asks.found
        else:
            self._asks.pop(holder, None)
        for ask in asks.found:
            self._holders.setdefault(ask.nic, {})[holder] = ask
        if holder.resource == self._pods and asks.found:
            key = Key(*holder[1:])
            pod = self._view.get(PODS, key)
            keeper = keeper_of(pod) if pod is not None else None
            for ask in asks.found:
                self._last[ask.nic] = key, ask.provider
                if keeper is not None:
                    self._kept.put(ask.nic, keeper)
        if holder.resource == self._pods and any(ask.held is None for ask in asks.found):
            self._untold.add(holder)
        else:
            self._untold.discard(holder)
        self._ledger.forgive(holder)
        self.faults.pop(holder, None)
        for number, problem in enumerate(asks.problems):
            self._ledger.refuse(holder, f"?{number}", problem)
        return asks.found

    def _refresh(self, holder: Holder, asks: Asks) -> None:
        before = {ask.nic: ask for ask in self._asks.get(holder, ())}
        self._enter(holder, asks)
        after = {ask.nic for ask in asks.found}
        for nic in sorted(before.keys() - after):
            self._leave(holder, nic)
        for ask in asks.found:
            same = ask.nic in before and before[ask.nic].uid == ask.uid
            self._ledger.touched.add(ask.nic)
            # What is given stays: our own annotations are no wish, and a network is for life.
            if not same or self._ledger.lease(ask.nic) is None:
                self._acquire(holder, ask)

    def _leave(self, holder: Holder, nic: str) -> None:
        there = self._holders.get(nic, {})
        there.pop(holder, None)
        self._ledger.touched.add(nic)
        if there:
            return
        self._holders.pop(nic, None)
        self._waiting.pop(nic, None)
        keeper = self._kept.of(nic)
        if keeper is None or not keeps(self._view, keeper):
            self._drop(nic)

    def _recheck(self, key: Hashable) -> None:
        for nic in self._kept.by(key):
            self._ledger.touched.add(nic)
            keeper = self._kept.of(nic)
            if nic not in self._holders and keeper and not keeps(self._view, keeper):
                self._drop(nic)

    def _drop(self, nic: str) -> None:
        self._kept.drop(nic)
        self._ledger.release(nic)
        self._last.pop(nic, None)

    def _restore_all(
        self, entered: Iterable[tuple[Holder, Ask]], ports: Iterable[HeldPort]
    ) -> None:
        for holder, ask in entered:
            if ask.held is not None:
                self._safely(holder, partial(self._restore, holder, ask.nic, ask.held))
        for port in ports:
            self._safely(None, partial(self._restore_port, port))

    def _restore_port(self, port: HeldPort) -> None:
        held = _held(port)
        if port.port in self._holders:
            self._restore(min(self._holders[port.port]), port.port, held)
        elif (keeper := of_port(port.port, partial(keeper_named, self._view))) is not None:
            self._restore(None, port.port, held)
            if self._ledger.lease(port.port) is not None:
                self._kept.put(port.port, keeper)
                self._last[port.port] = pod_of(port.port, keeper)

    # -- giving -----------------------------------------------------------------------------------

    def _restore(self, holder: Holder | None, nic: str, held: Held) -> None:
        if self._ledger.lease(nic) is not None:
            return
        try:
            self._ledger.restore(nic, held)
        except AddressError as error:
            if holder is not None:
                self._ledger.refuse(holder, nic, _problem(holder, error))
        else:
            if holder is not None:
                self._ledger.refuse(holder, nic, None)

    def _acquire(self, holder: Holder, ask: Ask) -> None:
        others = [one for one in self._holders.get(ask.nic, {}) if one != holder]
        if others and self._ledger.lease(ask.nic) is not None:
            self._ledger.refuse(holder, ask.nic, None)
            self._waiting.pop(ask.nic, None)
            return
        try:
            was = self._unplaced.pop(ask.nic, None)
            if ask.held is not None and self._ledger.lease(ask.nic) is None:
                self._ledger.restore(ask.nic, ask.held)
            elif was is not None and not ask.want.choices and was.switch in ask.want.subnets:
                # Whoever was heard of late finds what his port says.
                with contextlib.suppress(AddressError):
                    self._ledger.restore(ask.nic, _held(was))
            if ask.held is None or self._ledger.lease(ask.nic) is None:
                self._ledger.acquire(ask.nic, ask.want)
        except AddressError as error:
            self._ledger.refuse(holder, ask.nic, _problem(holder, error))
            self._waiting[ask.nic] = ask.want.subnets
            return
        self._ledger.refuse(holder, ask.nic, None)
        self._waiting.pop(ask.nic, None)

    def _retry(self) -> None:
        """Those who wait for a subnet in which something became free."""
        freed, self._ledger.freed = self._ledger.freed, set()
        for nic in sorted(n for n, subnets in self._waiting.items() if freed & {*subnets}):
            for holder, ask in list(self._holders.get(nic, {}).items()):
                self._safely(holder, partial(self._acquire, holder, ask))

    # -- what comes out ---------------------------------------------------------------------------

    def _publish(self) -> list[Change]:
        touched, self._ledger.touched = self._ledger.touched, set()
        for nic in touched:
            holder = min(self._holders.get(nic, {}), default=None)
            self._safely(holder, partial(self._say_lease, nic))
        return self._ledger.publish()

    def _say_lease(self, nic: str) -> None:
        self._ledger.say(LEASES, nic, self._lease(nic))

    def _lease(self, nic: str) -> NicLease | None:
        lease = self._ledger.lease(nic)
        if lease is None:
            return None
        provider = self._last.get(nic, (None, ""))[1]
        holders = self._holders.get(nic, {})
        pods = sorted(Key(*h[1:]) for h in holders if h.resource == self._pods)
        keeper = self._kept.of(nic)
        if pods:
            pod = pods[0]
            # Of a machine's two pods the one where it runs.
            machine = self._view.get(INSTANCES, keeper.key) if keeper else None
            for key in pods if machine and machine.node else ():
                there = self._view.get(PODS, key)
                if machine and there and there.node == machine.node:
                    pod = key
        elif keeper is not None:
            # By its name, and not by the pod that it had last: so a new controller says it, too.
            pod, provider = pod_of(nic, keeper)
        else:
            holder = min(holders) if holders else Holder("", "", nic)
            pod, provider = Key(holder.namespace, holder.name), ""
        return NicLease(nic, pod, provider, lease.subnet, lease.addresses, lease.mac)


def _held(port: HeldPort) -> Held:
    return Held(port.switch, port.addresses, port.mac)


def _problem(holder: Holder, error: AddressError) -> Problem:
    return Problem(str(holder), error.cause, error.next_step)


def _turn(one: tuple[Holder, Asks]) -> tuple[bool, bool, Holder]:
    """First who leaves, whose addresses can be had at once; then who has one; then who comes."""
    holder, asks = one
    return bool(asks.found), all(ask.held is None for ask in asks.found), holder


def _key(source: Source, holder: Holder) -> Any:
    return Key(holder.namespace, holder.name) if source.namespaced else holder.name
