"""What is read of each built-in kind: only the fields that somebody here uses.

Partial structs are what makes ten thousand pods cheap: everything else in the JSON is skipped, not
built. They are frozen, and kept away from the garbage collector, since nothing in them can be part
of a cycle. Fields that the API may leave out have defaults; a null counts as absent where the API
may send one. Add a field here when you need one.
"""

from __future__ import annotations

from sys import intern
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType, field

SHORT = 63
"""A label's longest value."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Read(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """The base of all that is read."""


class Owner(Read, frozen=True):
    """An entry of ownerReferences."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Meta(Read, frozen=True):
    """metadata, without managedFields and without kubectl's copy of the object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[Owner, ...] = ()

    def __post_init__(self) -> None:
        # A second copy of the object as text: often the largest part of it, and never used.
        self.annotations.pop(LAST_APPLIED, None)
        # Values that thousands of objects have, a subnet's name for instance, once.
        for mapping in (self.annotations, self.labels):
            for key, value in mapping.items():
                if len(value) <= SHORT:
                    mapping[key] = intern(value)


class StatusDetails(Read, frozen=True):
    """v1 StatusDetails."""

    retry_after_seconds: int | None = None


class Status(Read, frozen=True):
    """v1 Status: why a request was refused, or what a watch ended with."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: StatusDetails | None = None

    @property
    def retry_after(self) -> int | None:
        """When the server wants to be asked again [s], if it says so."""
        return (self.details.retry_after_seconds or None) if self.details is not None else None


class HasMeta(Protocol):
    """Every kind that can be watched."""

    @property
    def metadata(self) -> Meta:
        """Metadata."""


class Bare(Read, frozen=True):
    """Any object, of which only the metadata is wanted."""

    metadata: Meta = Meta()


class ConfigMap(Read, frozen=True):
    """v1 ConfigMap."""

    metadata: Meta = Meta()
    data: dict[str, str] = {}


class Requirement(Read, frozen=True):
    """An expression of a label selector."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class LabelSelector(Read, frozen=True):
    """A label selector; an empty one selects everything."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()


class ContainerPort(Read, frozen=True):
    """A port of a container that has a name by which policies and services find it."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(Read, frozen=True):
    """A container of a pod."""

    name: str = ""
    ports: tuple[ContainerPort, ...] = ()


class InitContainer(Container, frozen=True):
    """A container that runs before the others, and beside them if it is always restarted."""

    restart_policy: str = ""


class PodSpec(Read, frozen=True):
    """v1 PodSpec."""

    node_name: str = ""
    host_network: bool = False
    hostname: str = ""
    subdomain: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[InitContainer, ...] = ()


class PodIP(Read, frozen=True):
    """One address of a pod or of its node."""

    ip: str = ""


class PodCondition(Read, frozen=True):
    """A condition of a pod."""

    type: str = ""
    status: str = ""


class PodStatus(Read, frozen=True):
    """v1 PodStatus."""

    phase: str = ""
    pod_ip: str = field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = field(default=(), name="podIPs")
    host_ip: str = field(default="", name="hostIP")
    host_ips: tuple[PodIP, ...] = field(default=(), name="hostIPs")
    conditions: tuple[PodCondition, ...] = ()


class Pod(Read, frozen=True):
    """v1 Pod."""

    metadata: Meta = Meta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class NamespaceStatus(Read, frozen=True):
    """v1 NamespaceStatus."""

    phase: str = ""


class Namespace(Read, frozen=True):
    """v1 Namespace."""

    metadata: Meta = Meta()
    status: NamespaceStatus = NamespaceStatus()


class NodeAddress(Read, frozen=True):
    """An address of a node and its kind (InternalIP, ...)."""

    type: str = ""
    address: str = ""


class NodeCondition(Read, frozen=True):
    """A condition of a node."""

    type: str = ""
    status: str = ""


class NodeStatus(Read, frozen=True):
    """v1 NodeStatus."""

    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[NodeCondition, ...] = ()


class NodeSpec(Read, frozen=True):
    """v1 NodeSpec."""

    unschedulable: bool = False


class Node(Read, frozen=True):
    """v1 Node."""

    metadata: Meta = Meta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class ServicePort(Read, frozen=True):
    """A port of a service."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str = 0
    node_port: int = 0


