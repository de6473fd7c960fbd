"""The nodes' gateway routers, as the cluster controller's own words: from Nodes, Vpcs and Subnets.

The rows are made by `controller.translate.central.northbound`, which keeps the addresses of join
networks and of svc0 in the rows themselves; here it is only decided what it is told, which is what
the file of a cluster without Kubernetes says: which node has a gateway, at which address, and which
VPCs it leads to. Networks that leave with a gateway's address (`natOutgoing`) or by chosen nodes
(`gatewayType: centralized`) are told it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_interface, ip_network

from controller.kinds.subnet import CENTRALIZED, OVN, SUBNETS, Subnet
from controller.kinds.vpc import VPCS
from controller.network.eastwest import leads_to_svc0
from controller.network.external import networks_of
from controller.network.facts import NODES, NetNode
from controller.network.giving import Claim, Given, give, ranges_of
from controller.network.nets import NETS
from controller.network.settings import DEFAULT_VPC, settings
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import Derived, Kind, View
from controller.translate.ovn import Problem
from controller.translate.vips import Fault
from dataplane.model.addr import IPAddress, readable
from dataplane.model.config import ClusterConfig, GatewayConfig, Outgoing, OutgoingRule

ADDRESS_ANNOTATION = "millrace.dev/gateway-address"
"""Of a Node: its gateway router's addresses with their networks' lengths, with commas."""
PHYSNET_ANNOTATION = "millrace.dev/gateway-physnet"
"""Of a Node: the physical network (ovn-bridge-mappings) that its gateway router is on."""

_Interface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class GatewayTemplate:
    """What nodes' gateways have in common.

    Attributes:
        cluster: all but the gateways: join networks, svc0's pools, ranges of services.
        physnet: of nodes that name none.
        addresses: ranges for nodes that have no address yet; none: those get no gateway.
        lengths: of the provider network's prefixes, by family.
        next_hops: the provider network's routers, one of each family at most.
        routers: the VPCs that gateways lead to.
        nodes: a label and its value that nodes with a gateway have; None: all nodes.
    """

    cluster: ClusterConfig
    physnet: str = "external"
    addresses: tuple[str, ...] = ()
    lengths: Mapping[int, int] | None = None
    next_hops: tuple[IPAddress, ...] = ()
    routers: tuple[str, ...] = (DEFAULT_VPC,)
    nodes: tuple[str, str] | None = None

    def length(self, version: int) -> int:
        """The provider network's prefix length in one family."""
        return (self.lengths or {}).get(version, 24 if version == 4 else 64)


TEMPLATE: Kind[GatewayTemplate] = Kind("gateway template")
"""One fact, of the key ""; without it nobody makes gateways."""


def _own(node: NetNode) -> tuple[tuple[_Interface, ...], str]:
    """The addresses that a node's annotation tells, or the text that tells none."""
    found = []
    text = node.annotations.get(ADDRESS_ANNOTATION, "")
    for part in filter(None, (word.strip() for word in text.split(","))):
        try:
            found.append(ip_interface(part))
        except ValueError:
            return (), part
    return tuple(found), ""


def _given(view: View, _: Hashable) -> Mapping[Hashable, Given]:
    """The addresses of all nodes that want one: what annotations tell stays."""
    template = view.get(TEMPLATE, "")
    if template is None or not template.addresses:
        return {}
    ranges, _faults = ranges_of(template.addresses)
    families = tuple(version for version in (4, 6) if ranges[version].parts)
    claims: list[Claim] = []
    written: list[IPAddress] = []
    for name in _names(view, template):
        node = view.get(NODES, name)
        if node is None:
            continue
        own = tuple(one.ip for one in _own(node)[0])
        # Who wrote an address that is no member of the ranges has it all the same.
        written += [ip for ip in own if int(ip) not in ranges[ip.version]]
        claims.append(Claim(("node", name), (name,), families, held=own))
    for name in view.by(SUBNETS, "leaves as", True):
        subnet = view.get(SUBNETS, name)
        own = readable(text for _, text in subnet.gateway_addresses) if subnet else ()
        written += [ip for ip in own if all(ip not in claim.held for claim in claims)]
    return give(ranges, claims, [*template.next_hops, *written])


GIVEN: Derived[Mapping[Hashable, Given]] = Derived("gateways' addresses", _given)


def _names(view: View, template: GatewayTemplate) -> tuple[str, ...]:
    return view.all(NODES) if template.nodes is None else view.by(NODES, "label", template.nodes)


