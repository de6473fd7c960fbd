"""The rows of one gateway router and of its place on the join switch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from controller.translate.families import Family
from controller.translate.inside import InsideRows
from controller.translate.nbrows import (
    JOIN_SWITCH,
    MAIN_PRIORITY,
    MacKey,
    MacRow,
    NatKey,
    NatRow,
    NbPlan,
    PolicyKey,
    PolicyRow,
    RouteKey,
    RouteRow,
    RouterPortRow,
    RouterRow,
    SetRow,
    SwitchPortRow,
    SwitchRow,
    external_port,
    external_switch,
    gateway_router,
    join_port,
    localnet_port,
    switch_side,
)
from controller.translate.ovn import Problem
from dataplane.model.addr import IPAddress, IPNetwork, Mac, mac_of_address
from dataplane.model.config import GatewayConfig
from dataplane.model.names import DOWN_KEY

Addresses = Mapping[Family, IPAddress]
"""The addresses of one thing by family; IPv4's is always there, and gives the MAC."""


class GatewayRows:
    """A plan's tables while they are filled."""

    def __init__(self) -> None:
        self.switches: dict[str, SwitchRow] = {}
        self.routers: dict[str, RouterRow] = {}
        self.router_ports: dict[str, RouterPortRow] = {}
        self.switch_ports: dict[str, SwitchPortRow] = {}
        self.static_macs: dict[MacKey, MacRow] = {}
        self.routes: dict[RouteKey, RouteRow] = {}
        self.policies: dict[PolicyKey, PolicyRow] = {}
        self.address_sets: dict[str, SetRow] = {}
        self.nats: dict[NatKey, NatRow] = {}
        self.inside = InsideRows()

    def plan(self, problems: tuple[Problem, ...]) -> NbPlan:
        """What was filled in, as a plan."""
        return NbPlan(
            switches=self.switches,
            routers=self.routers,
            router_ports=self.router_ports,
            switch_ports=self.switch_ports,
            static_macs=self.static_macs,
            routes=self.routes,
            policies=self.policies,
            address_sets=self.address_sets,
            nats=self.nats,
            balancer_groups=self.inside.groups,
            grouped_switches=self.inside.switches,
            problems=problems,
        )

    def join_port(self, router: str, addresses: Addresses) -> None:
        """A router's port on the join switch."""
        networks = tuple(f"{a}/{family.join.prefixlen}" for family, a in addresses.items())
        self.router_port(router, join_port(router), JOIN_SWITCH, mac_of(addresses), networks)

    def router_port(
        self, router: str, port: str, switch: str, mac: Mac, networks: tuple[str, ...]
    ) -> None:
        """A router port and the switch port that it is plugged into."""
        self.router_ports[port] = RouterPortRow(router, str(mac), tuple(sorted(networks)))
        self.switch_ports[switch_side(port)] = SwitchPortRow(
            switch, "router", ("router",), (("router-port", port),)
        )

    def gateway(
        self,
        gateway: GatewayConfig,
        service: Addresses,
        ranges: Sequence[IPNetwork],
        *,
        down: bool,
    ) -> None:
        """The gateway router, its external switch, and the two ends of svc0's addresses.

        `ranges`: networks of services that workloads reach by svc0, too.
        """
        chassis, router = gateway.chassis, gateway_router(gateway.chassis)
        switch, port = external_switch(chassis), external_port(chassis)
        self.routers[router] = RouterRow(
            options=(
                # Whoever asks for us is not learned, only who answers us: the provider network
                # may be large, and each MAC_Binding is a row in the southbound database.
                ("always_learn_from_arp_request", "false"),
                ("chassis", chassis),
                # No flow on this router for each other router of the join switch: n times n of
                # them with n chassis. Those that it speaks to are in Static_MAC_Binding.
                ("dynamic_neigh_routers", "true"),
            ),
            external_ids=tuple(
                sorted(
                    [
                        *(
                            (family.service_key, str(address))
                            for family, address in service.items()
                        ),
                        *([(DOWN_KEY, "true")] if down else []),
                    ]
                )
            ),
        )
        self.switches[switch] = SwitchRow()
        self.switch_ports[localnet_port(chassis)] = SwitchPortRow(
            switch, "localnet", ("unknown",), (("network_name", gateway.physnet),)
        )
        outside = [str(a) for a in (gateway.address, gateway.address6) if a is not None]
        mac = mac_of_address(gateway.address.ip)
        self.router_port(router, port, switch, mac, tuple(outside))
        # svc0 is on no network of the router's; northd honours an explicit output port then, and
        # resolves the address itself (northd.c, find_static_route_outport).
        for family, address in service.items():
            self.routes[RouteKey(router, family.host_route(address))] = RouteRow(str(address), port)
            self.static_macs[MacKey(port, str(address))] = MacRow(
                str(mac_of(service)), override=True
            )
            for network in ranges:
                if network.version == address.version:
                    self.routes[RouteKey(router, str(network))] = RouteRow(str(address), port)
            next_hop = family.of_gateway(gateway)[1]
            if next_hop:
                # A link-local neighbour is on no network that tells the port (ovn-nb(5)).
                by = port if ip_address(next_hop).is_link_local else None
                self.routes[RouteKey(router, family.default_route)] = RouteRow(next_hop, by)
        # VPCs are separate from each other; the gateway router must not join them.
        own = join_port(router)
        match = f'inport == "{own}" && outport == "{own}"'
        self.policies[PolicyKey(router, MAIN_PRIORITY, match)] = PolicyRow("drop")

    def neighbours(self, gateway: str, at: Addresses, vpc: str, there: Addresses) -> None:
        """Each tells the other's MAC, so that no first packet waits for an answer to a question."""
        for here, peer in ((gateway, there), (vpc, at)):
            for family in at.keys() & there.keys():
                self.static_macs[MacKey(join_port(here), str(peer[family]))] = MacRow(
                    str(mac_of(peer)), override=True
                )


def mac_of(addresses: Addresses) -> Mac:
    """The MAC of a thing that has these addresses: its IPv4 address's."""
    return next(mac_of_address(a) for a in addresses.values() if a.version == 4)


def column(table: Mapping[Family, Mapping[str, IPAddress]], name: str) -> Addresses:
    """What each family has for one name."""
    return {family: given[name] for family, given in table.items() if name in given}
