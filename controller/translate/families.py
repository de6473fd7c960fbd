"""The two families of addresses, and what the cluster file gives each: its networks and names."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface, ip_network

from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.model.config import ClusterConfig, GatewayConfig
from dataplane.model.names import SERVICE_ADDRESS6_KEY, SERVICE_ADDRESS_KEY

IPInterface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Family:
    """One family as the cluster has it. `ip` is its name in OVN's matches (ovn-sb(5))."""

    version: int
    join: IPNetwork
    pool: IPNetwork
    join_key: str
    pool_key: str
    service_key: str
    ip: str
    default_route: str

    def host_route(self, address: IPAddress) -> str:
        """The prefix of one address."""
        return f"{address}/{address.max_prefixlen}"

    def of_gateway(self, gateway: GatewayConfig) -> tuple[IPInterface | None, str | None]:
        """A gateway's external address and its network's router."""
        if self.version == 4:
            return gateway.address, gateway.next_hop
        return gateway.address6, gateway.next_hop6


def families(cluster: ClusterConfig) -> tuple[Family, ...]:
    """IPv4, and IPv6 if the cluster has both of its networks."""
    found = [
        Family(
            4,
            ip_network(cluster.join),
            ip_network(cluster.service_pool),
            "join",
            "service_pool",
            SERVICE_ADDRESS_KEY,
            "ip4",
            "0.0.0.0/0",
        )
    ]
    if cluster.join6 and cluster.service_pool6:
        found.append(
            Family(
                6,
                ip_network(cluster.join6),
                ip_network(cluster.service_pool6),
                "join6",
                "service_pool6",
                SERVICE_ADDRESS6_KEY,
                "ip6",
                "::/0",
            )
        )
    return tuple(found)


def interfaces(networks: tuple[str, ...]) -> tuple[IPInterface, ...]:
    """A router port's networks, in order; what does not parse is northd's to complain about."""
    found: list[IPInterface] = []
    for text in networks:
        try:
            found.append(ip_interface(text))
        except ValueError:
            continue
    return tuple(found)


def is_default(prefix: str, version: int) -> bool:
    """Whether a route's prefix is a family's default route."""
    try:
        network = ip_interface(prefix).network
    except ValueError:
        return False
    return network.version == version and network.prefixlen == 0
