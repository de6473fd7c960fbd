"""Who has what several load balancer rows claim: a VIP, an identity, a health check's port.

Claims are kept by key, so that a changed row makes only the rows of its own keys be looked at
again. Whoever comes first by row name, then by the row's UUID, has it; what the others are told
names the first. The answer is a function of the rows, not of the order in which they came.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from controller.translate.ovn import Problem
from controller.translate.rowservices import RowServices
from controller.translate.vips import rank
from dataplane.model.addr import IPAddress, L4Addr, Protocol
from dataplane.model.service import ServedBy, Service


@dataclass(frozen=True, slots=True)
class _Vip:
    """Key of those who claim one VIP."""

    vip: L4Addr


@dataclass(frozen=True, slots=True)
class _NodePort:
    """Key of those who claim a port of the node's own addresses, of all or of one."""

    protocol: Protocol
    version: int
    port: int


@dataclass(frozen=True, slots=True)
class _Identity:
    """Key of the services that share a service port's backends, affinity and statistics."""

    port_key: str
    version: int


@dataclass(frozen=True, slots=True)
class _HealthPort:
    """Key of those who want a health check's port, and of the node ports that would take it."""

    port: int


@dataclass(frozen=True, slots=True)
class _Claim:
    """One service of one row."""

    ref: str
    row: RowServices
    service: Service

    def order(self) -> tuple[str, str, tuple[int, int, bytes, int]]:
        return self.row.label, self.ref, rank(self.service.vip)


_Group = dict[tuple[str, L4Addr], _Claim]


def owner_of(port_key: str) -> str:
    """The service that a service port belongs to: "namespace/name" of "namespace/name:port"."""
    name, colon, port = port_key.rpartition(":")
    return name if colon and "/" in name and "/" not in port else port_key


