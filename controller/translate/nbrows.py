"""The northbound rows that we own: keys, values, names, and how each kind is known as ours.

| table | key | ours, because |
|---|---|---|
| routers, switches | name | external_ids:owner=millrace |
| router_ports, switch_ports | name | external_ids:owner=millrace |
| routes, policies, nats | router, and what tells two of them apart | external_ids:owner=millrace |
| static_macs | logical port and address | the port's name begins with one of PORT_PREFIXES |
| address_sets | name | external_ids:owner=millrace |
| balancer_groups | name | it is GROUP |
| grouped_switches | name | it refers to that group |

Static_MAC_Binding and Load_Balancer_Group have no external_ids, so names say it. A foreign router
gets ports, routes and policies of ours, a foreign switch our group; their own columns and rows stay
as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.translate.ovn import Problem
from dataplane.model.names import DOWN_KEY, SERVICE_ADDRESS6_KEY, SERVICE_ADDRESS_KEY
from dataplane.model.rows import Pairs

JOIN_SWITCH = "millrace-join"
TRUNK_SWITCH = "millrace-trunks"
"""The switch that the chassis's trunks are ports of; no frame is ever switched there."""
HOSTS_SWITCH = "millrace-hosts"
"""Where nodes' kernels meet the VPC routers. Not the join switch: northd would write each node's
MAC for each gateway router there, n times n of them."""

EXTERNAL_PORT_PREFIX = "millrace-ext-"
JOIN_PORT_PREFIX = "millrace-join-"
PORT_PREFIXES = (EXTERNAL_PORT_PREFIX, JOIN_PORT_PREFIX)

ROUTER_KEYS = frozenset({SERVICE_ADDRESS_KEY, SERVICE_ADDRESS6_KEY, DOWN_KEY})
"""Keys of a router's external_ids that are ours beside the owner."""

GROUP = "millrace-east-west"
"""Name of the load balancer group of the switches whose workloads OVN serves."""

IN_TABLE = "millrace-in"
"""Table of the routes of what comes in by a gateway router's external port, where it has one."""

MAIN_PRIORITY = 20000
"""Priority of our router policies: one number to look for among a foreign router's own."""


def gateway_router(chassis: str) -> str:
    """Name of a chassis's gateway router."""
    return f"GR_{chassis}"


def external_switch(chassis: str) -> str:
    """Name of the switch between a gateway router and its provider network."""
    return f"ext_{chassis}"


def external_port(chassis: str) -> str:
    """Name of the gateway router's port on its external switch."""
    return f"{EXTERNAL_PORT_PREFIX}{chassis}"


def localnet_port(chassis: str) -> str:
    """Name of the external switch's localnet port, and so of br-ex's patch port."""
    return f"ext_{chassis}-localnet"


def join_port(router: str) -> str:
    """Name of a router's port on the join switch."""
    return f"{JOIN_PORT_PREFIX}{router}"


def set_name(row: SetRow) -> str:
    """Name of an address set: by its members, so that equal ones are one and none ever changes."""
    digest = hashlib.blake2b(" ".join(row.addresses).encode(), digest_size=8).hexdigest()
    return f"millrace_kept_{digest}"


def host_port(chassis: str) -> str:
    """Name of a node's own port on the hosts' switch, and its iface-id."""
    return f"node-{chassis}"


def hosts_port(router: str) -> str:
    """Name of a VPC router's port on the hosts' switch."""
    return f"{HOSTS_SWITCH}-{router}"


def switch_side(router_port: str) -> str:
    """Name of the switch port that a router port of ours is plugged into."""
    return f"{router_port}-peer"


@dataclass(frozen=True, slots=True)
class SwitchRow:
    """Logical_Switch by name: there is nothing to say beyond that it is ours."""


@dataclass(frozen=True, slots=True)
class RouterRow:
    """Logical_Router by name. `external_ids` are ours beside the owner."""

    options: Pairs
    external_ids: Pairs


@dataclass(frozen=True, slots=True)
class RouterPortRow:
    """Logical_Router_Port by name. `table`: that of the routes of what comes in by it."""

    router: str
    mac: str
    networks: tuple[str, ...]
    table: str = ""


@dataclass(frozen=True, slots=True)
class SwitchPortRow:
    """Logical_Switch_Port by name."""

    switch: str
    type: str
    addresses: tuple[str, ...]
    options: Pairs
    port_security: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class MacKey:
    """Static_MAC_Binding: its index."""

    logical_port: str
    ip: str


@dataclass(frozen=True, slots=True)
class MacRow:
    """Static_MAC_Binding. `override`: it holds against what was learned from ARP."""

    mac: str
    override: bool


@dataclass(frozen=True, slots=True, order=True)
class RouteKey:
    """Logical_Router_Static_Route by destination; `table` "" is the main one."""

    router: str
    prefix: str
    table: str = ""


@dataclass(frozen=True, slots=True)
class RouteRow:
    """Where a route leads. `output_port` only where the next hop is on no network of it."""

    nexthop: str
    output_port: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class PolicyKey:
    """Logical_Router_Policy."""

    router: str
    priority: int
    match: str


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """What a policy does: allow, drop, or reroute to a next hop, or to one of several by flow."""

    action: str
    nexthops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class NatKey:
    """NAT of the type snat: whose source address is another outside."""

    router: str
    inside: str


@dataclass(frozen=True, slots=True)
class SetRow:
    """Address_Set by name: its members, sorted."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NatRow:
    """The address that those inside have outside; `kept`: of whom the set has they stay as is."""

    outside: str
    kept: str = ""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """Load_Balancer_Group by name: the UUIDs of its load balancers, sorted."""

    balancers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupedRow:
    """Logical_Switch by name, with our group: there is nothing to say beyond that."""


@dataclass(frozen=True, slots=True)
class NbPlan:
    """Every row of ours, by table, in the order of application, and what could not be planned."""

    switches: Mapping[str, SwitchRow] = field(default_factory=dict)
    routers: Mapping[str, RouterRow] = field(default_factory=dict)
    router_ports: Mapping[str, RouterPortRow] = field(default_factory=dict)
    switch_ports: Mapping[str, SwitchPortRow] = field(default_factory=dict)
    static_macs: Mapping[MacKey, MacRow] = field(default_factory=dict)
    routes: Mapping[RouteKey, RouteRow] = field(default_factory=dict)
    policies: Mapping[PolicyKey, PolicyRow] = field(default_factory=dict)
    address_sets: Mapping[str, SetRow] = field(default_factory=dict)
    nats: Mapping[NatKey, NatRow] = field(default_factory=dict)
    balancer_groups: Mapping[str, GroupRow] = field(default_factory=dict)
    grouped_switches: Mapping[str, GroupedRow] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
