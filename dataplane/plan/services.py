"""From services to the rows of the BPF maps: VIPs, sets of backends, backends, source ranges.

A service port of one family is one service id, whatever its addresses: all its VIPs share two
sets, of all usable backends and of those on this node. Which set a packet is given, and whether
the backend sees the client's address, are flags of the VIP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bpf.abi import Limit
from bpf.pick import member_key
from dataplane.model.addr import IPAddress, IPNetwork, L4Addr, Mac, Protocol
from dataplane.model.rows import (
    AddressFlag,
    BackendEntry,
    KnownAddress,
    SetEntry,
    SetScope,
    SourceRange,
    VipEntry,
    VipFlag,
)
from dataplane.model.service import (
    HERE,
    Backend,
    EndpointState,
    Forwarding,
    Place,
    ServedBy,
    Service,
    ServiceKind,
    TrafficPolicy,
)
from dataplane.model.state import HeldIds
from dataplane.plan.ids import allocate

PortKey = tuple[str, int]
"""A service port's identity and its family."""

NODE_KINDS = frozenset({ServiceKind.NODE_PORT, ServiceKind.HOST_PORT})
"""Kinds whose VIP may stand for every address of the node."""


@dataclass(frozen=True, slots=True)
class Vantage:
    """What a node's rows depend on beside the services.

    `node_ports`: the node's addresses that node ports are served at. `mtu`: of the path to a
    backend by its place [bytes, IP header included]. `routers`: the MAC of each chassis's gateway
    router on the provider network, for DSR.
    """

    node: str
    zone: str = ""
    node_ports: tuple[IPAddress, ...] = ()
    mtu: Mapping[Place, int] = field(default_factory=dict)
    routers: Mapping[str, Mac] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServiceTables:
    """Rows of the tables that come from services."""

    vips: dict[L4Addr, VipEntry] = field(default_factory=dict)
    sets: dict[tuple[int, SetScope], SetEntry] = field(default_factory=dict)
    backends: dict[int, BackendEntry] = field(default_factory=dict)
    source_ranges: dict[tuple[int, IPNetwork], SourceRange] = field(default_factory=dict)


def fast_services(services: Iterable[Service]) -> tuple[Service, ...]:
    """The services that XDP answers on this node, by VIP."""
    return tuple(sorted((s for s in services if s.served_by is ServedBy.XDP), key=lambda s: s.vip))


def socket_services(services: Iterable[Service]) -> tuple[Service, ...]:
    """The services that sockets of this node are served, where no packet's program runs."""
    return tuple(replace(s, served_by=ServedBy.XDP) for s in services if s.sockets_only)


def port_key(service: Service) -> PortKey:
    """What its VIPs of one family share an id by."""
    return service.port_key or service.name, service.vip.address.version


def _serving(backends: Sequence[Backend]) -> tuple[Backend, ...]:
    """The ready ones; if there are none, those that terminate and still serve (KEP-1669)."""
    for state in (EndpointState.READY, EndpointState.TERMINATING):
        found = tuple(backend for backend in backends if backend.state is state)
        if found:
            return found
    return ()


def _near(backends: tuple[Backend, ...], node: str, zone: str) -> tuple[Backend, ...]:
    """Those that topology hints give this node; all, unless every one has hints and one is ours.

    Source: Kubernetes, "Topology Aware Routing"; kube-proxy falls back silently.
    """
    if backends and all(backend.for_nodes for backend in backends):
        mine = tuple(backend for backend in backends if node in backend.for_nodes)
        if mine:
            return mine
    if zone and backends and all(backend.for_zones for backend in backends):
        mine = tuple(backend for backend in backends if zone in backend.for_zones)
        if mine:
            return mine
    return backends


def usable(service: Service) -> tuple[Backend, ...]:
    """The backends that the fast path can reach at all, sorted.

    Not SCTP's in this node's own network: the program that reverses the kernel's replies
    (bpf/progs/host.bpf.c) knows no SCTP.
    """
    sctp = service.vip.protocol is Protocol.SCTP
    return tuple(sorted(b for b in service.backends if not (sctp and b.place is Place.HOST)))


def sets_of(service: Service, vantage: Vantage) -> dict[SetScope, tuple[Backend, ...]]:
    """The backends of both sets of a service port; each looks for its ready ones itself."""
    reachable = usable(service)
    local = tuple(backend for backend in reachable if backend.place in HERE)
    if service.kind is ServiceKind.HOST_PORT:
        reachable = local
    return {
        SetScope.CLUSTER: _near(_serving(reachable), vantage.node, vantage.zone),
        SetScope.LOCAL: _serving(local),
    }


def local_backends(service: Service, vantage: Vantage) -> tuple[Backend, ...]:
    """Backends on this node whose replies have to be led to svc0, though not sent to its address.

    Those of services that keep the client's address: policy Local, and DSR, by which another node
    hands packets over. What OVN has nothing to do with (Place.HOST) is not among them.
    """
    if not flags_of(service) & VipFlag.SNAT or service.forwarding is Forwarding.DSR:
        local = tuple(backend for backend in usable(service) if backend.place is Place.LOCAL)
        return tuple(b for b in local if b.state is not EndpointState.UNREADY)
    return ()