class Claims:
    """All rows' services. `node_addresses`: those for which a node port's VIP may stand."""

    def __init__(self, node_addresses: Collection[IPAddress] = ()) -> None:
        self._node_addresses = frozenset(node_addresses)
        self._rows: dict[str, RowServices] = {}
        self._groups: dict[Hashable, _Group] = {}
        self._settled: dict[str, RowServices] = {}
        self._faulty: set[str] = set()
        self._health: set[_HealthPort] = set()

    def update(self, rows: Mapping[str, RowServices | None]) -> frozenset[str]:
        """Take these rows over (None: the row is gone); the rows whose outcome changed by it."""
        touched: set[Hashable] = set()
        for ref, row in rows.items():
            touched |= self._forget(ref)
            if row is not None:
                self._rows[ref] = row
                for claim in _claims(ref, row):
                    for key in self._keys(claim.service):
                        self._groups.setdefault(key, {})[ref, claim.service.vip] = claim
                        touched.add(key)
                        if isinstance(key, _HealthPort):
                            self._health.add(key)
        concerned = set(rows)
        for key in touched:
            concerned.update(ref for ref, _ in self._groups.get(key, ()))
        return frozenset(self._settle(concerned))

    def row(self, ref: str) -> RowServices | None:
        """What one row comes to beside the others; None if it is not there."""
        return self._settled.get(ref)

    def rows(self) -> tuple[RowServices, ...]:
        """What all rows come to, by UUID: in the same order on every start."""
        return tuple(self._settled[ref] for ref in sorted(self._settled))

    def by_ref(self) -> dict[str, RowServices]:
        """The same by UUID."""
        return dict(self._settled)

    def services(self) -> tuple[Service, ...]:
        """All services, by VIP."""
        found = [service for row in self.rows() for service in row.services]
        return tuple(sorted(found, key=lambda s: (rank(s.vip), s.name, s.reason, s.port_key)))

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the rows and between them, sorted."""
        return tuple(sorted(p for ref in self._faulty for p in self._settled[ref].problems))

    def with_health_port(self) -> tuple[Service, ...]:
        """The services that a health check is asked for, by row."""
        refs = {ref for key in self._health for ref, _ in self._groups[key]}
        rows = (self._settled[ref] for ref in sorted(refs))
        return tuple(s for row in rows for s in row.services if s.health_port is not None)

    def _forget(self, ref: str) -> set[Hashable]:
        row = self._rows.pop(ref, None)
        touched: set[Hashable] = set()
        for claim in _claims(ref, row) if row else ():
            for key in self._keys(claim.service):
                touched.add(key)
                group = self._groups.get(key, {})
                group.pop((ref, claim.service.vip), None)
                if not group:
                    self._groups.pop(key, None)
                    self._health -= {key}
        return touched

    def _keys(self, service: Service) -> Iterator[Hashable]:
        vip_key = self._vip_key(service.vip)
        yield vip_key
        yield _Identity(service.port_key, service.vip.address.version)
        if isinstance(vip_key, _NodePort) and vip_key.protocol is Protocol.TCP:
            yield _HealthPort(vip_key.port)
        if service.health_port is not None:
            yield _HealthPort(service.health_port)

    def _vip_key(self, vip: L4Addr) -> Hashable:
        address = vip.address
        if address.is_unspecified or address in self._node_addresses:
            return _NodePort(vip.protocol, address.version, vip.port)
        return _Vip(vip)

    def _settle(self, concerned: Iterable[str]) -> Iterator[str]:
        """Look at these rows again; those whose outcome is another than before."""
        verdicts = _Verdicts(self._groups)
        for ref in concerned:
            before = self._settled.get(ref)
            row = self._rows.get(ref)
            if row is None:
                self._settled.pop(ref, None)
                self._faulty.discard(ref)
                if before is not None:
                    yield ref
                continue
            after = self._outcome(ref, row, verdicts)
            if after == before:
                continue
            self._settled[ref] = after
            (self._faulty.add if after.problems else self._faulty.discard)(ref)
            yield ref

    def _outcome(self, ref: str, row: RowServices, verdicts: _Verdicts) -> RowServices:
        services: list[Service] = []
        problems = list(row.problems)
        for service in row.services:
            if service.served_by is not ServedBy.XDP:
                services.append(service)
                continue
            claim = _Claim(ref, row, service)
            settled, found = verdicts.of(claim, self._vip_key(service.vip))
            services.append(settled)
            problems += found
        if len(problems) == len(row.problems) and services == list(row.services):
            return row
        return replace(row, services=tuple(services), problems=tuple(dict.fromkeys(problems)))


def _claims(ref: str, row: RowServices) -> Iterator[_Claim]:
    """What XDP is to serve; what it is not claims nothing."""
    for service in row.services:
        if service.served_by is ServedBy.XDP:
            yield _Claim(ref, row, service)


class _Verdicts:
    """Decides groups of claims, each once."""

    def __init__(self, groups: Mapping[Hashable, _Group]) -> None:
        self._groups = groups
        self._orders: dict[Hashable, list[_Claim]] = {}
        self._rivals: dict[Hashable, dict[tuple[str, L4Addr], _Claim]] = {}

    def of(self, claim: _Claim, vip_key: Hashable) -> tuple[Service, list[Problem]]:
        """The service as the others leave it, and what is wrong between them."""
        service = claim.service
        title = f"load balancer {claim.row.label}"
        rival = self._rivals_in(vip_key).get((claim.ref, service.vip))
        if rival is not None:
            cause = _taken(service.vip, rival)
            problem = Problem(
                f"{title}, VIP {service.vip}", f"refused: {cause}", "remove one of the two"
            )
            lost = replace(
                service, served_by=ServedBy.NOBODY, reason=f"refused: {cause}", health_port=None
            )
            return lost, [problem]
        problems: list[Problem] = []
        identity = _Identity(service.port_key, service.vip.address.version)
        other = self._other_port(claim, self._order(identity))
        if other is not None:
            reason = (
                f"{service.reason}; backends or source ranges are not those of {other.service.vip} "
                f"of load balancer {other.row.label}, so it is no part of {service.port_key}"
            )
            own = f"{service.port_key} {service.vip}"
            service = replace(service, port_key=own, reason=reason)
        if taken := self._no_health_check(claim):
            reason = f"{service.reason}; {taken}: no health check"
            service = replace(service, health_port=None, reason=reason)
            problems.append(Problem(title, f"no health check: {taken}", "choose another port"))
        return service, problems

    def _order(self, key: Hashable) -> list[_Claim]:
        found = self._orders.get(key)
        if found is None:
            found = self._orders[key] = sorted(self._groups[key].values(), key=_Claim.order)
        return found

    def _rivals_in(self, key: Hashable) -> Mapping[tuple[str, L4Addr], _Claim]:
        """Those of a group who lose, with whom they lose to."""
        found = self._rivals.get(key)
        if found is None:
            found = self._rivals[key] = {}
            accepted: dict[IPAddress, _Claim] = {}
            for claim in self._order(key):
                rival = _overlapping(claim.service.vip.address, accepted)
                if rival is None:
                    accepted[claim.service.vip.address] = claim
                else:
                    found[claim.ref, claim.service.vip] = rival
        return found

    def _no_health_check(self, claim: _Claim) -> str | None:
        """Why its health check's port is another's, if so."""
        port = claim.service.health_port
        if port is None:
            return None
        order = self._order(_HealthPort(port))
        for other in order:
            if other.service.health_port != port:  # packets to a node port never reach the kernel
                return f"health check port {port} is a node port of load balancer {other.row.label}"
        holder = owner_of(order[0].service.port_key)
        if owner_of(claim.service.port_key) != holder:
            return f"health check port {port} is {holder}'s already"
        return None

    @staticmethod
    def _other_port(claim: _Claim, order: list[_Claim]) -> _Claim | None:
        """The first of its identity, if this one's facts are not the same."""
        first = order[0]
        if claim.service.backends != first.service.backends:
            return first
        ranges = claim.service.source_ranges
        ranged = next((c for c in order if c.service.source_ranges), None) if ranges else None
        return ranged if ranged is not None and ranged.service.source_ranges != ranges else None


def _overlapping(address: IPAddress, accepted: Mapping[IPAddress, _Claim]) -> _Claim | None:
    """Who has that address, of this group of one port, already."""
    if address.is_unspecified:
        return next(iter(accepted.values()), None)
    same = accepted.get(address)
    return same or next((c for a, c in accepted.items() if a.is_unspecified), None)


def _taken(vip: L4Addr, rival: _Claim) -> str:
    of = f"load balancer {rival.row.label}"
    if rival.service.vip == vip:
        return f"{of} has the same VIP, and is served by XDP"
    return f"{of} has {rival.service.vip}, which overlaps it, and is served by XDP"
