"""The rows of one gateway router and of its place on the join switch."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from controller.translate.nbrows import (
    DEFAULT_ROUTE,
    JOIN_SWITCH,
    MAIN_PRIORITY,
    MacKey,
    MacRow,
    NbPlan,
    PolicyKey,
    PolicyRow,
    RouteKey,
    RouteRow,
    RouterPortRow,
    RouterRow,
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
from dataplane.model.addr import mac_of_address
from dataplane.model.config import GatewayConfig
from dataplane.model.names import SERVICE_ADDRESS_KEY


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
            problems=problems,
        )

    def join_port(self, router: str, address: IPv4Address, prefix_length: int) -> None:
        """A router's port on the join switch."""
        network = f"{address}/{prefix_length}"
        self._router_port(router, join_port(router), JOIN_SWITCH, address, network)

    def _router_port(
        self, router: str, port: str, switch: str, address: IPv4Address, network: str
    ) -> None:
        """A router port and the switch port that it is plugged into."""
        self.router_ports[port] = RouterPortRow(router, str(mac_of_address(address)), (network,))
        self.switch_ports[switch_side(port)] = SwitchPortRow(
            switch, "router", ("router",), (("router-port", port),)
        )

    def gateway(self, gateway: GatewayConfig, service: IPv4Address) -> None:
        """The gateway router, its external switch, and the two ends of svc0's address."""
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
            external_ids=((SERVICE_ADDRESS_KEY, str(service)),),
        )
        self.switches[switch] = SwitchRow()
        self.switch_ports[localnet_port(chassis)] = SwitchPortRow(
            switch, "localnet", ("unknown",), (("network_name", gateway.physnet),)
        )
        self._router_port(router, port, switch, gateway.address.ip, str(gateway.address))
        # svc0 is on no network of the router's; northd honours an explicit output port then, and
        # resolves the address itself (northd.c, find_static_route_outport).
        self.routes[RouteKey(router, f"{service}/32")] = RouteRow(str(service), port)
        self.static_macs[MacKey(port, str(service))] = MacRow(
            str(mac_of_address(service)), override=True
        )
        if gateway.next_hop:
            self.routes[RouteKey(router, DEFAULT_ROUTE)] = RouteRow(gateway.next_hop)
        # VPCs are separate from each other; the gateway router must not join them.
        own = join_port(router)
        match = f'inport == "{own}" && outport == "{own}"'
        self.policies[PolicyKey(router, MAIN_PRIORITY, match)] = PolicyRow("drop")

    def neighbours(self, gateway: str, vpc: str, join: Mapping[str, IPv4Address]) -> None:
        """Each tells the other's MAC, so that no first packet waits for an ARP answer."""
        for here, there in ((gateway, vpc), (vpc, gateway)):
            self.static_macs[MacKey(join_port(here), str(join[there]))] = MacRow(
                str(mac_of_address(join[there])), override=True
            )
