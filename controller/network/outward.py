"""How what leaves a VPC finds its external networks: a default route, or policies before one.

A VPC whose default route nobody wrote and no gateway router makes has one to the default external
Subnet's gateway. Where nodes' gateway routers have it, what a rule translates is led past them: by
policies that go before theirs and look only at what they would have.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from ipaddress import ip_address, ip_network

from controller.kinds.nat import Rule, Use
from controller.kinds.vpc import VPCS, Vpc
from controller.network.external import externals_of, port_addresses
from controller.network.externalgw import external_subnet
from controller.network.gateways import TEMPLATE
from controller.network.nat import ENDS, KINDS
from controller.network.nets import NETS
from controller.network.podnat import annotated
from controller.network.rows import Row, RowKey
from controller.network.settings import DEFAULT_VPC
from controller.network.units import Said, Unit
from controller.network.view import View
from controller.translate.nbrows import MAIN_PRIORITY, join_port
from controller.translate.vips import port_number
from dataplane.model.addr import IPAddress, IPNetwork

LEADING, SPARING = MAIN_PRIORITY + 3, MAIN_PRIORITY + 4
"""Priorities of our policies, above those to gateway routers; what is meant for these is spared."""
ANY = {4: "0.0.0.0/0", 6: "::/0"}


def compute(view: View, key: Hashable) -> Said:
    """A VPC's routes and policies to its external networks."""
    vpc = view.get(VPCS, key)
    if vpc is None or not externals_of(view, vpc):
        return Said()
    template = view.get(TEMPLATE, "")
    led = template is not None and vpc.name in template.routers
    return Said(_policies(view, vpc) if led else _default(view, vpc))


def _gateways(view: View, vpc: Vpc, subnet: str) -> dict[int, IPAddress]:
    """The wire's routers by family, where the VPC has an address beside them."""
    net, mine = view.get(NETS, subnet), port_addresses(view, vpc.name, subnet).addresses
    if net is None or net.routed:
        return {}
    return {one.version: one for one in net.gateways if one.version in mine}


def _default(view: View, vpc: Vpc) -> dict[RowKey, Row]:
    subnet, rows = external_subnet(view), dict[RowKey, Row]()
    if subnet not in externals_of(view, vpc):
        return rows
    written = {route.cidr for route in vpc.routes if not route.by_source and not route.table}
    for version, gateway in _gateways(view, vpc, subnet).items():
        if not any(_is_default(cidr, version) for cidr in written):
            name = f"{vpc.name}//external/{ANY[version]}"
            rows[RowKey("Logical_Router_Static_Route", name)] = Row(
                {
                    "ip_prefix": ANY[version],
                    "nexthop": str(gateway),
                    "policy": frozenset({"dst-ip"}),
                    "route_table": "",
                },
                parent=(RowKey("Logical_Router", vpc.name), "static_routes"),
            )
    return rows


def _is_default(cidr: str, version: int) -> bool:
    try:
        network = ip_network(cidr, strict=False)
    except ValueError:
        return False
    return network.version == version and network.prefixlen == 0


def _policies(view: View, vpc: Vpc) -> dict[RowKey, Row]:
    rows: dict[RowKey, Row] = {}
    whole: dict[tuple[str, int], set[str]] = {}
    port = f'outport == "{join_port(vpc.name)}"'

    def lead(match: str, hop: IPAddress) -> None:
        key = RowKey("Logical_Router_Policy", f"{vpc.name}/{LEADING}/{match}")
        rows[key] = _policy(vpc, LEADING, match, "reroute", str(hop))

    hops = {subnet: _gateways(view, vpc, subnet) for subnet in externals_of(view, vpc)}
    for subnet, inside, rule in _translated(view, vpc):
        hop = hops.get(subnet, {}).get(inside.version)
        if hop is None:
            continue
        if rule is not None and rule.use is Use.DNAT:
            # Answers alone: what such a workload begins is not translated.
            answers = f"{rule.protocol}.src == {port_number(rule.inner)}"
            lead(f"{port} && ip{inside.version}.src == {inside} && {answers}", hop)
        else:
            whole.setdefault((subnet, inside.version), set()).add(str(inside))
    for (subnet, version), inside_too in whole.items():
        sources = ", ".join(sorted(inside_too))
        lead(f"{port} && ip{version}.src == {{{sources}}}", hops[subnet][version])
    return rows | _spared(view, vpc, port) if rows else rows


def _translated(view: View, vpc: Vpc) -> Iterator[tuple[str, IPAddress | IPNetwork, Rule | None]]:
    """Whatever is translated in a VPC, with the external Subnet that it leaves by."""
    first = external_subnet(view)
    for use, kind in KINDS.items():
        for name in view.all(kind):
            rule, ends = view.get(kind, name), view.ask(ENDS, (use, name))
            if rule is not None and ends is not None and ends.vpc == vpc.name:
                for _, inside in ends.pairs():
                    yield ends.eip.subnet or first, inside, rule
    for outside, inside in annotated(view) if vpc.name == DEFAULT_VPC else ():
        yield _subnet_of(view, vpc, outside), inside, None


def _subnet_of(view: View, vpc: Vpc, address: IPAddress) -> str:
    """The external Subnet that an address is of; the first, if it is of none."""
    names = externals_of(view, vpc)
    for name in names:
        net = view.get(NETS, name)
        if net is not None and any(
            address in network for network in net.networks if network.version == address.version
        ):
            return name
    return names[0]


def _spared(view: View, vpc: Vpc, port: str) -> dict[RowKey, Row]:
    """What is for one gateway router in particular goes there, whoever sends it."""
    template = view.get(TEMPLATE, "")
    assert template is not None
    cluster, rows = template.cluster, dict[RowKey, Row]()
    for texts in ((cluster.join, cluster.service_pool), (cluster.join6, cluster.service_pool6)):
        networks = [text for text in texts if text]
        if networks:
            version = ip_address(networks[0].partition("/")[0]).version
            match = f"{port} && ip{version}.dst == {{{', '.join(networks)}}}"
            key = RowKey("Logical_Router_Policy", f"{vpc.name}/{SPARING}/{match}")
            rows[key] = _policy(vpc, SPARING, match, "allow")
    return rows


def _policy(vpc: Vpc, priority: int, match: str, action: str, *hops: str) -> Row:
    return Row(
        {"priority": priority, "match": match, "action": action, "nexthops": frozenset(hops)},
        parent=(RowKey("Logical_Router", vpc.name), "policies"),
    )


UNITS: tuple[Unit, ...] = (Unit("ways to external networks", VPCS, compute),)
