"""Services and their endpoints as facts, and how they are made of the API's objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from controller.kube.resources import Key
from controller.kube.structs import Endpoint, EndpointSlice, ForWhom, Service
from controller.network.settings import DEFAULT_VPC
from controller.network.view import Kind
from dataplane.model.addr import IPAddress
from dataplane.model.service import EndpointState

SLICE_SERVICE = "kubernetes.io/service-name"
"""The label by which a slice says whose it is."""

VPC_ANNOTATION = "ovn.kubernetes.io/vpc"
POOL_ANNOTATION = "millrace.dev/address-pool"
FROM_SUBNET_ANNOTATION = "ovn.kubernetes.io/service_external_ip_from_subnet"
SWITCH_VIP_ANNOTATION = "ovn.kubernetes.io/switch_lb_vip"
WEIGHTS_ANNOTATION = "millrace.dev/weights"
FORWARDING_ANNOTATION = "millrace.dev/forwarding"
VOID = {
    "ovn.kubernetes.io/router_lb_vip": "use an OvnDnatRule, or the type LoadBalancer",
    "ovn.kubernetes.io/attachmentprovider": "use addresses of a pool (docs/services.md)",
    "ovn.kubernetes.io/bgp": "announce addresses by a daemon of your own (docs/services.md)",
}
"""Annotations of Kube-OVN's that have no effect here, and what to use instead."""
_SUBNET = FROM_SUBNET_ANNOTATION
_READ = frozenset(
    {
        VPC_ANNOTATION,
        POOL_ANNOTATION,
        FROM_SUBNET_ANNOTATION,
        SWITCH_VIP_ANNOTATION,
        WEIGHTS_ANNOTATION,
        FORWARDING_ANNOTATION,
        *VOID,
    }
)


@dataclass(frozen=True, slots=True)
class NetServicePort:
    """One port of a service; `protocol` in lower case."""

    name: str
    protocol: str
    port: int
    node_port: int = 0

    @property
    def label(self) -> str:
        """What it is called beside its service: its name, or its number if it has none."""
        return self.name or str(self.port)


@dataclass(frozen=True, slots=True)
class NetService:
    """A service. Addresses are texts as the API has them: what is wrong with one is said of it.

    Attributes:
        created: creation time as text (RFC 3339 in UTC, so texts sort as times do).
        ingress: addresses in its status that nodes are to serve.
        affinity_s: [s]; 0: none.
    """

    namespace: str
    name: str
    type: str = "ClusterIP"
    created: str = ""
    uid: str = ""
    ports: tuple[NetServicePort, ...] = ()
    cluster_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    load_balancer_ip: str = ""
    load_balancer_class: str = ""
    ingress: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    affinity_s: int = 0
    internal_local: bool = False
    external_local: bool = False
    not_ready_too: bool = False
    health_port: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def vpc(self) -> str:
        """The VPC whose workloads reach it where OVN serves it."""
        return self.annotations.get(VPC_ANNOTATION) or DEFAULT_VPC

    @property
    def headless(self) -> bool:
        """Whether it has no address of its own."""
        return self.type == "ExternalName" or "None" in self.cluster_ips


@dataclass(frozen=True, slots=True)
class NetEndpoint:
    """One endpoint. `target` is the pod's name, if it is a pod; `zones` and `nodes` are hints."""

    address: IPAddress
    state: EndpointState = EndpointState.READY
    target: str = ""
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    node: str = ""


@dataclass(frozen=True, slots=True)
class NetSlice:
    """An EndpointSlice. `ports`: (name, protocol in lower case) to number."""

    service: Key
    ports: Mapping[tuple[str, str], int] = field(default_factory=dict)
    endpoints: tuple[NetEndpoint, ...] = ()


def _pool(_: object, service: NetService) -> tuple[str, ...]:
    if service.type != "LoadBalancer":
        return ()
    return (service.annotations.get(POOL_ANNOTATION, ""),)


