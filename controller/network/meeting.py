"""Subnets on wires that meet their VPC beside the wire's own router (`u2oInterconnection`).

The VPC's router has an address there, which is the gateway of the Subnet's workloads. What they
send to networks of the VPC it passes on; everything else goes to the wire's router, untranslated,
by a route table of that port's own. What comes from the wire comes to the workloads as ever.
"""

from __future__ import annotations

from collections.abc import Hashable

from controller.kinds.subnet import RESOURCE, SUBNETS
from controller.kinds.vpc import VPCS
from controller.network.external import GIVEN, externals_of, inner, meeting
from controller.network.giving import Given
from controller.network.nets import NETS, Net, router_mac
from controller.network.rows import Row, RowKey, pairs
from controller.network.subnet import router_side, switch, switch_side
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import View
from controller.network.vpc import router
from controller.translate.ovn import Problem


def compute(view: View, key: Hashable) -> Said:
    """The rows of a Subnet's meeting with its VPC."""
    subnet, net = view.get(SUBNETS, key), view.get(NETS, key)
    if subnet is None or net is None or not net.usable or not subnet.u2o:
        return Said()
    ref, who = ObjectRef(str(RESOURCE), "", subnet.name), f"Subnet {subnet.name}"
    vpc = view.get(VPCS, net.vpc)
    cause = ""
    if not meeting(subnet):
        cause = "the Subnet has no vlan, or the VPC's router is its gateway anyway"
    elif vpc is not None and subnet.name in externals_of(view, vpc):
        cause = f"Vpc {vpc.name} has an external port on it"
    elif other := _overlapping(view, net):
        cause = f"its network overlaps that of Subnet {other}, which is of Vpc {net.vpc}, too"
    if cause:
        problem = Problem(who, f"u2oInterconnection has no effect: {cause}", "take it away")
        return Said(problems={ref: (problem,)})
    given = view.ask(GIVEN, subnet.name).get(("interconnection", subnet.name), Given())
    problems = tuple(
        Problem(who, f"u2oInterconnectionIP: {fault.cause}", fault.next_step)
        for fault in given.faults
    )
    found = inner(view, net)
    if not given.addresses or vpc is None:
        return Said(problems={ref: problems} if problems else {})
    side, table = RowKey("Logical_Router_Port", router_side(net)), f"u2o-{subnet.name}"
    mac = str(router_mac(side.name))
    rows = {
        side: Row(
            {
                "name": side.name,
                "mac": mac,
                "networks": frozenset(found.gateway_networks()),
                "options": pairs({"route_table": table}),
            },
            parent=(router(net.vpc), "ports"),
        ),
        RowKey("Logical_Switch_Port", switch_side(net)): Row(
            {
                "name": switch_side(net),
                "type": "router",
                "addresses": frozenset({"router"}),
                "options": pairs({"router-port": side.name}),
            },
            parent=(switch(net.name), "ports"),
        ),
    }
    for gateway in net.gateways:
        if gateway.version in given.addresses:
            prefix = "0.0.0.0/0" if gateway.version == 4 else "::/0"
            name = f"{net.vpc}/{table}/{prefix}"
            rows[RowKey("Logical_Router_Static_Route", name)] = Row(
                {
                    "ip_prefix": prefix,
                    "nexthop": str(gateway),
                    "policy": frozenset({"dst-ip"}),
                    "route_table": table,
                },
                parent=(router(net.vpc), "static_routes"),
            )
    status = {
        "u2oInterconnectionIP": ",".join(str(given.addresses[v]) for v in sorted(given.addresses)),
        "u2oInterconnectionMAC": mac,
        "u2oInterconnectionVPC": net.vpc,
    }
    writes = {} if subnet.made else {ref: Wanted(status=status)}
    return Said(rows, writes, {ref: problems} if problems else {})


def _overlapping(view: View, net: Net) -> str:
    """Another Subnet that the same router is on, and that has an address of this one."""
    for name in view.by(NETS, "vpc", net.vpc):
        other, subnet = view.get(NETS, name), view.get(SUBNETS, name)
        if other is None or subnet is None or name == net.name:
            continue
        there = other.networks if other.routed or meeting(subnet) else ()
        if any(a.overlaps(b) for a in net.networks for b in there if a.version == b.version):
            return str(name)
    return ""


UNITS: tuple[Unit, ...] = (
    Unit("meetings of wires and VPCs", SUBNETS, compute, lambda subnet: subnet.u2o),
)
