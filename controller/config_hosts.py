"""The hosts' own way to workloads: [hosts] in the cluster's file, [host] in a node's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network

from controller.config_reader import TableReader, shown
from dataplane.model.addr import IPNetwork
from dataplane.model.config import GatewayConfig, HostConfig, HostsConfig

MAX_QUEUES = 16
"""Each pins 64 MiB (OVS's buffers of an AF_XDP queue) and is polled."""

_LINK = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,10})?")
_SMALLEST = {4: 29, 6: 125}


def host_config(root: TableReader, names: Collection[str]) -> HostConfig:
    """The table [host]; `names` are those of devices and bridges that are taken."""
    table = root.table("host")
    defaults = HostConfig()
    link = table.text(
        "link",
        default=defaults.link,
        example=defaults.link,
        pattern=_LINK,
        rule="it has up to 11 letters, digits, dots, dashes, underscores: the OVS end adds -ovs",
    )
    if link and {link, f"{link}-ovs"} & set(names):
        table.fault(
            "link",
            f"{table.name('link')} = {shown(link)}",
            "it is the name of a bridge, a bond, a NIC or the service link already",
            "choose another name",
        )
    queues = table.integer("queues", 1, MAX_QUEUES, default=defaults.queues)
    table.finish()
    return HostConfig(link, queues)


def hosts_config(
    root: TableReader,
    gateways: Sequence[GatewayConfig],
    taken: Mapping[str, IPNetwork],
    ranges: Sequence[IPNetwork],
) -> HostsConfig | None:
    """The table [hosts], None where the file has none.

    Args:
        root: the document.
        gateways: whose chassis and routers are meant where the table names none.
        taken: the cluster's other networks by their keys below [cluster].
        ranges: networks of cluster IPs.
    """
    if not root.has("hosts"):
        return None
    table = root.table("hosts")
    network = table.parsed(
        "network", IPv4Network, IPv4Network("100.65.0.0/16"), example="100.65.0.0/16"
    )
    network6 = None
    if table.has("network6"):
        network6 = table.parsed(
            "network6", IPv6Network, IPv6Network("fd00:102::/64"), example="fd00:102::/64"
        )
    for key, one in (("network", network), ("network6", network6)):
        if one is not None and table.sound(key):
            _fits(table, key, one, taken, ranges)
    chassis = _names(table, "chassis", [gateway.chassis for gateway in gateways])
    routers = _names(table, "routers", [name for g in gateways for name in g.routers])
    table.finish()
    return HostsConfig(network, network6, chassis, routers)


def _fits(
    table: TableReader,
    key: str,
    network: IPNetwork,
    taken: Mapping[str, IPNetwork],
    ranges: Sequence[IPNetwork],
) -> None:
    if network.prefixlen > _SMALLEST[network.version]:
        table.fault(
            key,
            f"{table.name(key)} = {shown(str(network))}",
            f"it has {network.num_addresses} addresses, too few for a cluster",
            f"write a network of /{_SMALLEST[network.version]} or larger",
        )
    others = [*taken.items(), *(("service_ranges", one) for one in ranges)]
    for name, other in others:
        if other.version == network.version and _overlap(other, network):
            table.fault(
                key,
                f"{table.name(key)} {network} and cluster.{name} {other} overlap",
                "an address would have two meanings",
                "choose two networks that share nothing",
            )


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.network_address in other or other.network_address in one


def _names(table: TableReader, key: str, default: Sequence[str]) -> tuple[str, ...]:
    if not table.has(key):
        return tuple(dict.fromkeys(default))
    found: list[str] = []
    for index, name in table.items(key, str, example='["vpc0"]').items():
        if not name.strip() or name in found:
            why = "each is named once, and not by an empty text"
            table.fault_at(key, index, why, "remove it")
        found.append(name)
    return tuple(found)
