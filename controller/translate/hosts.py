"""The hosts' network: a switch on which each node's kernel has a port, and each VPC router.

What the cluster controller makes of `[hosts]`. A network of its own and not the join network:
northd writes the MAC of each workload's port for every router on its switch, which would be as many
rows as there are nodes times nodes; here it is nodes times VPCs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import ip_address

from controller.translate.addresses import allocate, overlap
from controller.translate.families import interfaces
from controller.translate.gatewayrows import GatewayRows
from controller.translate.index import address_words
from controller.translate.nbrows import (
    HOSTS_SWITCH,
    SwitchPortRow,
    SwitchRow,
    host_port,
    hosts_port,
)
from controller.translate.ovn import LogicalRouter, NbSnapshot, Problem, is_ours
from dataplane.model.addr import IPAddress, IPNetwork, Mac, mac_of_address
from dataplane.model.config import HostsConfig

Networks = Callable[[LogicalRouter], Sequence[IPNetwork]]
"""A router's own networks, without those that we gave it."""


def add_hosts(
    rows: GatewayRows,
    hosts: HostsConfig,
    nb: NbSnapshot,
    chassis: Collection[str],
    routers: Mapping[str, Sequence[LogicalRouter]],
    networks_of: Networks,
) -> list[Problem]:
    """Add the switch and its ports to a plan; what keeps the rest from being made.

    Args:
        rows: the plan so far.
        hosts: the cluster file's word.
        nb: what there is: addresses that ports of ours hold are kept.
        chassis: names of those in the southbound database.
        routers: the logical routers by name.
        networks_of: see `Networks`.
    """
    problems: list[Problem] = []
    ours = {port.name for port in nb.switch_ports.values() if is_ours(port.external_ids)}
    nodes = []
    for name in sorted(hosts.chassis):
        if name in chassis or host_port(name) in ours:
            nodes.append(name)
            continue
        problems.append(
            Problem(
                f"host {name}",
                "the southbound database has no such chassis, so nothing is made for it yet",
                "start ovn-controller there, or correct [hosts] chassis in the cluster file",
            )
        )
    wanted: list[IPNetwork] = [hosts.network]
    if hosts.network6 is not None:
        wanted.append(hosts.network6)
    vpcs = _vpcs(hosts, wanted, routers, networks_of, problems)
    if not nodes:
        return problems
    names = {*map(host_port, nodes), *map(hosts_port, vpcs)}
    given: dict[str, list[IPAddress]] = {}
    for network in wanted:
        key = "network" if network.version == 4 else "network6"
        held, foreign = _held(nb, names, network)
        fresh = allocate(network, names, held, foreign)
        given = {name: [*given.get(name, ()), *_one(fresh, name)] for name in names}
        if missing := sorted(names - fresh.keys()):
            problems.append(
                Problem(
                    f"[hosts] {key} {network}",
                    f"it is full: no address is left for {', '.join(missing)}",
                    "make it bigger",
                )
            )
    # IPv4 gives the MAC: what it has no room for is not made.
    given = {name: found for name, found in given.items() if found and found[0].version == 4}
    rows.switches[HOSTS_SWITCH] = SwitchRow()
    lengths = {network.version: network.prefixlen for network in wanted}
    for name in vpcs:
        if found := given.get(hosts_port(name)):
            networks = tuple(f"{address}/{lengths[address.version]}" for address in found)
            rows.router_port(name, hosts_port(name), HOSTS_SWITCH, _mac(found), networks)
    for name in nodes:
        if found := given.get(host_port(name)):
            entry = " ".join(str(word) for word in (_mac(found), *found))
            rows.switch_ports[host_port(name)] = SwitchPortRow(
                HOSTS_SWITCH,
                "",
                (entry,),
                # No other chassis gets its packets by claiming its name.
                (("requested-chassis", name),),
                (entry,),
            )
    return problems


def _vpcs(
    hosts: HostsConfig,
    wanted: Sequence[IPNetwork],
    routers: Mapping[str, Sequence[LogicalRouter]],
    networks_of: Networks,
    problems: list[Problem],
) -> list[str]:
    """The VPC routers that can have a port, by name; the first by name has a network they share."""
    found: list[str] = []
    taken: dict[IPNetwork, str] = {}
    for name in sorted(set(hosts.routers)):
        there = routers.get(name, [])
        if len(there) != 1 or is_ours(there[0].external_ids):
            many = "several routers have" if there else "no router of a VPC has"
            problems.append(
                Problem(
                    f"router {name}",
                    f"{many} that name in the northbound database",
                    "correct [hosts] routers in the cluster file, or make the router",
                )
            )
            continue
        networks = networks_of(there[0])
        clash = next((n for n in networks if any(overlap(n, w) for w in wanted)), None)
        if clash is not None:
            problems.append(
                Problem(
                    f"router {name}",
                    f"its network {clash} overlaps the hosts' network",
                    "choose another [hosts] network in the cluster file",
                )
            )
            continue
        for network in networks:
            first = next((n for n in taken if overlap(n, network)), None)
            if first is not None:
                problems.append(
                    Problem(
                        f"router {name}",
                        f"{network} is in {taken[first]}, too; nodes reach only {taken[first]}'s",
                        "give the two VPCs different networks, or name one in [hosts] routers",
                    )
                )
            taken.setdefault(network, name)
        found.append(name)
    return found


def _held(
    nb: NbSnapshot, names: Collection[str], network: IPNetwork
) -> tuple[dict[str, IPAddress], set[IPAddress]]:
    """The addresses of the network that ports have: ours by name, and foreign ones."""
    held: dict[str, IPAddress] = {}
    foreign: set[IPAddress] = set()
    ports = [
        *(
            (p.name, is_ours(p.external_ids), [str(i.ip) for i in interfaces(p.networks)])
            for p in nb.router_ports.values()
        ),
        *(
            (p.name, is_ours(p.external_ids), [text for w in address_words(p) for text in w[1:]])
            for p in nb.switch_ports.values()
            # Others' workloads have no business on this network; there may be thousands of them.
            if p.name in names
        ),
    ]
    for name, ours, texts in sorted(ports):
        for text in texts:
            try:
                address = ip_address(text)
            except ValueError:
                continue
            if address.version != network.version or address not in network:
                continue
            if ours:
                held.setdefault(name, address)
            else:
                foreign.add(address)
    return held, foreign


def _one(found: Mapping[str, IPAddress], name: str) -> tuple[IPAddress, ...]:
    return (found[name],) if name in found else ()


def _mac(addresses: Sequence[IPAddress]) -> Mac:
    return next(mac_of_address(address) for address in addresses if address.version == 4)
