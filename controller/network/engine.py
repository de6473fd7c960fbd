"""All that is pure between objects and rows: facts, addresses, units. No I/O.

What comes in are facts as the API has them; what comes out is what became otherwise. The order is
always the same: facts, then the allocator, whose leases are facts, then the book.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from controller.kinds.externalgw import EXTERNAL_GATEWAYS, PLACE
from controller.kube.resources import Key
from controller.network.allocator import Allocator
from controller.network.asks import READS
from controller.network.book import Book
from controller.network.booknodes import Raised, place_of
from controller.network.externalgw import stand_ins as gateway_stand_ins
from controller.network.facts import LEASES, PODS
from controller.network.gateways import CLUSTER
from controller.network.heldports import HeldPort
from controller.network.judges import JUDGES, UNREAD
from controller.network.merging import Changes
from controller.network.reach import Hold, hold_of
from controller.network.registry import UNITS, WATCHED
from controller.network.reserved import RESERVED, Reserved
from controller.network.settings import SETTINGS, NetSettings
from controller.network.standins import stand_ins
from controller.network.store import Store
from controller.network.units import ObjectRef, Unit
from controller.network.view import Derived, Kind
from controller.translate.ovn import Problem
from dataplane.model.config import ClusterConfig

T = TypeVar("T")
Fact = tuple[Kind[Any], Hashable, Any]
"""A fact as it is from now on; None: there is none."""

Place = tuple[Kind[Any], Hashable]
"""Where a fact is."""

_RESOURCES = {watched.kind: watched.resource for watched in reversed(WATCHED)}
_READS = frozenset(READS)


class StoreView:
    """The facts at this moment, without notes of who reads them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, kind: Kind[T], key: Hashable) -> T | None:
        """The fact of this key, if there is one."""
        return self._store.get(kind, key)

    def by(self, kind: Kind[T], index: str, value: Hashable) -> tuple[Any, ...]:
        """The keys found by an index, sorted."""
        return self._store.by(kind, index, value)

    def all(self, kind: Kind[T]) -> tuple[Any, ...]:
        """Every key, sorted."""
        return self._store.all(kind)

    def ask(self, kind: Derived[T], key: Hashable) -> T:
        """A derived fact, computed each time."""
        return kind.compute(self, key)


