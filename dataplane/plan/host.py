"""The node's own way to workloads: a veth into OVS, and the kernel's routes by it. Pure.

::

    kernel  ovn0 ===== ovn0-ovs  br-int (type=afxdp, polled by PMD threads, claimed by OVN)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.model.config import NodeConfig
from dataplane.model.hostrows import KernelRoute, SourceRule
from dataplane.model.names import INTEGRATION_BRIDGE
from dataplane.model.rows import Link, Port
from dataplane.model.state import HostAccess
from dataplane.plan.mtu import AF_XDP_MTU
from dataplane.plan.ports import pairs

UNBOUND = IPv4Address(0)


@dataclass(frozen=True, slots=True)
class HostRows:
    """What the host's way adds to the tables of these names."""

    links: Mapping[str, Link] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    routes: Mapping[IPNetwork, KernelRoute] = field(default_factory=dict)
    rules: Mapping[IPAddress, SourceRule] = field(default_factory=dict)


def ovs_end(link: str) -> str:
    """The OVS end of a veth of ours between the kernel and OVS."""
    return f"{link}-ovs"


def host_rows(config: NodeConfig, access: HostAccess | None) -> HostRows:
    """The veth, its port, and the routes; nothing where OVN has no port, or the file wants none.

    Routes are in a table of their own, which only sockets see that have ovn0's address or none yet:
    what has the node's other addresses goes where it went before, and OVN would drop it here (port
    security).
    """
    link = config.host.link
    if access is None or not link:
        return HostRows()
    own = {address.version: address.ip for address in reversed(access.addresses)}
    rules = {address.ip: SourceRule() for address in access.addresses}
    if 4 in own:
        rules[UNBOUND] = SourceRule()
    queues = config.host.queues
    return HostRows(
        links={
            link: Link(
                ovs_end(link),
                access.mac,
                min(config.port_mtu, AF_XDP_MTU),
                queues,
                access.addresses,
            )
        },
        ports={
            ovs_end(link): Port(
                INTEGRATION_BRIDGE,
                "afxdp",
                pairs({"n_rxq": str(queues), "xdp-mode": "native"}),
                pairs({"iface-id": access.port}),
                None,
                None,
            )
        },
        routes={
            network: KernelRoute(link, via, own[network.version])
            for network, via in access.routes
            if network.version in own
        },
        rules=rules,
    )
