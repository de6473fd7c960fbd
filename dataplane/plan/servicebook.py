"""The rows of `dataplane.plan.services`, kept up change by change.

Among ten thousand services one changes at a time, and making all rows anew costs a second. A book
holds every row's services with the counts of what several share (a backend, an address, a reply
rule), so that a change makes only its own entries anew, and says which they are. Whatever the
history, its tables are those that `service_tables` gives for the same services and held ids
(tests/property/test_servicebook_laws.py).

Numbers are kept as there: a service port keeps its id, a new one takes that of a VIP whose port is
gone, and numbers of what went are given out last, until `settle` says that the maps do not hold
them any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dataplane.model.addr import IPAddress, IPNetwork, L4Addr
from dataplane.model.rows import AddressFlag, KnownAddress, SetScope, SourceRange, VipEntry
from dataplane.model.service import Backend, Service
from dataplane.model.state import HeldIds
from dataplane.plan.ids import Numbers, allocate
from dataplane.plan.owners import announced, candidates, owner
from dataplane.plan.served import Circumstances, Served
from dataplane.plan.services import (
    PortKey,
    ServiceTables,
    addresses_of,
    backend_entry,
    fast_services,
    flags_of,
    local_backends,
    port_key,
    service_ids,
    set_entry,
    sets_of,
)

Changes = dict[str, dict[Hashable, object]]
"""Table to key to row; None: the row goes."""

_Ref = tuple[str, int]
"""A row's UUID and the place of a service in it."""


@dataclass(slots=True)
class _Port:
    """A service port: its number, its services, and what is written for them."""

    number: int
    services: dict[_Ref, Service] = field(default_factory=dict)
    chosen: dict[SetScope, tuple[Backend, ...]] = field(default_factory=dict)
    ranges: frozenset[IPNetwork] = frozenset()

    def first(self) -> Service:
        return min(self.services.items(), key=_order)[1]


def _order(item: tuple[_Ref, Service]) -> tuple[L4Addr, str, str, _Ref]:
    ref, service = item
    return service.vip, service.name, service.reason, ref