@dataclass(frozen=True, slots=True)
class NodeGateway:
    """One node's gateway, or why it has none; `told`: what its annotation should be."""

    gateway: GatewayConfig | None = None
    told: str | None = None
    faults: tuple[Fault, ...] = ()


def _of_node(view: View, name: Hashable) -> NodeGateway:
    template, node = view.get(TEMPLATE, ""), view.get(NODES, name)
    if template is None or node is None or name not in _names(view, template):
        return NodeGateway()
    own, wrong = _own(node)
    if wrong:
        step = "write it as 192.0.2.11/24"
        return NodeGateway(None, None, (Fault(f"{ADDRESS_ANNOTATION}: {wrong!r} is none", step),))
    addresses: dict[int, _Interface] = {one.version: one for one in own}
    given = view.ask(GIVEN, "").get(("node", node.name), Given())
    for version, address in given.addresses.items():
        addresses.setdefault(version, ip_interface(f"{address}/{template.length(version)}"))
    four, six = addresses.get(4), addresses.get(6)
    if not isinstance(four, IPv4Interface):
        faults = given.faults or (
            Fault(
                "it has no gateway: nothing says its IPv4 address on the provider network",
                f"annotate it with {ADDRESS_ANNOTATION}, or give the template addresses",
            ),
        )
        return NodeGateway(None, None, faults)
    hops = {hop.version: str(hop) for hop in template.next_hops}
    with6 = isinstance(six, IPv6Interface) and bool(template.cluster.join6)
    gateway = GatewayConfig(
        node.name,
        node.annotations.get(PHYSNET_ANNOTATION) or template.physnet,
        four,
        hops.get(4),
        tuple(name for name in template.routers if view.get(VPCS, name) is not None),
        six if with6 and isinstance(six, IPv6Interface) else None,
        hops.get(6) if with6 else None,
    )
    told = ",".join(str(addresses[version]) for version in sorted(addresses))
    return NodeGateway(gateway, told)


OF_NODE: Derived[NodeGateway] = Derived("a node's gateway", _of_node)


def node_said(view: View, key: Hashable) -> Said:
    """The address that a node's gateway has, kept in its annotation."""
    found, node = view.ask(OF_NODE, key), view.get(NODES, key)
    if node is None:
        return Said()
    ref = ObjectRef("nodes", "", node.name)
    problems = tuple(Problem(f"node {node.name}", f.cause, f.next_step) for f in found.faults)
    writes = {}
    if found.told is not None:
        writes[ref] = Wanted(annotations={ADDRESS_ANNOTATION: found.told})
    return Said({}, writes, {ref: problems} if problems else {})


# -- subnets that leave in a way of their own ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Way:
    outgoing: Outgoing | None = None
    problems: tuple[Problem, ...] = ()


def _of_subnet(view: View, name: Hashable) -> _Way:
    subnet = view.get(SUBNETS, name)
    template = view.get(TEMPLATE, "")
    if subnet is None or subnet.vlan or subnet.provider != OVN:
        return _Way()
    vpc = subnet.vpc or DEFAULT_VPC
    if subnet.name == settings(view).join_subnet:
        return _Way()
    if template is None or vpc not in template.routers:
        return _Way(None, tuple(_no_gateways(subnet, vpc, template)))
    problems = []

    def say(cause: str, step: str) -> None:
        problems.append(Problem(f"Subnet {subnet.name}", cause, step))

    chassis: tuple[str, ...] = ()
    if subnet.gateway_type == CENTRALIZED:
        chassis = _gateway_nodes(view, subnet)
        if not chassis:
            say(
                "gatewayType is centralized, and none of its gateway nodes is there: its "
                "workloads leave by their own nodes",
                "correct gatewayNode or gatewayNodeSelectors",
            )
    rules = tuple(_rules(subnet, say)) if subnet.nat_outgoing else ()
    net = view.get(NETS, name)
    networks = networks_of(subnet) if net is None else net.networks
    if not networks or not (chassis or subnet.nat_outgoing):
        return _Way(None, tuple(problems))
    own = tuple(_own_addresses(view, subnet, say)) if chassis and subnet.nat_outgoing else ()
    way = Outgoing(vpc, networks, subnet.nat_outgoing, chassis, subnet.ecmp, rules, own)
    return _Way(way, tuple(problems))


def _no_gateways(subnet: Subnet, vpc: str, template: GatewayTemplate | None) -> Iterator[Problem]:
    asked = "natOutgoing" if subnet.nat_outgoing else "gatewayType: centralized"
    if subnet.made or not (subnet.nat_outgoing or subnet.gateway_type == CENTRALIZED):
        return
    if template is None:
        cause, step = "the controller's file has no table [gateways]", "write it: docs/gateways.md"
    else:
        cause = f"no gateways lead to Vpc {vpc}"
        step = "name it in routers of [gateways], or write an OvnSnatRule"
    yield Problem(f"Subnet {subnet.name}", f"{asked} has no effect: {cause}", step)


