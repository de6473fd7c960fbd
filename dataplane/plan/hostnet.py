"""What backends in nodes' own networks take of a kernel: addresses, neighbours, routes. Pure.

A client behind OVN is HOST_SOURCE to this node's kernel, which finds it behind svc0 without asking.
A client of another node is that node's svc0 address, which the kernel finds behind that node's
gateway router on the provider network: the reply meets the program of that node's uplink.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Interface, IPv6Interface, ip_network

from bpf.abi import HOST_SOURCE4, HOST_SOURCE6
from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.model.config import NodeConfig, UplinkConfig, UplinkMode
from dataplane.model.hostrows import MAIN_TABLE, KernelRoute
from dataplane.model.rows import HostReplies
from dataplane.model.state import Gateway


def svc_addresses(gateway: Gateway) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """svc0's addresses: its own, and one each that has HOST_SOURCE for a neighbour."""
    four = [
        IPv4Interface(f"{gateway.service_address}/32"),
        IPv4Interface((HOST_SOURCE4 - 1, 31)),
    ]
    if gateway.service_address6 is None:
        return tuple(sorted(four))
    six = [
        IPv6Interface(f"{gateway.service_address6}/128"),
        IPv6Interface((HOST_SOURCE6 - 1, 127)),
    ]
    return (*sorted(four), *sorted(six))


def svc_neighbours(gateway: Gateway) -> tuple[IPAddress, ...]:
    """What is behind svc0 for good."""
    return (HOST_SOURCE4,) if gateway.service_address6 is None else (HOST_SOURCE4, HOST_SOURCE6)


def host_replies(config: NodeConfig, *, with_service_link: bool) -> dict[str, HostReplies]:
    """Where the kernel's replies come out: the service uplinks with an XDP hook, and svc0."""
    if not with_service_link:
        return {}
    devices = [u.device for u in config.uplinks if u.services and u.mode is not UplinkMode.VFIO]
    return dict.fromkeys((*devices, config.service_link), HostReplies()) if devices else {}


def routes_to_nodes(
    uplink: UplinkConfig,
    own: Iterable[IPAddress],
    gateway: Gateway,
    peers: Mapping[str, Gateway],
) -> dict[IPNetwork, KernelRoute]:
    """A route to each other node's svc0 addresses, by its gateway router.

    Only in families in which this node has an address on the provider network: another node's
    packets come to no other one's.
    """
    routes: dict[IPNetwork, KernelRoute] = {}
    mine = list(own)
    for peer in peers.values():
        for address in (peer.service_address, peer.service_address6):
            if address is None or peer.router == gateway.router:
                continue
            for way in peer.addresses:
                sources = [one for one in mine if one in way.network and one != way.ip]
                if way.version == address.version and sources:
                    network = ip_network(address)
                    routes[network] = KernelRoute(uplink.device, way.ip, sources[0], MAIN_TABLE)
                    break
    return routes
