"""The table [gateways] of the Kubernetes controller's file: what nodes' gateways have in common."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, ip_address

from controller import config_values as values
from controller.config_cluster import (
    MAX_HEARTBEAT_S,
    SERVICE_RANGES,
    apart,
    cluster_network,
    networks6,
)
from controller.config_reader import TableReader
from controller.network.gateways import GatewayTemplate
from controller.network.giving import ranges_of
from controller.network.settings import DEFAULT_VPC
from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.model.config import ClusterConfig

_LABEL = re.compile(r"([A-Za-z0-9./_-]+=[A-Za-z0-9._-]*)?")
JOIN, POOL = "100.65.0.0/20", "100.65.128.0/20"
"""Beside Kube-OVN's own join network, 100.64.0.0/16."""


def gateways_config(root: TableReader, nb: str) -> GatewayTemplate | None:
    """The table's values, None where the file has none; faults are in its notes."""
    if not root.has("gateways"):
        return None
    table = root.table("gateways")
    sb = values.remote(table, "sb", None)
    join = cluster_network(table, "join", IPv4Network, JOIN)
    pool = cluster_network(table, "service_pool", IPv4Network, POOL)
    apart(table, ("join", join), ("service_pool", pool))
    join6, pool6 = networks6(table)
    provider = values.networks(table, "networks", ())
    addresses = table.items("addresses", str, default=[], example='["192.0.2.11-192.0.2.99"]')
    for index, text in addresses.items():
        for _, fault in ranges_of([text])[1]:
            table.fault_at("addresses", index, fault.cause, fault.next_step)
    label, _, value = table.text(
        "nodes",
        default="",
        example="gateway=true",
        pattern=_LABEL,
        rule="it is a label and its value",
    ).partition("=")
    routers = table.items("routers", str, default=[DEFAULT_VPC], example=f'["{DEFAULT_VPC}"]')
    found = GatewayTemplate(
        ClusterConfig(
            nb_remote=nb,
            sb_remote=sb,
            join=str(join),
            service_pool=str(pool),
            gateways=(),
            join6=join6,
            service_pool6=pool6,
            heartbeat_s=table.number("heartbeat_s", 0, MAX_HEARTBEAT_S, default=0),
            service_ranges=values.networks(table, "service_ranges", SERVICE_RANGES),
            trunks=table.boolean("trunks", default=True),
        ),
        physnet=values.physnet(table, "physnet") if table.has("physnet") else "external",
        addresses=tuple(addresses.values()),
        lengths={network.version: network.prefixlen for network in provider},
        next_hops=_next_hops(table, provider),
        routers=tuple(routers.values()),
        nodes=(label.strip(), value.strip()) if label else None,
    )
    table.finish()
    return found


def _next_hops(table: TableReader, provider: tuple[IPNetwork, ...]) -> tuple[IPAddress, ...]:
    found: list[IPAddress] = []
    given = table.items("next_hops", str, default=[], example='["192.0.2.1"]')
    for index, text in given.items():
        try:
            address = ip_address(text)
        except ValueError as error:
            table.fault_at("next_hops", index, str(error), 'write "192.0.2.1"')
            continue
        is_near = address.version == 6 and address.is_link_local
        if not is_near and not any(
            network.version == address.version and address in network for network in provider
        ):
            why = f"{address} is in none of {table.name('networks')}"
            table.fault_at("next_hops", index, why, "name the provider network's router")
        found.append(address)
    return tuple(found)
