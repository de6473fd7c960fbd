"""A Subnet's switch, its router's port on it, and what is answered to DHCP."""

from __future__ import annotations

from collections.abc import Hashable

from controller.ipam.errors import AddressError
from controller.ipam.subnet import intervals_of
from controller.kinds.addresses import POOL_RESOURCE, POOLS, VIPS, IpPool
from controller.kinds.nat import EIPS
from controller.kinds.subnet import RESOURCE, SUBNETS, Subnet, is_logical
from controller.kinds.vpc import VPCS
from controller.network import dhcp
from controller.network.asks import VIP_LEASE
from controller.network.external import inner
from controller.network.facts import LEASES
from controller.network.nets import NETS, REFUSALS, USAGE, Net, Usage, router_mac
from controller.network.rows import Row, RowKey, Value, pairs
from controller.network.settings import settings
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import View
from controller.network.vpc import ending, grouped, router
from controller.policy.boxes import texts
from controller.translate.ovn import Problem
from dataplane.model.names import NETWORKS_KEY

MAX_COUNT = 2**53 - 1
"""Counts in a status end here: JSON's readers take numbers for floating point ones (RFC 8259, 6)"""
_UNSERVED = {
    "external_gateway": "externalEgressGateway",
    "policy_table": "policyRoutingTableID",
    "external_lb": "enableExternalLBAddress",
    "node_network": "nodeNetwork",
    "vips": "vips",
    "overlay_only": "u2oFeatures.overlayOnlyRouting",
}
"""Fields that have no effect here, and that somebody who writes them counts on."""


def switch(subnet: str) -> RowKey:
    """The row of a subnet's switch."""
    return RowKey("Logical_Switch", subnet)


def switch_side(net: Net) -> str:
    """Name of the switch's port to its router."""
    return f"{net.name}-{net.vpc}"


def router_side(net: Net) -> str:
    """Name of the router's port on the switch."""
    return f"{net.vpc}-{net.name}"


def compute(view: View, key: Hashable) -> Said:
    """The rows of a subnet."""
    subnet, net = view.get(SUBNETS, key), view.get(NETS, key)
    if subnet is None or net is None:
        return Said()
    who, ref = f"Subnet {subnet.name}", ObjectRef(str(RESOURCE), "", subnet.name)
    problems = [
        Problem(who, f"spec.{name} has no effect here", "take it away; docs/kubernetes-kinds.md")
        for field, name in _UNSERVED.items()
        if getattr(subnet, field)
    ]
    problems += _belongs(view, subnet, net)
    rows: dict[RowKey, Row] = {}
    if net.usable:
        mtu = subnet.mtu or settings(view).mtu
        try:
            rows |= _switch(view, subnet, net, mtu)
        except ValueError as error:
            problems.append(dhcp.fault(who, "spec", error))
            rows |= _switch(view, _plain(subnet), net, mtu)
    return Said(rows, {}, {ref: tuple(problems)} if problems else {})


def _belongs(view: View, subnet: Subnet, net: Net) -> list[Problem]:
    who = f"Subnet {subnet.name}"
    vpc = view.get(VPCS, net.vpc)
    if vpc is None:
        return [Problem(who, f"there is no Vpc {net.vpc!r}", "make it, or correct spec.vpc")]
    if not vpc.namespaces:
        return []
    return [
        Problem(
            who,
            f"its namespace {namespace} may not use Vpc {vpc.name}",
            "add it to the Vpc's namespaces, or take it away here",
        )
        for namespace in subnet.namespaces
        if namespace not in vpc.namespaces
    ]


def _plain(subnet: Subnet) -> Subnet:
    """The same without texts that might be wrong."""
    return Subnet(
        subnet.name, vlan=subnet.vlan, multicast=subnet.multicast, dhcp=subnet.dhcp,
        balanced=subnet.balanced, logical_gateway=subnet.logical_gateway, mtu=subnet.mtu,
        route_table=subnet.route_table,
    )  # fmt: skip


