"""Services for workloads behind OVN by OVN itself: load balancers on the workloads' switches.

The other way, the default, leads the networks of cluster IPs to svc0 (`gatewayrows`). It is cheaper
as long as few packets are a service's: a load balancer on a switch has every packet of the switch
pay conntrack (docs/decisions/0013).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from controller.translate.declared import declared
from controller.translate.nbrows import GROUP, GroupedRow, GroupRow
from controller.translate.ovn import LoadBalancer, LogicalRouter, NbSnapshot, is_ours
from dataplane.model.addr import IPNetwork


@dataclass(frozen=True, slots=True)
class InsideRows:
    """The group, and the switches that have it."""

    groups: Mapping[str, GroupRow] = field(default_factory=dict)
    switches: Mapping[str, GroupedRow] = field(default_factory=dict)


def inside_rows(
    nb: NbSnapshot, ranges: Sequence[IPNetwork], vpcs: Collection[LogicalRouter]
) -> InsideRows:
    """One group of all services with a VIP in `ranges`, and every switch of these VPC routers.

    Rows without the mark for the fast path are their owner's, who attaches them or does not.
    """
    switches = _switches(nb, vpcs)
    if not switches:
        return InsideRows()
    balancers = tuple(
        ref
        for ref, balancer in sorted(nb.load_balancers.items())
        if _is_inside(ref, balancer, ranges)
    )
    return InsideRows(
        {GROUP: GroupRow(balancers)}, {name: GroupedRow() for name in sorted(switches)}
    )


def _is_inside(ref: str, balancer: LoadBalancer, ranges: Sequence[IPNetwork]) -> bool:
    row = declared(balancer, ref)
    return (
        row.marked
        and row.refusal is None
        and any(
            vip.address.address in network
            for vip in row.vips
            if vip.refusal is None
            for network in ranges
        )
    )


def _switches(nb: NbSnapshot, vpcs: Collection[LogicalRouter]) -> set[str]:
    """Names of the switches, not ours, that a port of one of these routers is plugged into."""
    doors = {port.name for vpc in vpcs for ref in vpc.ports if (port := nb.router_ports.get(ref))}
    return {
        switch.name
        for switch in nb.switches.values()
        if not is_ours(switch.external_ids)
        for ref in switch.ports
        if (side := nb.switch_ports.get(ref))
        and side.type == "router"
        and side.options.get("router-port") in doors
    }