SERVICES: Kind[NetService] = Kind(
    "services",
    {
        "vpc": lambda _, service: (service.vpc,),
        "pool": _pool,
        "subnet": lambda _, service: filter(None, (service.annotations.get(_SUBNET),)),
        "from_subnet": lambda _, service: (True,) if service.annotations.get(_SUBNET) else (),
    },
)
"""Keys are `Key(namespace, name)`. `pool` and `subnet`: whom they name for their addresses."""

SLICES: Kind[NetSlice] = Kind(
    "endpointslices",
    {
        "service": lambda _, part: (part.service,),
        "node": lambda _, part: {one.node for one in part.endpoints if one.node},
    },
)
"""Keys are `Key(namespace, name)`; `service` finds the slices of a service."""


def service_fact(service: Service) -> NetService:
    """A service as the network sees it."""
    meta, spec = service.metadata, service.spec
    config = spec.session_affinity_config
    affinity = config.client_ip.timeout_seconds if config is not None else 10800
    ports = tuple(
        NetServicePort(port.name, port.protocol.lower(), port.port, port.node_port)
        for port in spec.ports
    )
    return NetService(
        namespace=meta.namespace,
        name=meta.name,
        type=spec.type,
        created=meta.creation_timestamp or "",
        uid=meta.uid,
        ports=ports,
        cluster_ips=spec.cluster_ips or ((spec.cluster_ip,) if spec.cluster_ip else ()),
        external_ips=spec.external_ips,
        load_balancer_ip=spec.load_balancer_ip,
        load_balancer_class=spec.load_balancer_class,
        ingress=tuple(
            one.ip
            for one in service.status.load_balancer.ingress
            if one.ip and one.ip_mode != "Proxy"
        ),
        source_ranges=spec.load_balancer_source_ranges,
        affinity_s=affinity if spec.session_affinity == "ClientIP" else 0,
        internal_local=spec.internal_traffic_policy == "Local",
        external_local=spec.external_traffic_policy == "Local",
        not_ready_too=spec.publish_not_ready_addresses,
        health_port=spec.health_check_node_port,
        annotations={key: meta.annotations[key] for key in _READ & meta.annotations.keys()},
    )


def slice_fact(part: EndpointSlice) -> NetSlice | None:
    """A slice as the network sees it; None: it is of no service, or of names instead of addresses.

    A port without a number means every port, which no load balancer has: it is left out.
    """
    meta = part.metadata
    service = meta.labels.get(SLICE_SERVICE, "")
    if not service or part.address_type not in ("IPv4", "IPv6"):
        return None
    ports = {
        (port.name or "", (port.protocol or "TCP").lower()): port.port
        for port in part.ports or ()
        if port.port
    }
    found = (_endpoint(one) for one in part.endpoints or ())
    endpoints = tuple(one for one in found if one is not None)
    return NetSlice(Key(meta.namespace, service), ports, endpoints)


def _endpoint(one: Endpoint) -> NetEndpoint | None:
    """None: it has no address that is one. Of several the first counts (Kubernetes, Endpoint)."""
    try:
        address = ip_address((one.addresses or ())[0])
    except (IndexError, ValueError):
        return None
    said, hints, target = one.conditions, one.hints, one.target_ref
    ready = said.ready is not False
    serving = ready if said.serving is None else said.serving
    if ready:
        state = EndpointState.READY
    elif serving and said.terminating:
        state = EndpointState.TERMINATING
    else:
        state = EndpointState.UNREADY
    return NetEndpoint(
        address,
        state,
        target.name if target is not None and target.kind == "Pod" else "",
        _names(hints.for_zones) if hints is not None else (),
        _names(hints.for_nodes) if hints is not None else (),
        one.node_name or "",
    )


def _names(whom: Iterable[ForWhom] | None) -> tuple[str, ...]:
    return tuple(sorted({one.name for one in whom or () if one.name}))
