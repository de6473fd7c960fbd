"""The cluster's TOML file: which tables and keys it has, and what must agree with what."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_network,
)
from typing import TypeVar

from controller import config_values as values
from controller.config_hosts import hosts_config
from controller.config_reader import TableReader, shown
from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.model.config import ClusterConfig, EastWest, GatewayConfig

N = TypeVar("N", IPv4Network, IPv6Network)

MAX_HEARTBEAT_S = 3600

SERVICE_RANGES = ("10.96.0.0/12",)
"""kubeadm's default network of cluster IPs (its ClusterConfiguration, networking.serviceSubnet)."""


def cluster_config(root: TableReader) -> ClusterConfig:
    """The configuration in a document; faults are in its notes, stand-ins in their places."""
    table = root.table("cluster")
    nb, sb = values.remote(table, "nb", None), values.remote(table, "sb", None)
    tls = values.tls(table)
    values.needs_tls(table, tls, "nb", "sb")
    join = cluster_network(table, "join", IPv4Network, "100.64.0.0/24")
    pool = cluster_network(table, "service_pool", IPv4Network, "100.64.255.0/24")
    apart(table, ("join", join), ("service_pool", pool))
    join6, pool6 = networks6(table)
    ranges = values.networks(table, "service_ranges", SERVICE_RANGES)
    for network in ranges:
        for key, other in (("join", join), ("service_pool", pool)):
            if network.version == 4:
                apart(table, (key, other), ("service_ranges", network))
    east_west = table.choice("east_west", (EastWest.SVC0, EastWest.SWITCH), default=EastWest.SVC0)
    trunks = table.boolean("trunks", default=True)
    heartbeat_s = table.number("heartbeat_s", 0, MAX_HEARTBEAT_S, default=0)
    table.finish()
    gateways = _gateways(root, with_ipv6=bool(join6))
    taken: dict[str, IPNetwork] = {"join": join, "service_pool": pool}
    if join6:
        taken |= {"join6": ip_network(join6), "service_pool6": ip_network(pool6)}
    return ClusterConfig(
        nb_remote=nb,
        sb_remote=sb,
        tls=tls,
        join=str(join),
        service_pool=str(pool),
        gateways=gateways,
        join6=join6,
        service_pool6=pool6,
        heartbeat_s=heartbeat_s,
        service_ranges=ranges,
        east_west=east_west,
        trunks=trunks,
        hosts=hosts_config(root, gateways, taken, ranges),
    )


def cluster_network(table: TableReader, key: str, parse: Callable[[str], N], default: str) -> N:
    """A network that has room for a cluster."""
    network = table.parsed(key, parse, parse(default), default=default, example=default)
    most = network.max_prefixlen - 3
    if network.prefixlen > most:
        table.fault(
            key,
            f"{table.name(key)} = {shown(str(network))}",
            f"it has {network.num_addresses} addresses, too few for a cluster",
            f"write a network of /{most} or larger",
        )
    return network


def apart(table: TableReader, one: tuple[str, IPNetwork], two: tuple[str, IPNetwork]) -> None:
    """Note that two networks overlap; `one` comes first, the other may have to go elsewhere."""
    first, second = one[1], two[1]
    if first.version == second.version and (first[0] in second or second[0] in first):
        table.fault(
            two[0] if table.has(two[0]) else one[0],
            f"{table.name(one[0])} {first} and {table.name(two[0])} {second} overlap",
            "an address would have two meanings",
            "choose two networks that share nothing",
        )


def networks6(table: TableReader) -> tuple[str, str]:
    """The networks of the cluster's IPv6, as texts; both empty where it has none."""
    given = [key for key in ("join6", "service_pool6") if table.has(key)]
    if not given:
        return "", ""
    join = cluster_network(table, "join6", IPv6Network, "fd00:100::/64")
    pool = cluster_network(table, "service_pool6", IPv6Network, "fd00:101::/64")
    if len(given) == 1:
        missing = "join6" if given == ["service_pool6"] else "service_pool6"
        table.fault(
            given[0],
            f"{table.name(given[0])} is given, and {table.name(missing)} is not",
            "IPv6 needs both",
            f'add {missing} = "{join if missing == "join6" else pool}", or remove {given[0]}',
        )
    elif table.sound("join6") and table.sound("service_pool6"):
        apart(table, ("join6", join), ("service_pool6", pool))
    return str(join), str(pool)


def _next_hop(
    table: TableReader, key: str, of: str, address: IPv4Interface | IPv6Interface
) -> str | None:
    """The provider network's router, a neighbour of the gateway's `address`, which is key `of`."""
    if not table.has(key):
        return None
    example = address.ip + 1
    if address.version == 4:
        hop: IPAddress = table.parsed(key, IPv4Address, address.ip + 1, example=str(example))
    else:
        hop = table.parsed(key, values.neighbour6, address.ip + 1, example=str(example))
    # A router's link-local address is as good a next hop as any (RFC 4861, 4.2).
    is_near = hop in address.network or (hop.version == 6 and hop.is_link_local)
    if table.sound(key) and table.sound(of) and not (is_near and hop != address.ip):
        table.fault(
            key,
            f"{table.name(key)} = {shown(str(hop))}",
            f"it has to be another address of {address.network}",
            "name the provider network's router",
        )
    return str(hop)


def _address6(
    table: TableReader, seen: dict[str, int], *, with_ipv6: bool
) -> tuple[IPv6Interface | None, str | None]:
    """A gateway's own IPv6 address and its network's router."""
    if not table.has("address6"):
        if table.has("next_hop6"):
            table.fault(
                "next_hop6",
                f"{table.name('next_hop6')} is given, and {table.name('address6')} is not",
                "a gateway without an IPv6 address has no IPv6 neighbour",
                "add address6, or remove next_hop6",
            )
        return None, None
    address = table.parsed(
        "address6", values.interface6, values.SOME_INTERFACE6, example="2001:db8::11/64"
    )
    values.unique(table, "address6", str(address.ip), seen)
    if not with_ipv6:
        table.fault(
            "address6",
            f"{table.name('address6')} is given",
            "the cluster has no IPv6: join6 and service_pool6 are missing below [cluster]",
            "add both, or remove address6",
        )
    return address, _next_hop(table, "next_hop6", "address6", address)


def _gateways(root: TableReader, *, with_ipv6: bool) -> tuple[GatewayConfig, ...]:
    found = []
    chassis_seen: dict[str, int] = {}
    addresses_seen: dict[str, int] = {}
    addresses6_seen: dict[str, int] = {}
    for table in root.tables("gateway"):
        chassis = values.node_name(table, "chassis")
        values.unique(table, "chassis", chassis, chassis_seen)
        physnet = values.physnet(table, "physnet")
        address = table.parsed(
            "address", values.interface, values.SOME_INTERFACE, example="192.0.2.11/24"
        )
        values.unique(table, "address", str(address.ip), addresses_seen)
        next_hop = _next_hop(table, "next_hop", "address", address)
        address6, next_hop6 = _address6(table, addresses6_seen, with_ipv6=with_ipv6)
        named = table.items("routers", str, example='["vpc0"]')
        routers: list[str] = []
        for index, router in named.items():
            if not router.strip() or router in routers:
                why = "each router is named once, and not by an empty text"
                table.fault_at("routers", index, why, "remove it")
            routers.append(router)
        table.finish()
        found.append(
            GatewayConfig(chassis, physnet, address, next_hop, tuple(routers), address6, next_hop6)
        )
    return tuple(found)
