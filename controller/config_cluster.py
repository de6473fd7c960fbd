"""The cluster's TOML file: which tables and keys it has, and what must agree with what."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from controller import config_values as values
from controller.config_reader import TableReader, shown
from dataplane.model.config import ClusterConfig, GatewayConfig


def cluster_config(root: TableReader) -> ClusterConfig:
    """The configuration in a document; faults are in its notes, stand-ins in their places."""
    table = root.table("cluster")
    nb, sb = values.remote(table, "nb", None), values.remote(table, "sb", None)
    join = table.parsed(
        "join",
        IPv4Network,
        IPv4Network("100.64.0.0/24"),
        default="100.64.0.0/24",
        example="100.64.0.0/24",
    )
    pool = table.parsed(
        "service_pool",
        IPv4Network,
        IPv4Network("100.64.255.0/24"),
        default="100.64.255.0/24",
        example="100.64.255.0/24",
    )
    for key, network in (("join", join), ("service_pool", pool)):
        if network.prefixlen > 29:
            table.fault(
                key,
                f"{table.name(key)} = {shown(str(network))}",
                f"it has {network.num_addresses} addresses, too few for a cluster",
                "write a network of /29 or larger",
            )
    if join.overlaps(pool):
        table.fault(
            "service_pool" if table.has("service_pool") else "join",
            f"cluster.join {join} and cluster.service_pool {pool} overlap",
            "an address would have two meanings",
            "choose two networks that share nothing",
        )
    table.finish()
    return ClusterConfig(nb, sb, str(join), str(pool), _gateways(root))


def _next_hop(table: TableReader, address: IPv4Interface) -> str | None:
    if not table.has("next_hop"):
        return None
    hop = table.parsed("next_hop", IPv4Address, address.ip + 1, example=str(address.ip + 1))
    is_neighbour = hop in address.network and hop != address.ip
    if table.sound("next_hop") and table.sound("address") and not is_neighbour:
        table.fault(
            "next_hop",
            f"{table.name('next_hop')} = {shown(str(hop))}",
            f"it has to be another address of {address.network}",
            "name the provider network's router",
        )
    return str(hop)


def _gateways(root: TableReader) -> tuple[GatewayConfig, ...]:
    found = []
    chassis_seen: dict[str, int] = {}
    addresses_seen: dict[str, int] = {}
    for table in root.tables("gateway"):
        chassis = values.node_name(table, "chassis")
        values.unique(table, "chassis", chassis, chassis_seen)
        physnet = values.physnet(table, "physnet")
        address = table.parsed(
            "address", values.interface, values.SOME_INTERFACE, example="192.0.2.11/24"
        )
        values.unique(table, "address", str(address.ip), addresses_seen)
        next_hop = _next_hop(table, address)
        named = table.items("routers", str, example='["vpc0"]')
        routers: list[str] = []
        for index, router in named.items():
            if not router.strip() or router in routers:
                why = "each router is named once, and not by an empty text"
                table.fault_at("routers", index, why, "remove it")
            routers.append(router)
        table.finish()
        found.append(GatewayConfig(chassis, physnet, address, next_hop, tuple(routers)))
    return tuple(found)
