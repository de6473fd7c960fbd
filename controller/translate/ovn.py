"""OVN's databases as frozen values: what a watcher saw at one moment.

One class per table, the columns that we read, UUID references as text. Rows of a table are kept
by UUID; a reference whose row is missing (a weak reference in flight) is skipped by every reader.
Source: ovn-nb(5), ovn-sb(5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.model.names import OWNER, OWNER_KEY

Refs = tuple[str, ...]
"""UUIDs, sorted: a set of references that compares by value."""


def is_ours(external_ids: Mapping[str, str]) -> bool:
    """Whether a row was made by us."""
    return external_ids.get(OWNER_KEY) == OWNER


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that an operator has to mend: what, why, and what to do next."""

    name: str
    cause: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.name}: {self.cause}; {self.next_step}"


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """NB Load_Balancer. `vips`: "address:port" to "address:port,..." as OVN spells them.

    `health_checks`: its Load_Balancer_Health_Check rows; none: its backends are not asked.
    """

    name: str
    vips: Mapping[str, str]
    protocol: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    external_ids: Mapping[str, str] = field(default_factory=dict)
    health_checks: Refs = ()


@dataclass(frozen=True, slots=True)
class LoadBalancerGroup:
    """NB Load_Balancer_Group."""

    name: str
    load_balancers: Refs = ()


@dataclass(frozen=True, slots=True)
class LogicalSwitch:
    """NB Logical_Switch."""

    name: str
    ports: Refs = ()
    load_balancers: Refs = ()
    load_balancer_groups: Refs = ()
    other_config: Mapping[str, str] = field(default_factory=dict)
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogicalSwitchPort:
    """NB Logical_Switch_Port."""

    name: str
    type: str = ""
    addresses: tuple[str, ...] = ()
    dynamic_addresses: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    port_security: tuple[str, ...] = ()
    parent_name: str | None = None
    tag: int | None = None
    dhcpv4_options: str | None = None
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DhcpOptions:
    """NB DHCP_Options."""

    cidr: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogicalRouter:
    """NB Logical_Router."""

    name: str
    ports: Refs = ()
    static_routes: Refs = ()
    policies: Refs = ()
    nat: Refs = ()
    load_balancers: Refs = ()
    load_balancer_groups: Refs = ()
    options: Mapping[str, str] = field(default_factory=dict)
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogicalRouterPort:
    """NB Logical_Router_Port. `networks`: "address/prefix length"."""

    name: str
    mac: str
    networks: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StaticRoute:
    """NB Logical_Router_Static_Route."""

    ip_prefix: str
    nexthop: str
    output_port: str | None = None
    policy: str | None = None
    route_table: str = ""
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RouterPolicy:
    """NB Logical_Router_Policy."""

    priority: int
    match: str
    action: str
    nexthops: tuple[str, ...] = ()
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Nat:
    """NB NAT. `kept`: the UUID of its exempted_ext_ips' set."""

    type: str
    external_ip: str
    logical_ip: str
    external_ids: Mapping[str, str] = field(default_factory=dict)
    kept: str = ""


@dataclass(frozen=True, slots=True)
class AddressSet:
    """NB Address_Set. `addresses`: sorted."""

    name: str
    addresses: tuple[str, ...] = ()
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StaticMacBinding:
    """NB Static_MAC_Binding. It has no external_ids: ours are known by `logical_port`."""

    logical_port: str
    ip: str
    mac: str
    override_dynamic_mac: bool = False


@dataclass(frozen=True, slots=True)
class NbSnapshot:
    """The northbound database. Every mapping is by row UUID."""

    load_balancers: Mapping[str, LoadBalancer] = field(default_factory=dict)
    load_balancer_groups: Mapping[str, LoadBalancerGroup] = field(default_factory=dict)
    switches: Mapping[str, LogicalSwitch] = field(default_factory=dict)
    switch_ports: Mapping[str, LogicalSwitchPort] = field(default_factory=dict)
    routers: Mapping[str, LogicalRouter] = field(default_factory=dict)
    router_ports: Mapping[str, LogicalRouterPort] = field(default_factory=dict)
    static_routes: Mapping[str, StaticRoute] = field(default_factory=dict)
    policies: Mapping[str, RouterPolicy] = field(default_factory=dict)
    nat: Mapping[str, Nat] = field(default_factory=dict)
    address_sets: Mapping[str, AddressSet] = field(default_factory=dict)
    static_mac_bindings: Mapping[str, StaticMacBinding] = field(default_factory=dict)
    dhcp_options: Mapping[str, DhcpOptions] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PortBinding:
    """SB Port_Binding. `chassis` is the UUID of the chassis's row (None: bound nowhere).

    `datapath` is the UUID of its switch's row, `ref` the row's own.
    """

    logical_port: str
    type: str = ""
    chassis: str | None = None
    mac: tuple[str, ...] = ()
    up: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    tag: int | None = None
    datapath: str | None = None
    ref: str = ""


@dataclass(frozen=True, slots=True)
class Chassis:
    """SB Chassis, with the addresses of its Encap rows."""

    name: str
    hostname: str = ""
    encap_ips: tuple[str, ...] = ()
    other_config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServiceMonitor:
    """SB Service_Monitor: what a chassis found out about a backend that has a health check."""

    ip: str
    port: int
    protocol: str | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class SbSnapshot:
    """The southbound database. Port bindings by logical port, the others by row UUID.

    `datapaths`: the number that a switch or router has in flows (Datapath_Binding.tunnel_key).
    `partial`: of port bindings only those of one chassis are here.
    """

    port_bindings: Mapping[str, PortBinding] = field(default_factory=dict)
    chassis: Mapping[str, Chassis] = field(default_factory=dict)
    service_monitors: Mapping[str, ServiceMonitor] = field(default_factory=dict)
    datapaths: Mapping[str, int] = field(default_factory=dict)
    partial: bool = False
