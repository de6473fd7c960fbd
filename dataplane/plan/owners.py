"""Who answers for a VIP on the wire: one node of those that could, the same in everybody's eyes.

Only VIPs of kinds that no node has an address for: load balancers' and external ones. Of the nodes
that have a gateway on the provider network and give a sign of life, the one with the best score
for the VIP owns it (rendezvous hashing): a node that goes moves its own VIPs and no others, and one
that comes takes its share and nothing else.

Under traffic policy Local a node without a ready backend of the service would drop what it is
sent, so it is no candidate. Where several service ports share a VIP, a node that serves all of them
comes first, then one that serves any.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b

from dataplane.model.addr import IPAddress
from dataplane.model.rows import Announcement
from dataplane.model.service import (
    EndpointState,
    ServedBy,
    Service,
    ServiceKind,
    TrafficPolicy,
)
from dataplane.model.state import Nic

ANNOUNCED_KINDS = frozenset({ServiceKind.LOAD_BALANCER, ServiceKind.EXTERNAL_IP})


def announced(services: Iterable[Service]) -> dict[IPAddress, list[Service]]:
    """The service ports of each VIP that some node has to answer for."""
    found: dict[IPAddress, list[Service]] = defaultdict(list)
    for service in services:
        if (
            service.served_by is ServedBy.XDP
            and service.kind in ANNOUNCED_KINDS
            and not service.vip.address.is_unspecified
        ):
            found[service.vip.address].append(service)
    return found


def candidates(ports: Sequence[Service], announcers: frozenset[str]) -> frozenset[str]:
    """The nodes of `announcers` that may own a VIP with these service ports."""
    local = [
        _ready_nodes(service) & announcers
        for service in ports
        if service.policy is TrafficPolicy.LOCAL
    ]
    if not local:
        return announcers
    return frozenset.intersection(*local) or frozenset.union(*local)


def _ready_nodes(service: Service) -> frozenset[str]:
    """The nodes with a ready backend; without any, those with one that still serves its clients."""
    for state in (EndpointState.READY, EndpointState.TERMINATING):
        nodes = {b.chassis for b in service.backends if b.state is state and b.chassis is not None}
        if nodes:
            return frozenset(nodes)
    return frozenset()


def owner(vip: IPAddress, nodes: Collection[str]) -> str | None:
    """The node that owns a VIP; None: nobody can."""
    return max(nodes, key=lambda node: (_score(vip, node), node), default=None)


def owned(
    services: Iterable[Service], announcers: frozenset[str], node: str
) -> frozenset[IPAddress]:
    """The VIPs that `node` answers for."""
    if node not in announcers:
        return frozenset()
    return frozenset(
        vip
        for vip, ports in announced(services).items()
        if owner(vip, candidates(ports, announcers)) == node
    )


def announcements(vips: Iterable[IPAddress], nic: Nic | None) -> Mapping[IPAddress, Announcement]:
    """Rows of the table `announcements`: what the wire of an uplink is told."""
    return {} if nic is None else {vip: Announcement(nic.name, nic.mac) for vip in vips}


def _score(vip: IPAddress, node: str) -> bytes:
    return blake2b(vip.packed + node.encode(), digest_size=8).digest()
