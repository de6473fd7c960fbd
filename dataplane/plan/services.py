"""From services to the rows of the BPF maps: VIPs, Maglev tables and backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dataplane.model.addr import L4Addr
from dataplane.model.rows import BackendEntry, MaglevTable, VipEntry, VipFlag
from dataplane.model.service import Backend, Place, ServedBy, Service, TrafficPolicy
from dataplane.model.state import HeldIds
from dataplane.plan.ids import allocate
from dataplane.plan.maglev import maglev_table

MAX_SERVICES = 16_383
"""Highest service id; id 0 is never given out (equal to abi.h's capacity less one)."""

MAX_BACKENDS = 65_535


@dataclass(frozen=True, slots=True)
class ServiceTables:
    """Rows of the tables `vips`, `maglev` and `backends`."""

    vips: dict[L4Addr, VipEntry]
    maglev: dict[int, MaglevTable]
    backends: dict[int, BackendEntry]


def usable(service: Service) -> tuple[Backend, ...]:
    """The backends that the fast path may send this service's packets to, sorted.

    Under Local policy only those on this node. Never one in a host's own network: its replies
    would leave through the kernel, past the program that has to reverse them.
    """
    return tuple(
        sorted(
            backend
            for backend in service.backends
            if backend.place is not Place.HOST
            and (service.policy is TrafficPolicy.CLUSTER or backend.place is Place.LOCAL)
        )
    )


def fast_services(services: Sequence[Service]) -> tuple[Service, ...]:
    """The services that XDP answers on this node, by VIP."""
    return tuple(sorted((s for s in services if s.served_by is ServedBy.XDP), key=lambda s: s.vip))


def service_tables(services: Sequence[Service], held: HeldIds) -> ServiceTables:
    """Rows for every service that XDP serves; ids that the kernel holds are kept.

    Raises:
        OutOfIds: more services or backends than the maps have room for.
    """
    fast = fast_services(services)
    chosen = {service.vip: usable(service) for service in fast}
    service_ids = allocate(held.services, (s.vip for s in fast), MAX_SERVICES)
    backend_ids = allocate(
        held.backends,
        (backend.target for service in fast for backend in chosen[service.vip]),
        MAX_BACKENDS,
    )
    vips: dict[L4Addr, VipEntry] = {}
    maglev: dict[int, MaglevTable] = {}
    backends: dict[int, BackendEntry] = {}
    for service in fast:
        number = service_ids[service.vip]
        flags = VipFlag.SNAT if service.policy is TrafficPolicy.CLUSTER else VipFlag(0)
        members = [(backend_ids[b.target], b.target) for b in chosen[service.vip]]
        if members:
            maglev[number] = MaglevTable(maglev_table(members))
        else:
            flags |= VipFlag.NO_BACKEND
        vips[service.vip] = VipEntry(number, flags)
        for backend in chosen[service.vip]:
            backends[backend_ids[backend.target]] = BackendEntry(backend.target, backend.place)
    return ServiceTables(vips, maglev, backends)
