"""OVN's northbound database, watched: each change becomes one frozen `NbSnapshot`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from controller.ovn.rows import refs, text_or_none
from controller.translate.ovn import (
    AddressSet,
    DhcpOptions,
    LoadBalancer,
    LoadBalancerGroup,
    LogicalRouter,
    LogicalRouterPort,
    LogicalSwitch,
    LogicalSwitchPort,
    Nat,
    NbSnapshot,
    RouterPolicy,
    StaticMacBinding,
    StaticRoute,
)
from dataplane.drivers.idl import DatabaseClient, Replica, Row, optional, read
from dataplane.model.names import OWNER, OWNER_KEY

T = TypeVar("T")

DATABASE = "OVN_Northbound"

TABLES: Mapping[str, tuple[str, ...]] = {
    "Load_Balancer": ("name", "vips", "protocol", "options", "external_ids", "health_check"),
    "Load_Balancer_Group": ("name", "load_balancer"),
    "Logical_Switch": (
        "name", "ports", "load_balancer", "load_balancer_group", "other_config", "external_ids",
    ),
    "Logical_Switch_Port": (
        "name", "type", "addresses", "dynamic_addresses", "options", "port_security",
        "parent_name", "tag", "dhcpv4_options", "external_ids",
    ),
    "DHCP_Options": ("cidr", "options"),
    "Logical_Router": (
        "name", "ports", "static_routes", "policies", "nat", "load_balancer",
        "load_balancer_group", "options", "external_ids",
    ),
    "Logical_Router_Port": ("name", "mac", "networks", "options", "external_ids"),
    "Logical_Router_Static_Route": (
        "ip_prefix", "nexthop", "output_port", "policy", "route_table", "external_ids",
    ),
    "Logical_Router_Policy": (
        "priority", "match", "action", "nexthop", "nexthops", "external_ids",
    ),
    "NAT": ("type", "external_ip", "logical_ip", "external_ids", "exempted_ext_ips"),
    "Static_MAC_Binding": ("logical_port", "ip", "mac", "override_dynamic_mac"),
}  # fmt: skip
_SETS = {"Address_Set": ("name", "addresses", "external_ids")}
"""For the writer alone, and of those its own: policies' sets have a member for each workload."""
_OURS = [["external_ids", "includes", ["map", [[OWNER_KEY, OWNER]]]]]

_NOT_NODES = {
    "Logical_Switch_Port": ("port_security",),
    "Logical_Router": ("static_routes", "policies", "nat"),
    **{
        table: TABLES[table]
        for table in (
            "Logical_Router_Static_Route", "Logical_Router_Policy", "NAT", "Static_MAC_Binding",
        )
    },
}  # fmt: skip
"""Of TABLES, what no node asks: there may be as many NAT rows, and more, as there are pods."""

NODE_TABLES: Mapping[str, tuple[str, ...]] = {
    table: left
    for table, columns in TABLES.items()
    if (left := tuple(one for one in columns if one not in _NOT_NODES.get(table, ())))
}


def client(
    remote: str,
    on_change: Callable[[NbSnapshot], None] = lambda _: None,
    on_connection: Callable[[bool], None] = lambda _: None,
    *,
    leader_only: bool = False,
) -> DatabaseClient[NbSnapshot]:
    """A client of the northbound database at `remote`; see `DatabaseClient`, start it.

    A writer needs `leader_only`, and sees everything but others' address sets; a node only reads
    NODE_TABLES, and any member of a cluster, or a relay, will do.
    """
    return DatabaseClient(
        remote=remote,
        database=DATABASE,
        tables={**TABLES, **_SETS} if leader_only else NODE_TABLES,
        snapshot=snapshot,
        on_change=on_change,
        on_connection=on_connection,
        leader_only=leader_only,
        prepare=_prepare,
    )


def _prepare(replica: Replica) -> None:
    if replica.has("Address_Set"):
        replica.cond_change("Address_Set", _OURS)


def snapshot(replica: Replica) -> NbSnapshot:
    """What the replica holds. Only rows that changed are parsed again."""

    def rows(table: str, parse: Callable[[Row], tuple[str, T]]) -> Mapping[str, T]:
        return replica.keyed(table, parse) if replica.has(table) else {}

    return NbSnapshot(
        load_balancers=rows("Load_Balancer", _load_balancer),
        load_balancer_groups=rows("Load_Balancer_Group", _load_balancer_group),
        switches=rows("Logical_Switch", _switch),
        switch_ports=rows("Logical_Switch_Port", _switch_port),
        routers=rows("Logical_Router", _router),
        router_ports=rows("Logical_Router_Port", _router_port),
        static_routes=rows("Logical_Router_Static_Route", _route),
        policies=rows("Logical_Router_Policy", _policy),
        nat=rows("NAT", _nat),
        address_sets=rows("Address_Set", _address_set),
        static_mac_bindings=rows("Static_MAC_Binding", _static_mac_binding),
        dhcp_options=rows("DHCP_Options", _dhcp_options),
    )