def _switch(view: View, subnet: Subnet, net: Net, mtu: int) -> dict[RowKey, Row]:
    rows: dict[RowKey, Row] = {}
    config: dict[str, object] = {}
    if mtu:
        # Not OVN's: the node daemons give it to interfaces whose subnet has no DHCP.
        config["mtu"] = mtu
    if subnet.multicast:
        config |= _snooping(net)
    # Of a network of another plugin the switch tells nodes the addresses, and carries nothing.
    joined = (
        subnet.name != settings(view).join_subnet
        and subnet.balanced is not False
        and is_logical(subnet.provider)
    )
    columns: dict[str, Value] = {"name": net.name, "other_config": pairs(config)}
    shown = inner(view, net)
    told = {} if net.routed else {NETWORKS_KEY: _networks(shown)}
    columns["external_ids"] = pairs({name: text for name, text in told.items() if text})
    rows[switch(net.name)] = Row(
        columns,
        grouped(view, net.vpc) if joined else {"load_balancer_group": frozenset()},
    )
    if subnet.dhcp:
        for version, text in ((4, subnet.dhcp4), (6, subnet.dhcp6)):
            row = dhcp.options_row(subnet, shown, version, mtu, text)
            if row is not None:
                rows[dhcp.switch_options(net.name, version)] = row
    if net.routed and net.networks:
        advertised = dhcp.advertised(subnet, mtu) if net.space.network(6) else {}
        columns = {
            "name": router_side(net),
            "mac": str(router_mac(router_side(net))),
            "networks": frozenset(net.gateway_networks()),
            "ipv6_ra_configs": pairs(advertised),
            "options": pairs({"route_table": subnet.route_table} if subnet.route_table else {}),
        }
        parent = (router(net.vpc), "ports")
        rows[RowKey("Logical_Router_Port", router_side(net))] = Row(columns, parent=parent)
        rows[RowKey("Logical_Switch_Port", switch_side(net))] = Row(
            {
                "name": switch_side(net),
                "type": "router",
                "addresses": frozenset({"router"}),
                "options": pairs({"router-port": router_side(net)} | _answered(view, net.name)),
            },
            parent=(switch(net.name), "ports"),
        )
    return rows


def _answered(view: View, subnet: str) -> dict[str, str]:
    """Addresses of the subnet that load balancers have: the router answers for them.

    A workload asks for what is of its own network, and nobody has these (`switch_lb_vip`).
    """
    found: list[str] = []
    for name in view.by(VIPS, "subnet", subnet):
        vip, lease = view.get(VIPS, name), view.get(LEASES, VIP_LEASE + name)
        if vip is not None and vip.use and lease is not None:
            found += map(str, lease.addresses)
    return {"arp_proxy": " ".join(found)} if found else {}


def _networks(net: Net) -> str:
    """For the node daemons: what a pod's interface on a wire needs to know of it."""
    by_family = {gateway.version: gateway for gateway in net.gateways}
    return ",".join(f"{network} {by_family[network.version]}" for network in net.networks)


def _snooping(net: Net) -> dict[str, object]:
    source = next((str(gateway) for gateway in net.gateways if gateway.version == 4), "")
    found: dict[str, object] = {"mcast_snoop": "true"}
    if source:
        found |= {
            "mcast_querier": "true",
            "mcast_ip4_src": source,
            "mcast_eth_src": str(router_mac(router_side(net))),
        }
    return found