class ClientIPConfig(Read, frozen=True):
    """Affinity by client address [s]."""

    timeout_seconds: int = 10800


class AffinityConfig(Read, frozen=True):
    """sessionAffinityConfig."""

    client_ip: ClientIPConfig = field(default=ClientIPConfig(), name="clientIP")


class ServiceSpec(Read, frozen=True):
    """v1 ServiceSpec."""

    type: str = "ClusterIP"
    selector: dict[str, str] = {}
    cluster_ips: tuple[str, ...] = field(default=(), name="clusterIPs")
    cluster_ip: str = field(default="", name="clusterIP")
    external_ips: tuple[str, ...] = field(default=(), name="externalIPs")
    load_balancer_ip: str = field(default="", name="loadBalancerIP")
    load_balancer_class: str = ""
    load_balancer_source_ranges: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    session_affinity: str = "None"
    session_affinity_config: AffinityConfig | None = None
    internal_traffic_policy: str = "Cluster"
    external_traffic_policy: str = ""
    publish_not_ready_addresses: bool = False
    health_check_node_port: int = 0


class Ingress(Read, frozen=True):
    """An address that a load balancer has; in the mode Proxy packets to it are not the nodes'."""

    ip: str = ""
    hostname: str = ""
    ip_mode: str | None = None


class LoadBalancerStatus(Read, frozen=True):
    """status.loadBalancer."""

    ingress: tuple[Ingress, ...] = ()


class ServiceStatus(Read, frozen=True):
    """v1 ServiceStatus."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(Read, frozen=True):
    """v1 Service."""

    metadata: Meta = Meta()
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class ObjectReference(Read, frozen=True):
    """What an endpoint or an event is about."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class EndpointConditions(Read, frozen=True):
    """Conditions of an endpoint; what is null is unknown, which counts as ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForWhom(Read, frozen=True):
    """A zone or a node that an endpoint is meant for."""

    name: str = ""


class EndpointHints(Read, frozen=True):
    """Whom an endpoint is meant for."""

    for_zones: tuple[ForWhom, ...] | None = ()
    for_nodes: tuple[ForWhom, ...] | None = ()


class Endpoint(Read, frozen=True):
    """One endpoint of a slice."""

    addresses: tuple[str, ...] | None = ()
    conditions: EndpointConditions = EndpointConditions()
    hints: EndpointHints | None = None
    node_name: str | None = None
    zone: str | None = None
    target_ref: ObjectReference | None = None


class EndpointPort(Read, frozen=True):
    """A port of a slice; without a number: all ports."""

    name: str | None = ""
    protocol: str | None = "TCP"
    port: int | None = None


class EndpointSlice(Read, frozen=True):
    """discovery.k8s.io/v1 EndpointSlice; the API sends null for no endpoints and no ports."""

    metadata: Meta = Meta()
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] | None = ()
    ports: tuple[EndpointPort, ...] | None = ()


class Custom(Read, frozen=True):
    """An object of a custom kind: specification and status as JSON, decoded by who knows them."""

    metadata: Meta = Meta()
    spec: msgspec.Raw = msgspec.Raw(b"{}")
    status: msgspec.Raw = msgspec.Raw(b"{}")

    def __post_init__(self) -> None:
        # What is decoded is a view of the whole answer, which would live as long as this does.
        msgspec.structs.force_setattr(self, "spec", self.spec.copy())
        msgspec.structs.force_setattr(self, "status", self.status.copy())


class LeaseSpec(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """coordination.k8s.io/v1 LeaseSpec. Written whole, so all of its fields are here."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None
    strategy: str | UnsetType = UNSET
    preferred_holder: str | UnsetType = UNSET


class Lease(Read, frozen=True):
    """coordination.k8s.io/v1 Lease."""

    metadata: Meta = Meta()
    spec: LeaseSpec = LeaseSpec()
