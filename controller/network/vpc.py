"""A Vpc's router: routes, policies, and the links to other VPCs."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface, ip_network

from controller.kinds.vpc import RESOURCE, VPCS, Vpc, VpcPeering, VpcPolicy, VpcRoute
from controller.network import matches
from controller.network.external import externals_of
from controller.network.gateways import TEMPLATE
from controller.network.nets import NETS, router_mac
from controller.network.rows import Row, RowKey, pairs
from controller.network.services import balancers_of
from controller.network.settings import DEFAULT_VPC
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import Derived, View
from controller.translate.ovn import Problem
from dataplane.model.addr import IPAddress

MAX_POLICY_PRIORITY = 32767
"""Of a Logical_Router_Policy (ovn-nb(5))."""
BFD_INTERVAL_MS = 100
BFD_MULTIPLIER = 3
_ACTIONS = ("allow", "drop", "reroute")


def router(vpc: str) -> RowKey:
    """The row of a VPC's router."""
    return RowKey("Logical_Router", vpc)


def group(vpc: str) -> RowKey:
    """The row of the load balancers that OVN serves to a VPC's workloads."""
    return RowKey("Load_Balancer_Group", f"mrk-{vpc}")


@dataclass(slots=True)
class _Saying:
    """Rows and problems while they are put together."""

    vpc: Vpc
    rows: dict[RowKey, Row] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, where: str, cause: str, next_step: str) -> None:
        self.problems.append(Problem(f"Vpc {self.vpc.name}", f"{where}: {cause}", next_step))


def compute(view: View, key: Hashable) -> Said:
    """The router, and what the object says of itself."""
    vpc = view.get(VPCS, key)
    if vpc is None:
        return Said()
    said = _Saying(vpc)
    outside = bool(externals_of(view, vpc))
    options = {
        "mac_binding_age_threshold": 300,
        "dynamic_neigh_routers": "true",
        # Whoever is on a wire learns who asks; inside of a VPC the rows say who has which address.
        "always_learn_from_arp_request": "true" if outside or vpc.peerings else "false",
    }
    said.rows[router(vpc.name)] = Row({"name": vpc.name, "options": pairs(options)})
    _routes(view, said)
    if vpc.enable_bfd and not any(row.table == "BFD" for row in said.rows):
        # Kube-OVN makes such routes of the OvnEips of gateway nodes. Here these nodes stand in for
        # each other by the port's HA_Chassis_Group, whatever enableBfd says.
        cause = "no static route has a next hop to watch; one gateway node at a time has the port"
        step = "take it away, or write staticRoutes with ecmpMode: ecmp to an external network"
        said.wrong("spec.enableBfd", cause, step)
    _policies(view, said)
    peers = {_peer(view, said, at, peering) for at, peering in enumerate(vpc.peerings)} - {""}
    if vpc.dynamic_routing:
        cause = "OVN 23.03 has no dynamic routing"
        said.wrong("spec.dynamicRouting", cause, "announce networks by a daemon of your own")
    subnets = view.by(NETS, "vpc", vpc.name)
    ref = ObjectRef(str(RESOURCE), "", vpc.name)
    writes: dict[ObjectRef, Wanted] = {}
    if not vpc.made:
        gone = vpc.ending and not subnets
        status = {
            "default": vpc.name == DEFAULT_VPC,
            "defaultLogicalSwitch": vpc.default_subnet,
            "router": vpc.name,
            "standby": True,
            "subnets": list(subnets),
            "vpcPeerings": sorted(peers),
            "enableExternal": vpc.enable_external or outside,
            "extraExternalSubnets": list(vpc.external_subnets),
            "enableBfd": vpc.enable_bfd,
        }
        cause = str(said.problems[0]) if said.problems else ""
        ready = ("False", "Refused", cause) if cause else ("True", "RouterMade", "")
        if vpc.ending and subnets:
            ready = ("True", "Ending", ending("Subnets of it", subnets))
        writes[ref] = Wanted(status=status, conditions={"Ready": ready}, finalizer=not gone)
    return Said(said.rows, writes, {ref: tuple(said.problems)} if said.problems else {})