def status(view: View, key: Hashable) -> Said:
    """What a Subnet says of itself."""
    subnet, net = view.get(SUBNETS, key), view.get(NETS, key)
    if subnet is None or net is None or subnet.made:
        return Said()
    usage = view.get(USAGE, (subnet.name, "")) or Usage()
    told: dict[str, object] = {
        **_counts(usage),
        "mcastQuerierIP": "",
        "mcastQuerierMAC": "",
    }
    if net.usable and subnet.multicast:
        config = _snooping(net)
        told["mcastQuerierIP"] = config.get("mcast_ip4_src", "")
        told["mcastQuerierMAC"] = config.get("mcast_eth_src", "")
    if net.usable:
        told["accepted"] = {
            "vpc": net.vpc,
            "cidrBlock": net.cidr,
            "gateway": net.gateway,
            "excludeIps": list(net.excluded),
        }
    cause = "; ".join(f"{problem.cause}; {problem.next_step}" for problem in net.refused)
    in_force = "what was in force stays so" if net.usable else "no switch is made"
    conditions = {
        "Validated": ("False", "Refused", cause) if cause else ("True", "Valid", ""),
        "Ready": ("True", "SwitchMade", "") if net.usable else ("False", "Refused", cause),
        "Error": ("True", "Refused", f"{cause}: {in_force}") if cause else ("False", "None", ""),
    }
    used = _users(view, subnet.name) if subnet.ending else ()
    gone = subnet.ending and not used
    if used and net.usable:
        conditions["Ready"] = ("True", "Ending", ending("addresses of it", used))
    ref = ObjectRef(str(RESOURCE), "", subnet.name)
    return Said(writes={ref: Wanted(status=told, conditions=conditions, finalizer=not gone)})


def _users(view: View, subnet: str) -> tuple[str, ...]:
    """Who has addresses of it; for OvnEips that have none, and will get none, nothing waits."""
    eips = ((name, view.get(EIPS, name)) for name in view.by(EIPS, "subnet", subnet))
    held = tuple(name for name, eip in eips if eip is not None and eip.held)
    return view.by(LEASES, "subnet", subnet) or held


def _counts(usage: Usage) -> dict[str, object]:
    return {
        f"v{version}{name}IPs": min(counts.get(version, 0), MAX_COUNT)
        for version in (4, 6)
        for name, counts in (("available", usage.available), ("using", usage.using))
    }


def pool_status(view: View, key: Hashable) -> Said:
    """What an IPPool says of itself."""
    pool = view.get(POOLS, key)
    if pool is None:
        return Said()
    usage = view.get(USAGE, (pool.subnet, pool.name)) or Usage()
    # Texts, and capitals within: so Kube-OVN's definition has it.
    told = {
        f"v{version}{name}IPs": str(counts.get(version, 0))
        for version in (4, 6)
        for name, counts in (("Available", usage.available), ("Using", usage.using))
    }
    ref = ObjectRef(str(POOL_RESOURCE), "", pool.name)
    found = view.get(REFUSALS, (str(POOL_RESOURCE), "", pool.name)) or ()
    cause = "; ".join(map(str, found))
    conditions = {"Ready": ("False", "Refused", cause) if cause else ("True", "InUse", "")}
    rows = _listed(pool) if pool.listed and not cause else {}
    return Said(rows, {ref: Wanted(status=told, conditions=conditions)})


def _listed(pool: IpPool) -> dict[RowKey, Row]:
    """The address set of a pool, called as Kube-OVN calls it: its matches know no hyphens."""
    name = pool.name.replace("-", ".")
    try:
        parts = {v: intervals_of(pool.addresses, v, pool.name).parts for v in (4, 6)}
    except AddressError:  # which is said by who gives its addresses
        return {}
    found = texts((version, *part) for version, both in parts.items() for part in both)
    return {RowKey("Address_Set", name): Row({"name": name, "addresses": found})}


def refusals(view: View, key: Hashable) -> Said:
    """Why something was given no address, said by the object that asked."""
    problems = view.get(REFUSALS, key)
    if not problems or not isinstance(key, tuple):
        return Said()
    return Said(problems={ObjectRef(*key): problems})


UNITS: tuple[Unit, ...] = (
    Unit("subnets", SUBNETS, compute),
    Unit("status of subnets", SUBNETS, status),
    Unit("status of pools", POOLS, pool_status),
    Unit("refusals of addresses", REFUSALS, refusals),
)
