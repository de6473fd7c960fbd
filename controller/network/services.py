"""Services and their EndpointSlices to load balancer rows that the node daemons serve.

A row is one service port and one kind of address, in the form of docs/services.md: marked for the
fast path and attached to nothing. Endpoints are in no other row than their own service's, so one
slice's change writes its service's rows. Where OVN serves workloads (`controller.network.eastwest`)
the rows of cluster IPs are in a group for each VPC, which its switches have.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from controller.kube.resources import Key
from controller.network.backends import Targets, facts_of, listed, spelt, usable
from controller.network.eastwest import by_ovn
from controller.network.elsewhere import elsewhere
from controller.network.local_lb import UNITS as LOCAL_UNITS
from controller.network.local_lb import (
    is_template,
    targets_of,
    template_keys,
    template_rows,
)
from controller.network.pools import GIVEN
from controller.network.rows import Row, RowKey, Value, pairs
from controller.network.servicefacts import (
    FORWARDING_ANNOTATION,
    SERVICES,
    SWITCH_VIP_ANNOTATION,
    VPC_ANNOTATION,
    WEIGHTS_ANNOTATION,
    NetService,
    NetServicePort,
)
from controller.network.switch_lb import STICKY, rules_of
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import Derived, View
from controller.translate import vips as texts
from controller.translate.endpoints import MAX_WEIGHT
from controller.translate.ovn import Problem
from controller.translate.terms import MAX_AFFINITY_S
from controller.translate.vips import Fault
from dataplane.model import names
from dataplane.model.addr import IPAddress, L4Addr
from dataplane.model.service import Forwarding, ServiceKind

TABLE = "Load_Balancer"
OVN_AFFINITY_S = 65535
"""The most that OVN 23.03 keeps a client with its backend [s]."""

_EVERY = {4: ip_address("0.0.0.0"), 6: ip_address("::")}
_OUTSIDE = (ServiceKind.NODE_PORT, ServiceKind.LOAD_BALANCER, ServiceKind.EXTERNAL_IP)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What all rows of a service share; `switch`: OVN serves workloads, and picks from all."""

    service: NetService
    weights: tuple[tuple[str, int], ...]
    forwarding: str | None
    switch: bool


class _Doubts:
    """What is wrong with one service, as it is found."""

    def __init__(self, service: NetService) -> None:
        self.title = f"service {service.namespace}/{service.name}"
        self.found: list[Problem] = []

    def say(self, cause: str, next_step: str) -> None:
        """Note one thing."""
        self.found.append(Problem(self.title, cause, next_step))

    def fault(self, what: str, fault: Fault) -> None:
        """Note what a reader found wrong with a text."""
        self.say(f"{what}: {fault.cause}", fault.next_step)


def compute(view: View, key: Hashable) -> Said:
    """The rows of one service, and its addresses if a pool gave it some."""
    service = view.get(SERVICES, key)
    if service is None:
        return Said()
    ref = ObjectRef("services", service.namespace, service.name)
    doubts = _Doubts(service)
    given = view.ask(GIVEN, key)
    doubts.found += given.problems
    writes = {}
    if given.ingress is not None:
        # With the mode that the API would put there; what has none any more loses the field.
        ingress = [{"ip": ip, "ipMode": "VIP"} for ip in given.ingress] or None
        writes[ref] = Wanted(status={"loadBalancer": {"ingress": ingress}})
    rows: dict[RowKey, Row] = {}
    if not service.headless:
        terms = _terms(service, doubts, switch=by_ovn(view, key))
        vips = {kind: _vips(service, kind, given.addresses, doubts) for kind in _kinds(service)}
        if is_template(view, service):
            rows |= template_rows(service)
        behind = {port: targets_of(view, key, port) for port in service.ports}
        if away := elsewhere(view, service, behind.values()):
            doubts.say(
                f"{away}: who asks for the service looks for that in VPC {service.vpc}",
                f"write a SwitchLBRule there, or name its VPC in {VPC_ANNOTATION}",
            )
        for port, targets in behind.items():
            for kind, addresses in vips.items():
                row = _row(terms, port, kind, addresses, targets, doubts)
                if row is not None:
                    rows[_row_key(service, port, kind)] = row
            if SWITCH_VIP_ANNOTATION in service.annotations:
                row = _switch_row(terms, port, targets, doubts)
                if row is not None:
                    rows[_switch_key(service, port)] = row
    found = tuple(dict.fromkeys(doubts.found))
    return Said(rows, writes, {ref: found} if found else {})


def _kinds(service: NetService) -> Iterator[ServiceKind]:
    yield ServiceKind.CLUSTER_IP
    if service.type in ("NodePort", "LoadBalancer"):
        yield ServiceKind.NODE_PORT
    if service.type == "LoadBalancer":
        yield ServiceKind.LOAD_BALANCER
    if service.external_ips:
        yield ServiceKind.EXTERNAL_IP


def _row_key(service: NetService, port: NetServicePort, kind: ServiceKind) -> RowKey:
    where = f"{service.namespace}/{service.name}/{port.label}/{port.protocol}/{kind}"
    return RowKey(TABLE, f"service/{where}")