def ending(what: str, names: Sequence[str]) -> str:
    """Of what is being deleted: for whom it waits, the first of them by name."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"it is being deleted, and stays while there are {what}: {', '.join(names[:3])}{more}"


def _routes(view: View, said: _Saying) -> None:
    vpc = said.vpc
    hops: dict[tuple[str, bool, str], list[VpcRoute]] = {}
    for at, route in enumerate(vpc.routes):
        where = f"spec.staticRoutes[{at}]"
        try:
            # "0.0.0.0" alone, too, as a network of one address.
            network, hop = ip_network(route.cidr, strict=False), ip_address(route.next_hop)
        except ValueError as error:
            said.wrong(where, str(error), "write cidr as 10.9.0.0/16 and nextHopIP as 10.0.0.9")
            continue
        if network.version != hop.version:
            said.wrong(where, f"{network} and {hop} are of two families", "take one of each")
            continue
        same = hops.setdefault((route.table, route.by_source, str(network)), [])
        if any(other.next_hop == route.next_hop for other in same):
            continue
        if same and not (route.ecmp and all(other.ecmp for other in same)):
            cause = f"{network} leads to {same[0].next_hop} already"
            said.wrong(where, cause, "write ecmpMode: ecmp in both, or take one away")
            continue
        same.append(route)
        refs = {"bfd": frozenset({b} if (b := _bfd(view, said, where, route, hop)) else ())}
        _reach(view, said, where, hop, "route")
        kind = "src-ip" if route.by_source else "dst-ip"
        name = f"{vpc.name}/{route.table}/{kind}/{network}/{hop}"
        said.rows[RowKey("Logical_Router_Static_Route", name)] = Row(
            {
                "ip_prefix": str(network),
                "nexthop": str(hop),
                "policy": frozenset({kind}),
                "route_table": route.table,
            },
            refs,
            (router(vpc.name), "static_routes"),
        )


def _reach(view: View, said: _Saying, where: str, hop: IPAddress, what: str) -> None:
    """Tell of a next hop that no port of the router leads to: ovn-northd leaves such routes out.

    Of a policy with several next hops it leaves out that they are chosen from: of all of them.
    """
    if hop.is_link_local and hop.version == 6:  # each port has such a network
        return
    vpc, template = said.vpc, view.get(TEMPLATE, "")
    names = {*view.by(NETS, "vpc", vpc.name), *externals_of(view, vpc)}
    nets = (view.get(NETS, name) for name in names)
    if any(hop in network for net in nets if net is not None for network in net.networks):
        return
    texts = [part for peering in vpc.peerings for part in peering.address.split(",")]
    if template is not None and vpc.name in template.routers:
        texts += [template.cluster.join, template.cluster.join6]
    for text in texts:
        with contextlib.suppress(ValueError):  # which who reads it tells
            if hop in ip_interface(text.strip()).network:
                return
    cause = f"no network of the VPC has its next hop {hop}: the {what} has no effect"
    said.wrong(where, cause, "choose an address of one of its Subnets")


def _bfd(view: View, said: _Saying, where: str, route: VpcRoute, hop: IPAddress) -> RowKey | None:
    """The session that watches a next hop, if the VPC wants one and it can have one."""
    vpc = said.vpc
    if route.bfd:
        cause = "bfdId names a row of another controller's"
        said.wrong(where, cause, "write enableBfd and ecmpMode: ecmp, and leave bfdId out")
    if not (vpc.enable_bfd and route.ecmp):
        return None
    for name in externals_of(view, vpc):
        net = view.get(NETS, name)
        if net is None or net.routed or not any(hop in network for network in net.networks):
            continue
        port, session = f"{vpc.name}-{name}", RowKey("BFD", f"{vpc.name}-{name}/{hop}")
        said.rows[session] = Row(
            {
                "logical_port": port,
                "dst_ip": str(hop),
                "min_tx": frozenset({BFD_INTERVAL_MS}),
                "min_rx": frozenset({BFD_INTERVAL_MS}),
                "detect_mult": frozenset({BFD_MULTIPLIER}),
            }
        )
        return session
    said.wrong(where, f"{hop} is of no external subnet: BFD asks only there", "take enableBfd away")
    return None


def _policies(view: View, said: _Saying) -> None:
    seen: set[tuple[int, str]] = set()
    for at, policy in enumerate(said.vpc.policies):
        where = f"spec.policyRoutes[{at}]"
        if (fault := _policy_fault(policy)) is not None:
            said.wrong(where, *fault)
            if not (instead := _instead(policy)):
                continue
            policy = replace(policy, match=instead)
        if (policy.priority, policy.match) in seen:
            said.wrong(where, "priority and match are another one's, too", "take one away")
            continue
        seen.add((policy.priority, policy.match))
        for hop in policy.next_hops:
            _reach(view, said, where, ip_address(hop), "policy")
        name = f"{said.vpc.name}/{policy.priority}/{policy.match}"
        said.rows[RowKey("Logical_Router_Policy", name)] = Row(
            {
                "priority": policy.priority,
                "match": policy.match,
                "action": policy.action,
                "nexthops": frozenset(policy.next_hops),
            },
            parent=(router(said.vpc.name), "policies"),
        )


def _instead(policy: VpcPolicy) -> str:
    """The match of one that is too many flows: without it all would pass that it drops."""
    other = replace(policy, match="ip")
    drops = policy.action == "drop" and _policy_fault(other) is None
    return matches.broader(policy.match) if drops else ""


def _policy_fault(policy: VpcPolicy) -> tuple[str, str] | None:
    if not 0 <= policy.priority <= MAX_POLICY_PRIORITY:
        return f"the priority {policy.priority} is not of 0 to 32767", "choose one of these"
    if not policy.match:
        return "it has no match", "write one, such as ip4.src == 10.1.0.0/24"
    if refused := matches.fault(policy.match):
        cause = f"the match {policy.match!r} is not written: {refused}"
        if instead := _instead(policy):
            cause += f"; until it is corrected drop is of more, of {instead!r}"
        return cause, "correct it"
    if policy.action not in _ACTIONS:
        return f"the action {policy.action!r} is none", f"write one of {', '.join(_ACTIONS)}"
    if policy.action != "reroute":
        if policy.next_hops:
            return f"{policy.action} takes no nextHopIP", "take it away, or write reroute"
        return None
    if not policy.next_hops:
        return "reroute has no nextHopIP", "write one"
    for hop in policy.next_hops:
        try:
            ip_address(hop)
        except ValueError:
            return f"the nextHopIP {hop!r} is no address", "write one, or several with commas"
    return None


def _peer(view: View, said: _Saying, at: int, peering: VpcPeering) -> str:
    """The name of the VPC that is linked to this one; empty: it is not yet."""
    here, where = said.vpc.name, f"spec.vpcPeerings[{at}]"
    try:
        mine = [ip_interface(part.strip()) for part in peering.address.split(",")]
    except ValueError as error:
        said.wrong(where, f"localConnectIP: {error}", "write it as 169.254.0.1/30")
        return ""
    if any(one.network.prefixlen == one.max_prefixlen for one in mine):
        said.wrong(where, "localConnectIP has no length", "write it as 169.254.0.1/30")
        return ""
    name, other = f"{here}-{peering.remote}", f"{peering.remote}-{here}"
    said.rows[RowKey("Logical_Router_Port", name)] = Row(
        {
            "name": name,
            "mac": str(router_mac(name)),
            "networks": frozenset(str(one) for one in mine),
            "peer": frozenset({other}),
        },
        parent=(router(here), "ports"),
    )
    remote = view.get(VPCS, peering.remote)
    if remote is None:
        said.wrong(where, f"there is no Vpc {peering.remote!r}", "make it, or correct remoteVpc")
        return ""
    back = next((one for one in remote.peerings if one.remote == here), None)
    if back is None:
        cause = f"Vpc {remote.name} has no peering with {here}"
        said.wrong(where, cause, "write one there, too: both sides have to want it")
        return ""
    return remote.name


def balanced(view: View, key: Hashable) -> Said:
    """The group of the load balancers that the switches of a VPC have in common."""
    vpc = view.get(VPCS, key)
    if vpc is None or not (found := balancers_of(view, vpc.name)):
        return Said()
    row = Row({"name": group(vpc.name).name}, {"load_balancer": found})
    return Said({group(vpc.name): row})


def grouped(view: View, vpc: str) -> Mapping[str, frozenset[RowKey]]:
    """What a switch of a VPC refers to so that OVN serves its workloads."""
    there = view.ask(GROUPED, vpc)
    return {"load_balancer_group": frozenset({group(vpc)} if there else ())}


GROUPED: Derived[bool] = Derived(
    "VPCs whose services OVN serves", lambda view, vpc: bool(balancers_of(view, vpc))
)

UNITS: tuple[Unit, ...] = (
    Unit("vpcs", VPCS, compute),
    Unit("balancers of VPCs", VPCS, balanced),
)
