"""Builders of OVN snapshots for tests: rows by name, UUIDs made up from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface

from controller.translate.nbrows import GROUP, NbPlan
from controller.translate.ovn import (
    Chassis,
    DhcpOptions,
    LoadBalancer,
    LoadBalancerGroup,
    LogicalRouter,
    LogicalRouterPort,
    LogicalSwitch,
    LogicalSwitchPort,
    NbSnapshot,
    PortBinding,
    RouterPolicy,
    SbSnapshot,
    StaticMacBinding,
    StaticRoute,
)
from dataplane.model.config import ClusterConfig, GatewayConfig

MARKED = {"millrace:fast-path": "true"}
OURS = {"owner": "millrace"}


@dataclass
class Lab:
    """A network under construction; `nb` and `sb` are its snapshots."""

    nb: NbSnapshot = field(default_factory=NbSnapshot)
    sb: SbSnapshot = field(default_factory=SbSnapshot)

    def _nb(self, table: str, uuid: str, row: object) -> None:
        rows: Mapping[str, object] = getattr(self.nb, table)
        self.nb = replace(self.nb, **{table: {**rows, uuid: row}})  # type: ignore[arg-type]

    def switch(self, name: str, **columns: object) -> Lab:
        self._nb("switches", f"ls-{name}", LogicalSwitch(name, **columns))  # type: ignore[arg-type]
        return self

    def port(self, switch: str, name: str, *addresses: str, **columns: object) -> Lab:
        row = LogicalSwitchPort(name, addresses=addresses, **columns)  # type: ignore[arg-type]
        self._nb("switch_ports", f"lsp-{name}", row)
        parent = self.nb.switches[f"ls-{switch}"]
        ports = tuple(sorted({*parent.ports, f"lsp-{name}"}))
        self._nb("switches", f"ls-{switch}", replace(parent, ports=ports))
        return self

    def router(self, name: str, **columns: object) -> Lab:
        self._nb("routers", f"lr-{name}", LogicalRouter(name, **columns))  # type: ignore[arg-type]
        return self

    def router_port(
        self, router: str, switch: str, name: str, mac: str, *networks: str, **columns: object
    ) -> Lab:
        row = LogicalRouterPort(name, mac, networks, **columns)  # type: ignore[arg-type]
        self._nb("router_ports", f"lrp-{name}", row)
        parent = self.nb.routers[f"lr-{router}"]
        ports = tuple(sorted({*parent.ports, f"lrp-{name}"}))
        self._nb("routers", f"lr-{router}", replace(parent, ports=ports))
        return self.port(
            switch, f"{switch}-{name}", "router", type="router", options={"router-port": name}
        )

    def route(self, router: str, prefix: str, nexthop: str, **columns: object) -> Lab:
        uuid = f"route-{router}-{prefix}-{nexthop}"
        self._nb("static_routes", uuid, StaticRoute(prefix, nexthop, **columns))  # type: ignore[arg-type]
        parent = self.nb.routers[f"lr-{router}"]
        routes = tuple(sorted({*parent.static_routes, uuid}))
        self._nb("routers", f"lr-{router}", replace(parent, static_routes=routes))
        return self

    def balancer(self, name: str, vips: dict[str, str], **columns: object) -> Lab:
        columns.setdefault("external_ids", MARKED)
        self._nb("load_balancers", f"lb-{name}", LoadBalancer(name, vips, **columns))  # type: ignore[arg-type]
        return self

    def group(self, name: str, *balancers: str) -> Lab:
        refs = tuple(f"lb-{balancer}" for balancer in balancers)
        self._nb("load_balancer_groups", f"lbg-{name}", LoadBalancerGroup(name, refs))
        return self

    def dhcp(self, name: str, **options: str) -> Lab:
        self._nb("dhcp_options", f"dhcp-{name}", DhcpOptions("10.1.0.0/24", options))
        return self

    def chassis(self, name: str, *encap_ips: str) -> Lab:
        rows = {**self.sb.chassis, f"ch-{name}": Chassis(name, name, encap_ips)}
        self.sb = replace(self.sb, chassis=rows)
        return self

    def without_chassis(self, name: str) -> Lab:
        rows = {k: v for k, v in self.sb.chassis.items() if k != f"ch-{name}"}
        self.sb = replace(self.sb, chassis=rows)
        return self

    def bind(self, port: str, chassis: str) -> Lab:
        rows = {**self.sb.port_bindings, port: PortBinding(port, chassis=f"ch-{chassis}")}
        self.sb = replace(self.sb, port_bindings=rows)
        return self


def vpc_lab() -> Lab:
    """One VPC: router vpc0, switch sw0 (10.1.0.0/24), two chassis, vm1 on n1 and vm2 on n2."""
    return (
        Lab()
        .switch("sw0")
        .router("vpc0")
        .router_port("vpc0", "sw0", "vpc0-sw0", "0a:00:00:00:00:01", "10.1.0.1/24")
        .port("sw0", "vm1.ns", "0a:00:00:00:00:11 10.1.0.11")
        .port("sw0", "vm2.ns", "0a:00:00:00:00:12 10.1.0.12")
        .chassis("n1", "10.0.0.1")
        .chassis("n2", "10.0.0.2")
        .bind("vm1.ns", "n1")
        .bind("vm2.ns", "n2")
    )


def gateway_config(chassis: str, last: int, *routers: str, physnet: str = "phys") -> GatewayConfig:
    """A [[gateway]] at 172.18.0.`last`."""
    address = IPv4Interface(f"172.18.0.{last}/24")
    return GatewayConfig(chassis, physnet, address, "172.18.0.1", routers or ("vpc0",))


def cluster_config(
    *gateways: GatewayConfig, join: str = "100.64.0.0/24", pool: str = "100.64.255.0/24"
) -> ClusterConfig:
    """A cluster file with these gateways."""
    return ClusterConfig("unix:nb", "unix:sb", join, pool, gateways)


def applied(nb: NbSnapshot, plan: NbPlan) -> NbSnapshot:
    """What the northbound database holds after `plan` was applied to it; foreign rows stay."""
    lab = Lab(_without_ours(nb))
    for name in plan.switches:
        lab.switch(name, external_ids=OURS)
    for name, router in plan.routers.items():
        ids = {**OURS, **dict(router.external_ids)}
        lab.router(name, options=dict(router.options), external_ids=ids)
    by_name = {row.name: uuid for uuid, row in lab.nb.routers.items()}
    for name, port in plan.router_ports.items():
        row = LogicalRouterPort(name, port.mac, port.networks, external_ids=OURS)
        lab._nb("router_ports", f"lrp-{name}", row)
        _refer(lab, by_name[port.router], "ports", f"lrp-{name}")
    for name, side in plan.switch_ports.items():
        lab.port(
            side.switch,
            name,
            *side.addresses,
            type=side.type,
            options=dict(side.options),
            port_security=side.port_security,
            external_ids=OURS,
        )
    for mac_key, mac in plan.static_macs.items():
        uuid = f"mac-{mac_key.logical_port}-{mac_key.ip}"
        binding = StaticMacBinding(mac_key.logical_port, mac_key.ip, mac.mac, mac.override)
        lab._nb("static_mac_bindings", uuid, binding)
    for key, route in plan.routes.items():
        uuid = f"ours-{key.router}-{key.prefix}"
        static = StaticRoute(key.prefix, route.nexthop, route.output_port, external_ids=OURS)
        lab._nb("static_routes", uuid, static)
        _refer(lab, by_name[key.router], "static_routes", uuid)
    for policy_key, policy in plan.policies.items():
        uuid = f"ours-{policy_key.router}-{policy_key.priority}-{policy_key.match}"
        made = RouterPolicy(
            policy_key.priority,
            policy_key.match,
            policy.action,
            policy.nexthops,
            external_ids=OURS,
        )
        lab._nb("policies", uuid, made)
        _refer(lab, by_name[policy_key.router], "policies", uuid)
    for name, group in plan.balancer_groups.items():
        lab._nb("load_balancer_groups", f"lbg-{name}", LoadBalancerGroup(name, group.balancers))
    for name in plan.grouped_switches:
        switch = lab.nb.switches[f"ls-{name}"]
        groups = tuple(sorted({*switch.load_balancer_groups, f"lbg-{GROUP}"}))
        lab._nb("switches", f"ls-{name}", replace(switch, load_balancer_groups=groups))
    return lab.nb


def _refer(lab: Lab, router: str, column: str, uuid: str) -> None:
    parent = lab.nb.routers[router]
    refs = tuple(sorted({*getattr(parent, column), uuid}))
    lab._nb("routers", router, replace(parent, **{column: refs}))  # type: ignore[arg-type]


def _without_ours(nb: NbSnapshot) -> NbSnapshot:
    """Only what others made, references to ours gone."""

    def kept(rows: Mapping[str, object]) -> dict[str, object]:
        return {
            uuid: row
            for uuid, row in rows.items()
            if getattr(row, "external_ids", {}).get("owner") != "millrace"
            and not uuid.startswith(("mac-millrace-", f"lbg-{GROUP}"))
        }

    tables = {name: kept(getattr(nb, name)) for name in NbSnapshot.__slots__}
    columns = {
        "switches": ("ports", "load_balancer_groups"),
        "routers": ("ports", "static_routes", "policies"),
    }
    present = {uuid for rows in tables.values() for uuid in rows}
    for table, names in columns.items():
        for uuid, row in tables[table].items():
            refs = {n: tuple(r for r in getattr(row, n) if r in present) for n in names}
            tables[table][uuid] = replace(row, **refs)  # type: ignore[type-var]
    return NbSnapshot(**tables)  # type: ignore[arg-type]