class Engine:
    """Put facts in, `start` once all kinds have been listed, then `update` after each batch.

    Attributes:
        started: whether `start` was called: before, nothing is computed.
    """

    def __init__(self, settings: NetSettings, units: tuple[Unit, ...] = UNITS) -> None:
        self.book = Book(units, self._object_of)
        self.started = False
        self._allocator = Allocator(StoreView(self.book.store))
        self._settings = settings
        self._stand_ins = {(kind, key): fact for kind, key, fact in stand_ins(settings)}
        self._of_gateway: dict[tuple[Kind[Any], Hashable], Any] = {}
        self._reserved: Reserved = {}
        self._changed: dict[Kind[Any], set[Hashable]] = {}
        self._unread: set[Place] = set()
        self._odd: dict[Place, str] = {}
        self._gateways = ""
        self.put(((SETTINGS, "", settings),))
        self.put(tuple((kind, key, None) for kind, key in self._stand_ins))

    def put(self, facts: Iterable[Fact]) -> None:
        """Have these facts from now on; what follows from them comes with the next update."""
        for kind, key, fact in facts:
            if fact is None:
                place = kind, key
                fact = self._stand_ins.get(place, self._of_gateway.get(place))
            try:
                changed = self.book.put(kind, key, fact)
            except Exception as error:  # noqa: BLE001  # any defect of ours
                # It costs one object its changes, and nobody his network.
                self._odd[kind, key] = f"{error!r} at {place_of(error)}"
                continue
            if self._odd.get((kind, key)):
                self._odd[kind, key] = ""
            if (kind, key) in self._unread:
                # Nobody knew what it was: that there is nothing is news, too.
                self._unread.discard((kind, key))
                changed = True
                if kind in JUDGES:
                    self.put(((UNREAD, (kind.name, key), None),))
            if changed and kind in _READS:
                self._changed.setdefault(kind, set()).add(key)
            if changed and kind is EXTERNAL_GATEWAYS:
                self._stand_in()

    def _stand_in(self) -> None:
        """Hold what the external gateway stands for, wherever there is no object."""
        gateway = self.book.store.get(EXTERNAL_GATEWAYS, PLACE)
        found = gateway_stand_ins(gateway, self._settings)
        before, self._of_gateway = self._of_gateway, {(kind, key): f for kind, key, f in found}
        for kind, key in before.keys() | self._of_gateway.keys():
            there: Any = self.book.store.get(kind, key)
            if there is None or there.made:
                self.put(((kind, key, None),))

    def end(self, places: Iterable[tuple[Kind[Any], Hashable]]) -> None:
        """These are being deleted, which is all that could be read of them."""
        for kind, key in places:
            fact: Any = self.book.store.get(kind, key)
            if hasattr(fact, "ending"):
                self.put(((kind, key, replace(fact, ending=True)),))

    def start(
        self, ports: Iterable[HeldPort] = (), unread: Collection[Place] = frozenset()
    ) -> Changes:
        """Give addresses, those first that were given before, and compute everything.

        Args:
            ports: logical switch ports of ours as the northbound database has them.
            unread: objects that are there and cannot be read.
        """
        self._changed.clear()
        self._unread = set(unread)
        self.put((UNREAD, (kind.name, key), True) for kind, key in unread if kind in JUDGES)
        self._put_given(
            self._allocator.start(
                ports, [k for kind, k in unread if kind is PODS and isinstance(k, Key)]
            )
        )
        self._reserve()
        self.started = True
        return self.book.update()

    def update(self) -> Changes:
        """What became otherwise by all facts that were put since the last time."""
        changed, self._changed = self._changed, {}
        if changed:
            self._put_given(self._allocator.changed(changed))
        self._reserve()
        return self.book.update()

    def _reserve(self) -> None:
        """Keep from interfaces what the units give to others, before anybody asks again."""
        reserved: Reserved = self.book.derive(RESERVED, "")[0]
        if isinstance(reserved, Mapping) and reserved != self._reserved:
            self._reserved = reserved
            self._put_given(self._allocator.reserve(reserved))

    def gateways(self) -> ClusterConfig | None:
        """What the cluster controller is to make now; None: nothing, or as before."""
        found: ClusterConfig | Raised | None = self.book.derive(CLUSTER, "")[0]
        self._gateways = place_of(found.error) if isinstance(found, Raised) else ""
        return None if isinstance(found, Raised) else found

    def odd(self) -> dict[ObjectRef, tuple[Problem, ...]]:
        """Objects that by a defect stay as they were, and, once, those that do no more."""
        found: dict[ObjectRef, tuple[Problem, ...]] = {}
        for (kind, key), why in tuple(self._odd.items()):
            ref = self._object_of(kind, key)
            text = f"what is read of it is not taken: {why}; what it was stays"
            found[ref] = (Problem(str(ref), text, "report this as a defect"),) if why else ()
            if not why:
                del self._odd[kind, key]
        return found

    def failed(self) -> dict[str, str]:
        """Who failed by a defect and stays as he was, and how: units, askers for addresses."""
        found = {f"{one.unit} {one.key}": why for one, why in self.book.failed.items()}
        found |= {f"fact {kind.name} {key}": why for (kind, key), why in self._odd.items() if why}
        if self._gateways:
            found["gateways"] = f"a defect at {self._gateways}; they stay as they were"
        return found | {
            f"addresses {holder or 'of all'}": why for holder, why in self._allocator.faults.items()
        }

    def hold(self) -> Hold:
        """What stays in OVN, since by a defect nobody can say who wants it."""
        faulty = self._allocator.faults
        odd = [kind for (kind, _), why in self._odd.items() if why]
        return hold_of([*self.book.mute(), *odd]) | hold_of(
            None if one is None else PODS for one in faulty
        )

    @property
    def pending(self) -> int:
        """How much is to be computed, roughly: keys whose facts are others, units in doubt."""
        return self.book.pending + sum(map(len, self._changed.values()))

    def _put_given(self, given: Iterable[Fact]) -> None:
        for kind, key, fact in given:
            self.book.put(kind, key, fact)

    def _object_of(self, kind: Kind[Any], key: Hashable) -> ObjectRef:
        if kind is LEASES:
            lease = self.book.store.get(LEASES, key)
            if lease is not None and lease.pod.namespace:
                return ObjectRef("pods", lease.pod.namespace, lease.pod.name)
        resource = _RESOURCES.get(kind)
        where = str(resource) if resource is not None else kind.name
        if isinstance(key, Key):
            return ObjectRef(where, key.namespace, key.name)
        name = key if isinstance(key, str) else "/".join(map(str, _parts(key)))
        return ObjectRef(where, "", name)


def _parts(key: Hashable) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def grouped(facts: Mapping[Kind[Any], Mapping[Any, Any]]) -> tuple[Fact, ...]:
    """Facts by kind and key, one by one."""
    return tuple((kind, key, fact) for kind, found in facts.items() for key, fact in found.items())