def _load_balancer(row: Row) -> tuple[str, LoadBalancer]:
    return str(row.uuid), LoadBalancer(
        name=read(row, "name"),
        vips=read(row, "vips"),
        protocol=optional(row, "protocol"),
        options=read(row, "options"),
        external_ids=read(row, "external_ids"),
        health_checks=refs(row, "health_check"),
    )


def _load_balancer_group(row: Row) -> tuple[str, LoadBalancerGroup]:
    return str(row.uuid), LoadBalancerGroup(read(row, "name"), refs(row, "load_balancer"))


def _switch(row: Row) -> tuple[str, LogicalSwitch]:
    return str(row.uuid), LogicalSwitch(
        name=read(row, "name"),
        ports=refs(row, "ports"),
        load_balancers=refs(row, "load_balancer"),
        load_balancer_groups=refs(row, "load_balancer_group"),
        other_config=read(row, "other_config"),
        external_ids=read(row, "external_ids"),
    )


def _switch_port(row: Row) -> tuple[str, LogicalSwitchPort]:
    dhcp = refs(row, "dhcpv4_options")
    return str(row.uuid), LogicalSwitchPort(
        name=read(row, "name"),
        type=read(row, "type"),
        addresses=tuple(read(row, "addresses")),
        dynamic_addresses=optional(row, "dynamic_addresses"),
        options=read(row, "options"),
        port_security=tuple(read(row, "port_security")) if _has(row, "port_security") else (),
        parent_name=text_or_none(row, "parent_name"),
        tag=optional(row, "tag"),
        dhcpv4_options=dhcp[0] if dhcp else None,
        external_ids=read(row, "external_ids"),
    )


def _dhcp_options(row: Row) -> tuple[str, DhcpOptions]:
    return str(row.uuid), DhcpOptions(read(row, "cidr"), read(row, "options"))


def _router(row: Row) -> tuple[str, LogicalRouter]:
    return str(row.uuid), LogicalRouter(
        name=read(row, "name"),
        ports=refs(row, "ports"),
        static_routes=refs(row, "static_routes") if _has(row, "static_routes") else (),
        policies=refs(row, "policies") if _has(row, "policies") else (),
        nat=refs(row, "nat") if _has(row, "nat") else (),
        load_balancers=refs(row, "load_balancer"),
        load_balancer_groups=refs(row, "load_balancer_group"),
        options=read(row, "options"),
        external_ids=read(row, "external_ids"),
    )


def _has(row: Row, column: str) -> bool:
    """Whether the column is replicated."""
    return column in row._table.columns  # noqa: SLF001  # the library offers no public way


def _router_port(row: Row) -> tuple[str, LogicalRouterPort]:
    return str(row.uuid), LogicalRouterPort(
        name=read(row, "name"),
        mac=read(row, "mac"),
        networks=tuple(sorted(read(row, "networks"))),
        options=read(row, "options"),
        external_ids=read(row, "external_ids"),
    )


def _route(row: Row) -> tuple[str, StaticRoute]:
    return str(row.uuid), StaticRoute(
        ip_prefix=read(row, "ip_prefix"),
        nexthop=read(row, "nexthop"),
        output_port=text_or_none(row, "output_port"),
        policy=optional(row, "policy"),
        route_table=read(row, "route_table"),
        external_ids=read(row, "external_ids"),
    )


def _policy(row: Row) -> tuple[str, RouterPolicy]:
    # `nexthop` is the older spelling of `nexthops` with one element (ovn-nb(5)).
    old = text_or_none(row, "nexthop")
    return str(row.uuid), RouterPolicy(
        priority=read(row, "priority"),
        match=read(row, "match"),
        action=read(row, "action"),
        nexthops=tuple(sorted(read(row, "nexthops"))) or ((old,) if old else ()),
        external_ids=read(row, "external_ids"),
    )


def _nat(row: Row) -> tuple[str, Nat]:
    return str(row.uuid), Nat(
        read(row, "type"),
        read(row, "external_ip"),
        read(row, "logical_ip"),
        read(row, "external_ids"),
        next(iter(refs(row, "exempted_ext_ips")), ""),
    )


def _address_set(row: Row) -> tuple[str, AddressSet]:
    return str(row.uuid), AddressSet(
        read(row, "name"), tuple(sorted(read(row, "addresses"))), read(row, "external_ids")
    )


def _static_mac_binding(row: Row) -> tuple[str, StaticMacBinding]:
    return str(row.uuid), StaticMacBinding(
        logical_port=read(row, "logical_port"),
        ip=read(row, "ip"),
        mac=read(row, "mac"),
        override_dynamic_mac=read(row, "override_dynamic_mac"),
    )
