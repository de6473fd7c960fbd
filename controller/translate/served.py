"""What this node can really serve: the last word on each service's path, and on its mode. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from controller.translate.rowservices import RowServices
from controller.translate.vips import rank
from dataplane.model.addr import IPAddress, Protocol
from dataplane.model.config import NodeConfig
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
from dataplane.model.state import Gateway
from dataplane.plan.node import service_gateway, service_uplink

OVN_MAX_AFFINITY_S = 65535
"""ovn-nb(5), Load_Balancer.options:affinity_timeout: a longer one is taken as this."""


class Mode(StrEnum):
    """What becomes of the addresses of a packet from a client outside."""

    SNAT = "snat"
    CLIENT_KEPT = "kept"
    DSR = "dsr"


_MODE_WORDS = {
    Mode.SNAT: "backends see svc0's address",
    Mode.CLIENT_KEPT: "backends see the client's address",
    Mode.DSR: (
        "backends see the client's address; other nodes get the packet as it is and answer the "
        "client themselves"
    ),
}


@dataclass(frozen=True, slots=True)
class Means:
    """What a node has for serving: per family what is missing ("": nothing), and addresses.

    `node_ports` are the addresses that node ports are served at.
    """

    missing: Mapping[int, str]
    node_ports: tuple[IPAddress, ...] = ()

    def has_node_port(self, version: int) -> bool:
        """Whether node ports are served at an address of that family."""
        return any(address.version == version for address in self.node_ports)


def means(gateway: Gateway | None, config: NodeConfig, addresses: Collection[IPAddress]) -> Means:
    """What the node with these addresses of its own has."""
    common = _missing(gateway, config)
    missing6 = common
    if not common and gateway is not None and gateway.service_address6 is None:
        missing6 = (
            f"the gateway router {gateway.router} has no external_ids:millrace:service-address6; "
            "write join6 and service_pool6 into the cluster's file"
        )
    networks = config.services.nodeport_addresses
    serving = [
        address
        for address in addresses
        if not address.is_link_local
        and (not networks or any(address in network for network in networks))
    ]
    serving.sort(key=lambda address: (address.version, address.packed))
    return Means({4: common, 6: missing6}, tuple(serving))


def _missing(gateway: Gateway | None, config: NodeConfig) -> str:
    uplink = service_uplink(config)
    if uplink is None:
        return "no uplink of this node has services = true and an XDP hook (mode af_xdp or kernel)"
    if gateway is None:
        return "OVN has no usable gateway router for this chassis; `millrace status` says why"
    if service_gateway(gateway, config) is None:
        return (
            f"the gateway router {gateway.router} is on {gateway.physnet}, but the service uplink "
            f"{uplink.device} is on bridge {uplink.bridge} of another physical network"
        )
    return ""


def as_served(rows: Iterable[RowServices], node: Means) -> tuple[Service, ...]:
    """The services of all rows, by VIP; those that OVN's rows give to XDP only where it can be.

    Without the means OVN serves those that it has, nobody the others; the reason says what is
    missing. A service of which no backend may be used stays XDP's: its packets end there.
    """
    return in_order(service for row in rows for service in row_as_served(row, node))


def in_order(services: Iterable[Service]) -> tuple[Service, ...]:
    """By VIP."""
    return tuple(sorted(services, key=lambda s: (rank(s.vip), s.name, s.reason, s.port_key)))


def row_as_served(row: RowServices, node: Means) -> tuple[Service, ...]:
    """The same of one row."""
    return tuple(_as_served(service, row.attached, node) for service in row.services)


def mode_of(service: Service) -> Mode | None:
    """How clients outside are served; None if not by XDP."""
    if service.served_by is not ServedBy.XDP:
        return None
    if service.policy is TrafficPolicy.LOCAL:
        return Mode.CLIENT_KEPT
    return Mode.DSR if service.forwarding is Forwarding.DSR else Mode.SNAT


def _as_served(service: Service, attached: tuple[str, ...], node: Means) -> Service:
    mode = mode_of(service)
    if mode is None:
        return service
    version = service.vip.address.version
    missing = node.missing[version]
    if not missing and service.kind is ServiceKind.NODE_PORT and not node.has_node_port(version):
        missing = f"no IPv{version} address of this node is in nodeport_addresses of its file"
    if missing:
        return _without_xdp(service, attached, missing)
    words = [service.reason, _MODE_WORDS[mode], *_fates(service)]
    return replace(service, reason="; ".join(words))


def _without_xdp(service: Service, attached: tuple[str, ...], missing: str) -> Service:
    reason = f"marked for the fast path, but {missing}"
    if not attached:
        return replace(
            service,
            served_by=ServedBy.NOBODY,
            reason=reason,
            health_port=None,
            sockets_only=True,
        )
    reason += f"; served by OVN, because attached to {', '.join(attached)}"
    if broken := ", ".join(_not_kept_by_ovn(service)):
        reason += f"; OVN does not keep: {broken}"
    return replace(service, served_by=ServedBy.OVN, reason=reason, sockets_only=True)


def _not_kept_by_ovn(service: Service) -> Iterator[str]:
    """What a load balancer of OVN 23.03 cannot promise of all that a row asks for."""
    if service.vip.address.is_unspecified:
        yield "its VIP, which stands for a node's addresses"
    if service.policy is TrafficPolicy.LOCAL or service.inner_policy is TrafficPolicy.LOCAL:
        yield "the policy local (that takes a template with backends of its own on each chassis)"
    if service.source_ranges:
        yield "source ranges (an ACL with them can)"
    if service.affinity_s > OVN_MAX_AFFINITY_S:
        yield f"affinity for {service.affinity_s} s (at most {OVN_MAX_AFFINITY_S})"
    if any(backend.weight != service.backends[0].weight for backend in service.backends):
        yield "weights"
    if any(backend.state is not EndpointState.READY for backend in service.backends):
        yield "endpoints' states"
    if any(backend.for_zones or backend.for_nodes for backend in service.backends):
        yield "topology hints"
    if service.forwarding is Forwarding.DSR:
        yield "dsr"


def _fates(service: Service) -> Iterator[str]:
    """What becomes of packets that find no backend here, and of promises that mean nothing."""
    candidates = [b for b in service.backends if _can_serve(b)]
    if service.policy is TrafficPolicy.LOCAL:
        if candidates and not any(b.place in HERE for b in candidates):
            yield "no backend on this node: packets to it are dropped"
        if service.forwarding is Forwarding.DSR:
            yield "dsr means nothing under the policy local"


def _can_serve(backend: Backend) -> bool:
    sctp_here = backend.place is Place.HOST and backend.target.protocol is Protocol.SCTP
    return not sctp_here and backend.state is not EndpointState.UNREADY