def _own_addresses(
    view: View, subnet: Subnet, say: Callable[[str, str], None]
) -> Iterator[tuple[str, IPAddress]]:
    """What workloads are called outside by `gatewayNode: node:address`.

    The gateway answers who asks for it, so it has to be of the provider network.
    """
    for name, text in subnet.gateway_addresses:
        gateway = view.ask(OF_NODE, name).gateway
        if gateway is None:
            continue
        mine = [one for one in (gateway.address, gateway.address6) if one is not None]
        found = next(
            (one for one in readable((text,)) if any(one in m.network for m in mine)), None
        )
        if found is None:
            cause = f"gatewayNode: {text!r} is no address of the provider network of node {name}"
            say(f"{cause}: its gateway's own is used", "write one of it, or the node's name alone")
        else:
            yield name, found


def _rules(subnet: Subnet, say: Callable[[str, str], None]) -> Iterator[OutgoingRule]:
    """What of natOutgoingPolicyRules can be; a rule with anything unreadable is void as a whole."""
    for at, rule in enumerate(subnet.nat_rules):
        where = f"natOutgoingPolicyRules[{at}]"
        try:
            sources, destinations = (
                tuple(ip_network(text, strict=False) for text in texts)
                for texts in (rule.sources, rule.destinations)
            )
        except ValueError as error:
            say(f"{where}: {error}: this rule is void", "write addresses and networks with commas")
            continue
        families = [{one.version for one in ones} or {4, 6} for ones in (sources, destinations)]
        if families[0].isdisjoint(families[1]):
            cause = f"{where}: its sources and destinations are of two families: no packet fits it"
            say(cause, "write a rule for each family")
            continue
        yield OutgoingRule(sources, destinations, rule.action == "nat")


WAY_OUT: Derived[_Way] = Derived("a Subnet's way out", _of_subnet)


def _gateway_nodes(view: View, subnet: Subnet) -> tuple[str, ...]:
    """Those of gatewayNode that are there; without such a field those of its selectors, by name."""
    if subnet.gateway_nodes:
        there = (name for name in subnet.gateway_nodes if view.get(NODES, name) is not None)
        return tuple(dict.fromkeys(there))
    matchers = subnet.gateway_selectors
    return tuple(
        name
        for name in (view.all(NODES) if matchers else ())
        if (node := view.get(NODES, name)) is not None
        and any(matcher.matches(node.labels) for matcher in matchers)
    )


def subnet_said(view: View, key: Hashable) -> Said:
    """What of a Subnet's way out cannot be."""
    subnet, way = view.get(SUBNETS, key), view.ask(WAY_OUT, key)
    if subnet is None or not way.problems:
        return Said()
    return Said({}, {}, {ObjectRef("subnets.kubeovn.io", "", subnet.name): way.problems})


# -- the whole ------------------------------------------------------------------------------------


def cluster_config(view: View) -> ClusterConfig | None:
    """What the cluster controller is told at this moment; None: there are no gateways to make.

    Feed it to `controller.translate.central.northbound`, or to a running `Central` (`take`).
    """
    template = view.get(TEMPLATE, "")
    if template is None:
        return None
    gateways = [view.ask(OF_NODE, name).gateway for name in _names(view, template)]
    # Where OVN serves workloads its groups are the Vpcs' own.
    ways = [view.ask(WAY_OUT, name).outgoing for name in view.all(SUBNETS)]
    return replace(
        template.cluster,
        gateways=tuple(one for one in gateways if one is not None),
        service_ranges=template.cluster.service_ranges if leads_to_svc0(view) else (),
        outgoing=tuple(one for one in ways if one is not None),
        one_way_in=True,
    )


CLUSTER: Derived[ClusterConfig | None] = Derived(
    "what the cluster controller is told", lambda view, _: cluster_config(view)
)
"""The same as a derived fact, of the key ""."""


def _kept(view: View, _: Hashable) -> Said:
    """Nothing: it has the cluster's whole word computed anew by what changes, and not whenever."""
    view.ask(CLUSTER, "")
    return Said()


UNITS: tuple[Unit, ...] = (
    Unit("gateways", TEMPLATE, _kept),
    Unit("gateway addresses", NODES, node_said),
    Unit("ways out", SUBNETS, subnet_said),
)