def _terms(service: NetService, doubts: _Doubts, *, switch: bool) -> _Terms:
    forwarding = service.annotations.get(FORWARDING_ANNOTATION)
    if forwarding is not None and forwarding not in set(Forwarding):
        allowed = " or ".join(sorted(Forwarding))
        doubts.say(f"{FORWARDING_ANNOTATION} is {forwarding!r}: void", f"write {allowed}")
        forwarding = None
    if switch and service.affinity_s > OVN_AFFINITY_S:
        doubts.say(
            f"its affinity of {service.affinity_s} s ends after {OVN_AFFINITY_S} s for workloads "
            "behind OVN, which serves them here (east_west)",
            'lower sessionAffinityConfig.clientIP.timeoutSeconds, or set east_west to "svc0"',
        )
    return _Terms(service, _weights(service, doubts), forwarding, switch)


def _weights(service: NetService, doubts: _Doubts) -> tuple[tuple[str, int], ...]:
    """Patterns of pods' names and their weights, in the annotation's order: the first counts."""
    found = []
    for part in texts.parts(service.annotations.get(WEIGHTS_ANNOTATION, "")):
        pattern, _, number = part.partition("=")
        text = number.strip()
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_WEIGHT):
            doubts.say(
                f"{WEIGHTS_ANNOTATION}: {part!r} is no weight: void",
                f"write web-0=9,web-*=1, weights from 1 to {MAX_WEIGHT}",
            )
            continue
        found.append((pattern.strip(), int(text)))
    return tuple(found)


# -- addresses ------------------------------------------------------------------------------------


def _vips(
    service: NetService, kind: ServiceKind, given: Sequence[str], doubts: _Doubts
) -> tuple[IPAddress, ...]:
    """The addresses of one kind; those of a node port stand for every address of a node."""
    if kind is ServiceKind.NODE_PORT:
        families = {a.version for a in _addresses(service.cluster_ips, doubts, "clusterIPs")}
        return tuple(_EVERY[version] for version in sorted(families))
    if kind is ServiceKind.CLUSTER_IP:
        return _addresses(service.cluster_ips, doubts, "clusterIPs")
    if kind is ServiceKind.LOAD_BALANCER:
        return _addresses(given, doubts, "status.loadBalancer.ingress")
    balanced = set(given) if service.type == "LoadBalancer" else set()
    mine = [text for text in service.external_ips if text not in balanced]
    return _addresses(mine, doubts, "externalIPs")


def _addresses(found: Iterable[str], doubts: _Doubts, where: str) -> tuple[IPAddress, ...]:
    addresses = []
    for text in dict.fromkeys(found):
        try:
            address = ip_address(text)
        except ValueError:
            doubts.say(f"{where}: {text!r} is no address", "correct it; the others are served")
            continue
        fault = texts.vip_fault(_at("tcp", address, 1), ServiceKind.CLUSTER_IP)
        if fault is not None:
            doubts.fault(f"{where}: {text}", fault)
            continue
        addresses.append(address)
    return tuple(addresses)


def _at(protocol: str, address: IPAddress, port: int) -> L4Addr:
    return L4Addr(texts.PROTOCOLS[protocol], address, port)


def _usable(terms: _Terms, targets: Targets, version: int) -> list[tuple[IPAddress, int]]:
    not_ready_too = terms.service.not_ready_too
    return usable(targets, version, not_ready_too=not_ready_too, by_ovn=terms.switch)


# -- one row --------------------------------------------------------------------------------------


def _row(
    terms: _Terms,
    port: NetServicePort,
    kind: ServiceKind,
    addresses: Sequence[IPAddress],
    targets: Targets,
    doubts: _Doubts,
) -> Row | None:
    """None: there is no such address, or the port cannot be."""
    number = port.node_port if kind is ServiceKind.NODE_PORT else port.port
    if not addresses or (kind is ServiceKind.NODE_PORT and not number):
        return None
    if port.protocol not in texts.PROTOCOLS or not 1 <= number <= 65535:
        doubts.say(
            f"port {port.label}: {port.protocol.upper()} {number} cannot be served",
            "use TCP, UDP or SCTP, and a port from 1 to 65535",
        )
        return None
    service, ranges = terms.service, ""
    if kind is ServiceKind.LOAD_BALANCER and service.source_ranges:
        admitted = _ranges(service, addresses, doubts)
        if admitted is None:
            return None
        addresses, ranges = admitted
    values: dict[str, str] = {}
    facts: dict[str, dict[str, object]] = {}
    for address in addresses:
        mine = _usable(terms, targets, address.version)
        values[spelt(address, number)] = listed(mine)
        for at in mine:
            if said := facts_of(targets[at], terms.weights):
                facts[spelt(*at)] = said
    ids: dict[str, object] = {
        names.FAST_PATH_KEY: "true",
        names.KIND_KEY: kind,
        names.SERVICE_KEY: f"{service.namespace}/{service.name}:{port.label}",
    }
    if ranges:
        ids[names.SOURCE_RANGES_KEY] = ranges
    if facts:
        ids[names.ENDPOINTS_KEY] = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    if service.not_ready_too:
        ids[names.NOT_READY_KEY] = "true"
    if kind is ServiceKind.CLUSTER_IP and service.internal_local:
        ids[names.INTERNAL_POLICY_KEY] = "local"
    if kind in _OUTSIDE and service.external_local:
        ids[names.TRAFFIC_POLICY_KEY] = "local"
        # On every kind of row, so that it is answered before a pool gave an address.
        if service.health_port:
            ids[names.HEALTH_PORT_KEY] = service.health_port
    if kind in (ServiceKind.LOAD_BALANCER, ServiceKind.EXTERNAL_IP) and terms.forwarding:
        ids[names.FORWARDING_KEY] = terms.forwarding
    options: dict[str, object] = {names.REJECT_OPTION: "true"}
    if service.affinity_s:
        options[names.AFFINITY_OPTION] = min(service.affinity_s, MAX_AFFINITY_S)
    return Row(
        {
            "name": f"{service.namespace}/{service.name}:{port.label}/{port.protocol}/{kind}",
            "protocol": port.protocol,
            "vips": pairs(values),
            "options": pairs(options),
            "external_ids": pairs(ids),
        }
    )


