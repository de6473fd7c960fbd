"""Services as OVN describes them, seen from one node."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dataplane.model.addr import IPNetwork, L4Addr


class Place(StrEnum):
    """Where a backend is, seen from this node: a workload, or in a host's own network.

    HOST is this node's own (its kernel has the address), OTHER_HOST another node's.
    """

    LOCAL = "local"
    REMOTE = "remote"
    HOST = "host"
    OTHER_HOST = "other-host"
    UNKNOWN = "unknown"


HERE = frozenset({Place.LOCAL, Place.HOST})
"""What the policy Local calls this node's."""


class TrafficPolicy(StrEnum):
    """Kubernetes' externalTrafficPolicy and internalTrafficPolicy."""

    CLUSTER = "cluster"
    LOCAL = "local"


class ServedBy(StrEnum):
    """Which path answers packets to the VIP."""

    XDP = "xdp"
    OVN = "ovn"
    NOBODY = "nobody"


class ServiceKind(StrEnum):
    """What kind of address a VIP is (Kubernetes: Service API).

    A node port's VIP has the unspecified address (0.0.0.0 or ::), which stands for every address
    of the node that serves node ports.
    """

    CLUSTER_IP = "clusterip"
    NODE_PORT = "nodeport"
    LOAD_BALANCER = "loadbalancer"
    EXTERNAL_IP = "external"
    HOST_PORT = "hostport"


class EndpointState(StrEnum):
    """EndpointSlice conditions: READY; TERMINATING means serving and terminating; else UNREADY."""

    READY = "ready"
    TERMINATING = "terminating"
    UNREADY = "unready"


class Forwarding(StrEnum):
    """How packets of clients outside reach a backend of another node."""

    SNAT = "snat"
    DSR = "dsr"


@dataclass(frozen=True, slots=True)
class Backend:
    """One endpoint.

    `port_name` is the logical port that owns the address, `chassis` the node it is on, as far as
    OVN knows. `for_zones` and `for_nodes` are the endpoint's topology hints.
    """

    target: L4Addr
    place: Place
    port_name: str | None
    state: EndpointState = EndpointState.READY
    weight: int = 1
    chassis: str | None = None
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()

    @property
    def is_workload(self) -> bool:
        """Whether it is at a logical port, and no process in a host's network or further out."""
        return self.port_name is not None

    def __lt__(self, other: Backend) -> bool:
        return self.target < other.target


@dataclass(frozen=True, slots=True)
class Service:
    """One VIP of one service port. `reason` says why `served_by` is what it is.

    `port_key` is the service port's identity, which all its VIPs share ("namespace/name:port"):
    affinity and statistics are kept by it. `policy` is for clients outside (externalTrafficPolicy,
    also loadBalancerSourceRanges), `inner_policy` for those inside (internalTrafficPolicy, cluster
    IPs only). `affinity_s` 0 is no affinity. `reject`: without any endpoint, refuse instead of
    dropping. `health_port` is healthCheckNodePort. `sockets_only`: XDP would serve it if this node
    had the means; its own sockets can be served all the same (connect-time translation).
    """

    name: str
    vip: L4Addr
    backends: tuple[Backend, ...]
    policy: TrafficPolicy
    served_by: ServedBy
    reason: str
    port_key: str = ""
    kind: ServiceKind = ServiceKind.LOAD_BALANCER
    inner_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    affinity_s: int = 0
    source_ranges: tuple[IPNetwork, ...] = ()
    reject: bool = True
    forwarding: Forwarding = Forwarding.SNAT
    health_port: int | None = None
    sockets_only: bool = False