def addresses_of(service: Service, vantage: Vantage) -> Iterator[L4Addr]:
    """The addresses at which this node serves a VIP.

    The unspecified address stays among them: sockets of this node find a node port by it, however
    they name the node (connect-time translation of loopback).
    """
    vip = service.vip
    yield vip
    if vip.address.is_unspecified and service.kind in NODE_KINDS:
        for address in vantage.node_ports:
            if address.version == vip.address.version:
                yield L4Addr(vip.protocol, address, vip.port)


def flags_of(service: Service) -> VipFlag:
    """What a VIP's packets are to be done with."""
    flags = VipFlag.INNER_SNAT
    if service.kind is ServiceKind.CLUSTER_IP:
        # internalTrafficPolicy is for whoever comes to a cluster IP, also from outside.
        flags |= VipFlag.SNAT
        if service.inner_policy is TrafficPolicy.LOCAL:
            flags |= VipFlag.LOCAL | VipFlag.INNER_LOCAL
    elif service.policy is TrafficPolicy.LOCAL:
        flags |= VipFlag.LOCAL
    else:
        flags |= VipFlag.SNAT
        if service.forwarding is Forwarding.DSR:
            flags |= VipFlag.DSR
    if service.reject:
        flags |= VipFlag.REJECT
    if service.source_ranges:
        flags |= VipFlag.SOURCE_RANGES
    if service.affinity_s:
        flags |= VipFlag.AFFINITY
    if not all(backend.is_workload for backend in service.backends):
        flags |= VipFlag.HOSTS
    return flags


def backend_entry(backend: Backend, vantage: Vantage) -> BackendEntry:
    """A backend's row."""
    mac = vantage.routers.get(backend.chassis or "") if backend.place is Place.REMOTE else None
    return BackendEntry(backend.target, backend.place, vantage.mtu.get(backend.place, 0), mac)


def service_ids(services: Sequence[Service], held: HeldIds, vantage: Vantage) -> dict[PortKey, int]:
    """A service id for each service port, those that the maps hold being kept.

    Raises:
        OutOfIds: more service ports than the maps have room for.
    """
    keys: dict[PortKey, int | None] = {}
    kept: set[int] = set()
    for service in services:
        key = port_key(service)
        found = keys.get(key)
        for address in addresses_of(service, vantage) if found is None else ():
            number = held.services.get(address)
            if number is not None and number not in kept:
                found = number
                kept.add(number)
                break
        keys[key] = found
    known: dict[object, int] = {k: number for k, number in keys.items() if number is not None}
    # Numbers of VIPs that are gone are given out last: flows in progress may still refer to them.
    known.update({vip: n for vip, n in held.services.items() if n not in kept})
    given = allocate(known, list(keys), held.max_services)
    return {key: given[key] for key in keys}


def service_tables(services: Sequence[Service], held: HeldIds, vantage: Vantage) -> ServiceTables:
    """Rows for every service that XDP serves; ids that the kernel holds are kept.

    Raises:
        OutOfIds: more service ports or backends than the maps have room for.
    """
    fast = fast_services(services)
    numbers = service_ids(fast, held, vantage)
    chosen: dict[PortKey, dict[SetScope, tuple[Backend, ...]]] = {}
    for service in fast:
        chosen.setdefault(port_key(service), sets_of(service, vantage))
    backend_ids = allocate(
        held.backends,
        (b.target for sets in chosen.values() for found in sets.values() for b in found),
        held.max_backends,
    )
    tables = ServiceTables()
    for key, sets in chosen.items():
        for scope, found in sets.items():
            if found:
                tables.sets[numbers[key], scope] = set_entry(found, backend_ids)
            for backend in found:
                tables.backends[backend_ids[backend.target]] = backend_entry(backend, vantage)
    for service in fast:
        number = numbers[port_key(service)]
        row = VipEntry(number, flags_of(service), service.affinity_s)
        for address in addresses_of(service, vantage):
            tables.vips.setdefault(address, row)
        for network in service.source_ranges:
            tables.source_ranges[number, network] = SourceRange()
    return tables


def set_entry(backends: Iterable[Backend], ids: Mapping[L4Addr, int]) -> SetEntry:
    """A set's members, ordered as the programs want them."""
    members = [(ids[b.target], member_key(str(b.target)), b.weight) for b in backends]
    return SetEntry(tuple(sorted(members, key=lambda member: (member[1], member[0]))))


def known_addresses(
    own: Iterable[IPAddress], owned: Iterable[IPAddress], vips: Iterable[L4Addr]
) -> dict[IPAddress, KnownAddress]:
    """Rows of `known_addresses`: the node's own, the VIPs that it answers for, and all VIPs."""
    flags: dict[IPAddress, AddressFlag] = {}
    for address in own:
        flags[address] = flags.get(address, AddressFlag(0)) | AddressFlag.LOCAL
    for address in owned:
        flags[address] = flags.get(address, AddressFlag(0)) | AddressFlag.OWNED
    for vip in vips:
        if not vip.address.is_unspecified:
            flags[vip.address] = flags.get(vip.address, AddressFlag(0)) | AddressFlag.VIP
    return {address: KnownAddress(flag) for address, flag in flags.items()}


MAX_SERVICES = Limit.MAX_SERVICES - 1
"""Highest service id by default; id 0 is never given out."""

MAX_BACKENDS = Limit.MAX_BACKENDS - 1