def _ranges(
    service: NetService, addresses: Sequence[IPAddress], doubts: _Doubts
) -> tuple[list[IPAddress], str] | None:
    """The addresses that somebody may come to, and who may; None: the row cannot be.

    A range that cannot be read closes the service: without it, it might let in whom it should not.
    """
    found = []
    for text in service.source_ranges:
        network = texts.network(text.strip())
        if isinstance(network, Fault):
            doubts.fault("loadBalancerSourceRanges closes its load balancer addresses", network)
            return None
        found.append(network)
    versions = {network.version for network in found}
    served = [address for address in addresses if address.version in versions]
    for address in addresses:
        if address not in served:
            doubts.say(
                f"loadBalancerSourceRanges has no network of IPv{address.version}: {address} is "
                "not served",
                f"add one; {'0.0.0.0/0' if address.version == 4 else '::/0'} admits everybody",
            )
    if not served:
        return None
    mine = {address.version for address in served}
    return served, ",".join(sorted({str(one) for one in found if one.version in mine}))


# -- what OVN serves ------------------------------------------------------------------------------


def _inside(view: View, key: Hashable) -> tuple[tuple[RowKey, bool], ...]:
    """The rows of a service that a VPC's switches may have; no endpoint has a part in them.

    True: whoever serves cluster IPs.
    """
    service = view.get(SERVICES, key)
    if service is None or service.headless:
        return ()
    template = is_template(view, service)
    found = [(row, False) for row in template_keys(service) if template]
    for port in service.ports:
        if port.protocol in texts.PROTOCOLS:
            if service.cluster_ips and not template:
                found.append((_row_key(service, port, ServiceKind.CLUSTER_IP), False))
            if service.annotations.get(SWITCH_VIP_ANNOTATION):
                found.append((_switch_key(service, port), True))
    return tuple(found)


INSIDE_ROWS: Derived[tuple[tuple[RowKey, bool], ...]] = Derived(
    "rows of a service for switches", _inside
)


def balancers_of(view: View, vpc: str) -> frozenset[RowKey]:
    """The rows of services and of rules that OVN serves to a VPC's workloads."""
    services: tuple[Key, ...] = view.by(SERVICES, "vpc", vpc)
    return rules_of(view, vpc) | {
        row
        for key in services
        for row, always in view.ask(INSIDE_ROWS, key)
        if always or by_ovn(view, key)
    }


def _switch_key(service: NetService, port: NetServicePort) -> RowKey:
    where = f"{service.namespace}/{service.name}/{port.label}/{port.protocol}/switch"
    return RowKey(TABLE, f"service/{where}")


def _switch_row(
    terms: _Terms, port: NetServicePort, targets: Targets, doubts: _Doubts
) -> Row | None:
    """The service at an address of its VPC's own (`switch_lb_vip`), which OVN alone serves."""
    wanted = texts.parts(terms.service.annotations.get(SWITCH_VIP_ANNOTATION, ""))
    if port.protocol not in texts.PROTOCOLS or not 1 <= port.port <= 65535:
        return None  # it is said of the cluster IP's row
    found = _addresses(wanted, doubts, SWITCH_VIP_ANNOTATION)
    terms = replace(terms, switch=True)
    values = {spelt(vip, port.port): listed(_usable(terms, targets, vip.version)) for vip in found}
    if not values:
        return None
    columns: dict[str, Value] = {
        "name": f"{terms.service.namespace}/{terms.service.name}:{port.label}/switch",
        "protocol": port.protocol,
        "vips": pairs(values),
        "options": pairs({names.REJECT_OPTION: "true"}),
        "selection_fields": STICKY if terms.service.affinity_s else frozenset(),
    }
    return Row(columns)


UNITS: tuple[Unit, ...] = (Unit("services", SERVICES, compute), *LOCAL_UNITS)