class ServiceBook:
    """All services that one node's fast path serves.

    Args:
        rows: each row's services, by the row's UUID.
        around: what they are seen from; another one takes another book.

    Raises:
        OutOfIds: more service ports or backends than the maps have room for. (Also by `change`;
            the book is of no use after that.)
    """

    def __init__(self, rows: Mapping[str, Sequence[Service]], around: Circumstances) -> None:
        self.around = around
        self._vantage = around.vantage
        self._rows: dict[str, tuple[Service, ...]] = {}
        self._ports: dict[PortKey, _Port] = {}
        self._at: dict[L4Addr, dict[_Ref, Service]] = {}
        self._vips_of: Counter[IPAddress] = Counter()
        self._announced: dict[IPAddress, dict[_Ref, Service]] = {}
        self._uses: Counter[L4Addr] = Counter()
        self._unused: set[L4Addr] = set()
        self._replies: Counter[L4Addr] = Counter()
        self._own = frozenset(around.own)
        self._answered: set[IPAddress] = set()
        self._tables: dict[str, dict[Hashable, object]] = {
            name: {} for name in ("vips", "sets", "backends", "source_ranges", "known_addresses")
        }
        self._stale = {*self._tables, "replies"}
        self._copy = Served(ServiceTables(), {}, frozenset(), frozenset())
        self._changes: Changes = {}
        self._before: Changes = {}
        self._names: dict[int, str] | None = None
        held = around.held
        fast = {ref: fast_services(services) for ref, services in rows.items()}
        every = fast_services(service for found in fast.values() for service in found)
        # Allotted together, as `service_tables` does: then each number is the same as there.
        given = service_ids(every, held, self._vantage)
        self._left = dict(held.services)
        self._numbers = Numbers(held.max_services, given.values(), held.services.values())
        chosen: dict[PortKey, Iterable[Backend]] = {}
        for service in every:
            if (key := port_key(service)) not in chosen:
                found = sets_of(service, self._vantage).values()
                chosen[key] = [backend for members in found for backend in members]
        targets = (backend.target for found in chosen.values() for backend in found)
        self._ids = allocate(held.backends, targets, held.max_backends)
        self._gone = {t: n for t, n in held.backends.items() if t not in self._ids}
        self._backend_ids = Numbers(held.max_backends, self._ids.values(), self._gone.values())
        self._ports = {key: _Port(number) for key, number in given.items()}
        self.change(rows)
        for address in self._own:
            self._known(address)

    # -- questions ------------------------------------------------------------------------------

    def served(self) -> Served:
        """What the plan takes; tables that did not change are the same objects as last time."""
        if self._stale:
            before = self._copy
            made = {name: dict(rows) for name, rows in self._tables.items() if name in self._stale}
            old = before.tables
            self._copy = Served(
                ServiceTables(
                    made.get("vips", old.vips),  # type: ignore[arg-type]
                    made.get("sets", old.sets),  # type: ignore[arg-type]
                    made.get("backends", old.backends),  # type: ignore[arg-type]
                    made.get("source_ranges", old.source_ranges),  # type: ignore[arg-type]
                ),
                made.get("known_addresses", before.known),  # type: ignore[arg-type]
                frozenset(self._answered) if "known_addresses" in made else before.answered,
                frozenset(self._replies) if "replies" in self._stale else before.replies,
            )
            self._stale = set()
        return self._copy

    def names(self) -> Mapping[int, str]:
        """The service port of each id; the same object as long as none comes or goes."""
        if self._names is None:
            self._names = {port.number: key[0] for key, port in self._ports.items()}
        return self._names

    def held(self) -> HeldIds:
        """Ids as the maps hold them once the changes so far are applied."""
        vips: dict[L4Addr, int] = {}
        for vip, row in self._tables["vips"].items():
            if isinstance(vip, L4Addr) and isinstance(row, VipEntry):
                vips[vip] = row.service_id
        limits = self.around.held
        return HeldIds(
            {**self._left, **vips},
            {**self._gone, **self._ids},
            limits.max_services,
            limits.max_backends,
        )

    def settle(self) -> None:
        """The maps hold what the tables say and nothing else: old numbers mean nothing any more."""
        self._left.clear()
        self._gone.clear()
        self._numbers.settle()
        self._backend_ids.settle()

    # -- changes --------------------------------------------------------------------------------

    def change(self, rows: Mapping[str, Sequence[Service] | None]) -> Changes:
        """Take these rows' services over (None: the row is gone); the entries that differ by it."""
        self._changes, self._before = {}, {}
        addresses: set[L4Addr] = set()
        ports: set[PortKey] = set()
        for ref, services in rows.items():
            before = self._rows.pop(ref, ())
            after = fast_services(services or ())
            if before == after:
                if after:
                    self._rows[ref] = after
                continue
            for place, service in enumerate(before):
                self._remove((ref, place), service, addresses)
                ports.add(port_key(service))
            if after:
                self._rows[ref] = after
            for place, service in enumerate(after):
                self._add((ref, place), service, addresses)
                ports.add(port_key(service))
        gone = [key for key in ports if (port := self._ports.get(key)) and not port.services]
        for key in gone:
            self._close(self._ports.pop(key))
        if gone or not all(self._ports[key].number for key in ports - set(gone)):
            self._names = None
        self._number(ports - set(gone))
        fresh = self._choose(sorted(ports - set(gone), key=self._place))
        self._write_sets(fresh)
        for address in addresses:
            self._write_vip(address)
        for host in {address.address for address in addresses}:
            self._known(host)
        self._drop_backends()
        differing = {table: self._differing(table) for table in self._changes}
        return {table: found for table, found in differing.items() if found}

    def _differing(self, table: str) -> dict[Hashable, object]:
        """Without what was taken away and put back: a service port under another name."""
        before = self._before[table]
        return {k: row for k, row in self._changes[table].items() if row != before.get(k)}

    def _add(self, ref: _Ref, service: Service, addresses: set[L4Addr]) -> None:
        key = port_key(service)
        port = self._ports.get(key)
        if port is None:
            port = self._ports[key] = _Port(0)
        port.services[ref] = service
        for address in addresses_of(service, self._vantage):
            self._at.setdefault(address, {})[ref] = service
            addresses.add(address)
        for host in announced((service,)):
            self._announced.setdefault(host, {})[ref] = service
        for backend in local_backends(service, self._vantage):
            self._replies[backend.target] += 1
            self._stale.add("replies")

    def _remove(self, ref: _Ref, service: Service, addresses: set[L4Addr]) -> None:
        del self._ports[port_key(service)].services[ref]
        for address in addresses_of(service, self._vantage):
            self._at[address].pop(ref, None)
            addresses.add(address)
        for host in announced((service,)):
            self._announced[host].pop(ref, None)
            if not self._announced[host]:
                del self._announced[host]
        for backend in local_backends(service, self._vantage):
            self._replies[backend.target] -= 1
            if not self._replies[backend.target]:
                del self._replies[backend.target]
            self._stale.add("replies")

    def _close(self, port: _Port) -> None:
        self._numbers.give_back(port.number)
        for scope, found in port.chosen.items():
            self._put("sets", (port.number, scope), None)
            for backend in found:
                self._release(backend.target)
        for network in port.ranges:
            self._put("source_ranges", (port.number, network), None)

    def _place(self, key: PortKey) -> tuple[L4Addr, str, str, _Ref]:
        return min(map(_order, self._ports[key].services.items()))

    def _number(self, ports: Iterable[PortKey]) -> None:
        """Give numbers to service ports without one, first that of a VIP whose port is gone."""
        for key in sorted((k for k in ports if not self._ports[k].number), key=self._place):
            port = self._ports[key]
            for _, service in sorted(port.services.items(), key=_order):
                for address in addresses_of(service, self._vantage):
                    row = self._tables["vips"].get(address)
                    held = row.service_id if isinstance(row, VipEntry) else self._left.get(address)
                    if held is not None and not port.number and self._numbers.take_back(held):
                        port.number = held
            port.number = port.number or self._numbers.take()

    def _choose(self, keys: Sequence[PortKey]) -> list[tuple[_Port, dict[SetScope, bool]]]:
        """Choose sets anew, count backends; ports with the scopes whose members differ."""
        differing: list[tuple[_Port, dict[SetScope, bool]]] = []
        for key in keys:
            port = self._ports[key]
            chosen = sets_of(port.first(), self._vantage)
            scopes = {s: True for s in SetScope if chosen.get(s) != port.chosen.get(s)}
            for scope in scopes:
                for backend in chosen.get(scope, ()):
                    self._uses[backend.target] += 1
                for backend in port.chosen.get(scope, ()):
                    self._release(backend.target)
            port.chosen = chosen
            if scopes:
                differing.append((port, scopes))
            ranges = frozenset(n for s in port.services.values() for n in s.source_ranges)
            for network in port.ranges - ranges:
                self._put("source_ranges", (port.number, network), None)
            for network in ranges - port.ranges:
                self._put("source_ranges", (port.number, network), SourceRange())
            port.ranges = ranges
        return differing

    def _write_sets(self, ports: Iterable[tuple[_Port, dict[SetScope, bool]]]) -> None:
        for port, scopes in ports:
            for scope in scopes:
                found = port.chosen.get(scope, ())
                for backend in found:
                    number = self._id_of(backend.target)
                    self._put("backends", number, backend_entry(backend, self._vantage))
                row = set_entry(found, self._ids) if found else None
                self._put("sets", (port.number, scope), row)

    def _id_of(self, target: L4Addr) -> int:
        number = self._ids.get(target)
        if number is None:
            number = self._gone.pop(target, None)
            if number is None or not self._backend_ids.take_back(number):
                number = self._backend_ids.take()
            self._ids[target] = number
        return number

    def _release(self, target: L4Addr) -> None:
        self._uses[target] -= 1
        if not self._uses[target]:
            self._unused.add(target)

    def _drop_backends(self) -> None:
        """After the sets, so that a backend that moves from one to another keeps its number."""
        unused, self._unused = self._unused, set()
        for target in unused:
            if self._uses[target]:
                continue
            del self._uses[target]
            number = self._ids.pop(target, None)
            if number is not None:
                self._backend_ids.give_back(number)
                self._gone[target] = number
                self._put("backends", number, None)

    def _write_vip(self, address: L4Addr) -> None:
        claims = self._at.get(address)
        before = self._tables["vips"].get(address)
        row: VipEntry | None = None
        if claims:
            service = min(claims.items(), key=_order)[1]
            number = self._ports[port_key(service)].number
            row = VipEntry(number, flags_of(service), service.affinity_s)
            self._left.pop(address, None)
        else:
            self._at.pop(address, None)
            if isinstance(before, VipEntry):
                self._left[address] = before.service_id
        if (row is None) != (before is None):
            self._vips_of[address.address] += 1 if before is None else -1
        self._put("vips", address, row)

    def _known(self, host: IPAddress) -> None:
        flags = AddressFlag.LOCAL if host in self._own else AddressFlag(0)
        if self._vips_of[host] and not host.is_unspecified:
            flags |= AddressFlag.VIP
        if not self._vips_of[host]:
            del self._vips_of[host]
        services = self._announced.get(host)
        self._answered.discard(host)
        announcers = self.around.announcers
        if services and announcers is not None and self._vantage.node in announcers:
            able = candidates(list(services.values()), announcers)
            if owner(host, able) == self._vantage.node:
                self._answered.add(host)
                flags |= AddressFlag.OWNED
        self._put("known_addresses", host, KnownAddress(flags) if flags else None)

    def _put(self, table: str, key: Hashable, row: object) -> None:
        rows = self._tables[table]
        before = rows.get(key)
        if before == row:
            return
        self._before.setdefault(table, {}).setdefault(key, before)
        if row is None:
            del rows[key]
        else:
            rows[key] = row
        self._stale.add(table)
        self._changes.setdefault(table, {})[key] = row
