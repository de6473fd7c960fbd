"""What comes in by a gateway router and what leaves by it, beside what every chassis's own does.

In: a route to each network of each VPC; or, `one_way_in`, for whatever comes in by the external
port one route to the first VPC (a table of its own, for the main one's default route leads out).
The number of routes is then that of gateways, and not of gateways times networks.

Out: networks whose source address becomes the gateway's, or another one there, for all or by rules,
and networks that leave by the same gateways wherever their workloads are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from controller.translate.families import Family
from controller.translate.gatewayrows import GatewayRows
from controller.translate.natrules import Kept, alike, collapsed
from controller.translate.nbrows import (
    IN_TABLE,
    MAIN_PRIORITY,
    NatKey,
    NatRow,
    PolicyKey,
    PolicyRow,
    RouteKey,
    RouteRow,
    SetRow,
    external_port,
    gateway_router,
    join_port,
    set_name,
)
from controller.translate.ovn import LogicalRouter, Problem
from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.model.config import ClusterConfig, GatewayConfig, Outgoing


def routes_in(
    rows: GatewayRows,
    family: Family,
    gateway: GatewayConfig,
    vpcs: Mapping[str, tuple[LogicalRouter, IPAddress]],
    inner: Callable[[LogicalRouter, IPNetwork], Iterable[IPNetwork]],
    *,
    one_way: bool,
) -> list[Problem]:
    """The routes of a gateway router to VPCs; the order of `vpcs` decides a clash.

    `vpcs`: each with its address on the join network. `inner`: a VPC's networks that are not the
    provider network's.
    """
    router, owners = gateway_router(gateway.chassis), dict[IPNetwork, str]()
    outside = family.of_gateway(gateway)[0] or gateway.address
    problems = []
    table = IN_TABLE if one_way else ""
    for place, (name, (vpc, at)) in enumerate(vpcs.items()):
        first_way = one_way and place == 0
        if first_way:
            port = external_port(gateway.chassis)
            rows.router_ports[port] = replace(rows.router_ports[port], table=IN_TABLE)
            rows.routes[RouteKey(router, family.default_route, IN_TABLE)] = RouteRow(str(at))
        for network in inner(vpc, outside.network):
            if network.version != family.version:
                continue
            first = owners.setdefault(network, name)
            if first != name:
                problems.append(
                    Problem(
                        f"router {router}",
                        f"{network} is in {first} and in {name}; only {first}'s can be reached",
                        "give the two VPCs different gateways, or different networks",
                    )
                )
            elif not first_way:
                rows.routes[RouteKey(router, str(network), table)] = RouteRow(str(at))
    return problems


def centralized(
    cluster: ClusterConfig,
    family: Family,
    vpc: str,
    join: Mapping[str, IPAddress],
    alive: Collection[str],
) -> dict[PolicyKey, PolicyRow]:
    """A VPC router's policies for networks that leave by chosen gateways.

    By the first that is alive, or by all that are, each flow by one. One policy for all networks
    that have the same gateways. They go before the workload's own gateway.
    """
    together: dict[tuple[tuple[str, ...], bool], list[IPNetwork]] = {}
    for one in cluster.outgoing:
        if one.router == vpc and one.chassis:
            mine = [network for network in one.networks if network.version == family.version]
            together.setdefault((one.chassis, one.shared), []).extend(mine)
    found = {}
    for (chassis, shared), networks in together.items():
        known = [name for name in chassis if gateway_router(name) in join]
        live = [name for name in known if name in alive] or known
        if not networks or not live:
            continue
        sources = ", ".join(map(str, collapsed(networks)))
        match = f'outport == "{join_port(vpc)}" && {family.ip}.src == {{{sources}}}'
        hops = sorted(str(join[gateway_router(name)]) for name in (live if shared else live[:1]))
        found[PolicyKey(vpc, MAIN_PRIORITY + 1, match)] = PolicyRow("reroute", tuple(hops))
    return found


def translated(
    cluster: ClusterConfig, gateways: Sequence[GatewayConfig], vpcs: Collection[str]
) -> tuple[dict[NatKey, NatRow], dict[str, SetRow]]:
    """What every gateway router translates, and the sets of those to whom it does not.

    Networks next to each other that are alike in this are one row.
    """
    found: dict[NatKey, NatRow] = {}
    sets: dict[str, SetRow] = {}
    special = {chassis for way in cluster.outgoing for chassis, _ in way.addresses}
    # The same for most gateways, and there may be hundreds.
    known: dict[tuple[frozenset[str], str], _ByAddress] = {}
    for gateway in gateways:
        mine = frozenset(gateway.routers).intersection(vpcs)
        chassis = gateway.chassis if gateway.chassis in special else ""
        if (mine, chassis) not in known:
            ways = [one for one in cluster.outgoing if one.translated and one.router in mine]
            known[mine, chassis] = _by_address(chassis, ways)
        own = [one.ip for one in (gateway.address, gateway.address6) if one is not None]
        for given, blocks in known[mine, chassis].items():
            # The first of a family is taken.
            outside = {one.version: str(one) for one in reversed((*given, *own))}
            for kept, networks in blocks.items():
                row = SetRow(kept)
                name = set_name(row) if kept else ""
                if kept:
                    sets[name] = row
                for network in networks:
                    if network.version in outside:
                        key = NatKey(gateway_router(gateway.chassis), str(network))
                        found[key] = NatRow(outside[network.version], name)
    return found, sets


_ByAddress = dict[tuple[IPAddress, ...], dict[Kept, list[IPNetwork]]]
"""What is translated to these addresses, else to the gateway's own; and to whom it is not."""


def _by_address(chassis: str, ways: Iterable[Outgoing]) -> _ByAddress:
    found: dict[tuple[IPAddress, ...], list[Outgoing]] = {}
    for way in ways:
        given = tuple(address for name, address in way.addresses if name == chassis)
        found.setdefault(given, []).append(way)
    return {given: alike(mine) for given, mine in found.items()}
