"""The northbound rows of the whole cluster: each chassis's gateway router, and the way to it.

For a chassis with a [[gateway]]: GR_<chassis>, pinned there, with one port on ext_<chassis> (whose
localnet port leads to the provider network) and one on the join switch, where the VPC routers named
in the file have a port too. svc0's addresses of each chassis are routed to its gateway router from
every such VPC, and out of its external port to a MAC that nobody has to ask for. No NAT and no load
balancer is made: nothing on this path costs conntrack. IPv4 is always there; IPv6 is beside it if
the cluster file has both of its networks.

The rows of a gateway whose chassis left the southbound database stay, so that a node's restart or
a southbound database made anew takes no address away; only the cluster file takes rows away.
"""

from __future__ import annotations

from collections.abc import Collection

from controller.translate.addresses import allocate, overlap, within
from controller.translate.families import Family, families, interfaces, is_default
from controller.translate.gatewayrows import GatewayRows, column
from controller.translate.hosts import add_hosts
from controller.translate.inout import centralized, routes_in, translated
from controller.translate.inside import inside_rows
from controller.translate.nbrows import (
    HOSTS_SWITCH,
    JOIN_SWITCH,
    MAIN_PRIORITY,
    TRUNK_SWITCH,
    NbPlan,
    PolicyKey,
    PolicyRow,
    RouteKey,
    RouteRow,
    SwitchPortRow,
    SwitchRow,
    external_port,
    external_switch,
    gateway_router,
    join_port,
)
from controller.translate.ovn import LogicalRouter, NbSnapshot, Problem, SbSnapshot, is_ours
from dataplane.model.addr import IPAddress, IPNetwork
from dataplane.model.config import ClusterConfig, EastWest, GatewayConfig
from dataplane.model.names import SERVICE_ADDRESS_KEY, TRUNK_PREFIX
from dataplane.plan.trunk import trunk_name


def northbound(
    cluster: ClusterConfig, nb: NbSnapshot, sb: SbSnapshot, down: Collection[str] = ()
) -> NbPlan:
    """Every row that we own in the northbound database, and what keeps the rest from being made.

    Addresses of the join networks and of svc0 that rows of ours hold are kept; the others are the
    smallest free ones, given out in the order of names. `down`: chassis that give no sign of life.
    """
    return _Draft(cluster, nb, sb, frozenset(down)).plan()


class _Draft:
    """One plan being made: the inputs, and the tables filled so far."""

    def __init__(
        self, cluster: ClusterConfig, nb: NbSnapshot, sb: SbSnapshot, down: frozenset[str]
    ) -> None:
        self.cluster, self.nb = cluster, nb
        self.families = families(cluster)
        self.alive = {chassis.name for chassis in sb.chassis.values()} - down
        self.chassis = {chassis.name for chassis in sb.chassis.values()}
        self.problems: list[Problem] = []
        self.rows = GatewayRows()
        # The same for every gateway of a provider network, and there may be hundreds.
        self._inner_networks: dict[tuple[str, IPNetwork], tuple[IPNetwork, ...]] = {}
        self.routers: dict[str, list[LogicalRouter]] = {}
        for _, router in sorted(nb.routers.items()):
            self.routers.setdefault(router.name, []).append(router)

    def plan(self) -> NbPlan:
        gateways = self._gateways()
        if gateways and not self._name_is_free(JOIN_SWITCH, "switch"):
            gateways = []
        vpcs = self._vpcs(gateways)
        join = {f: self._join_addresses(f, gateways, vpcs) for f in self.families}
        services = {f: self._service_addresses(f, gateways) for f in self.families}
        # IPv4 decides what is made; what IPv6 has no room for has IPv4 alone.
        four = self.families[0]
        gateways = [
            g
            for g in gateways
            if g.chassis in services[four] and gateway_router(g.chassis) in join[four]
        ]
        named = {name for gateway in gateways for name in gateway.routers}
        vpcs = {name: vpcs[name] for name in vpcs if name in join[four] and name in named}
        if gateways:
            self.rows.switches[JOIN_SWITCH] = SwitchRow()
        for name in sorted({*vpcs, *(gateway_router(g.chassis) for g in gateways)}):
            self.rows.join_port(name, column(join, name))
        ranges, to_svc0 = self.cluster.service_ranges, self.cluster.service_ranges
        if self.cluster.east_west is EastWest.SWITCH:
            to_svc0 = ()
            self.rows.inside = inside_rows(self.nb, ranges, vpcs.values())
        for gateway in gateways:
            chassis = gateway.chassis
            mine = [name for name in gateway.routers if name in vpcs]
            service = column(services, chassis)
            self.rows.gateway(gateway, service, to_svc0, down=chassis not in self.alive)
            for family in self.families:
                self.problems += routes_in(
                    self.rows,
                    family,
                    gateway,
                    {
                        name: (vpcs[name], join[family][name])
                        for name in mine
                        if name in join[family]
                    },
                    self._inner,
                    one_way=self.cluster.one_way_in,
                )
            at = column(join, gateway_router(chassis))
            for name in mine:
                self.rows.neighbours(gateway_router(chassis), at, name, column(join, name))
                for family in service.keys() & at.keys() & column(join, name).keys():
                    key = RouteKey(name, family.host_route(service[family]))
                    self.rows.routes[key] = RouteRow(str(at[family]))
        for name, router in vpcs.items():
            for family in self.families:
                if name in join[family]:
                    ways = [g for g in gateways if name in g.routers]
                    self._way_out(family, router, ways, join[family])
        self.rows.nats, self.rows.address_sets = translated(self.cluster, gateways, vpcs)
        self._trunks()
        if self.cluster.hosts is not None and self._name_is_free(HOSTS_SWITCH, "switch"):
            self.problems += add_hosts(
                self.rows, self.cluster.hosts, self.nb, self.chassis, self.routers, self._networks
            )
        return self.rows.plan(tuple(sorted(set(self.problems))))

    def _trunks(self) -> None:
        """A logical port for the containers of each chassis, in which theirs are nested.

        One whose chassis is away stays while a container's port is nested in it: the chassis may
        come back, and finds its containers' ports as they were.
        """
        if not self.cluster.trunks:
            return
        ports = self.nb.switch_ports.values()
        parents = {port.parent_name for port in ports if port.parent_name}
        held = {
            port.name.removeprefix(TRUNK_PREFIX)
            for port in ports
            if port.name in parents and is_ours(port.external_ids)
        }
        chassis = sorted(self.chassis | held)
        if not chassis or not self._name_is_free(TRUNK_SWITCH, "switch"):
            return
        self.rows.switches[TRUNK_SWITCH] = SwitchRow()
        for name in chassis:
            self.rows.switch_ports[trunk_name(name)] = SwitchPortRow(
                TRUNK_SWITCH, "", (), (("requested-chassis", name),)
            )

    def _problem(self, name: str, cause: str, next_step: str) -> None:
        self.problems.append(Problem(name, cause, next_step))

    # -- what can be made ---------------------------------------------------------------------

    def _gateways(self) -> list[GatewayConfig]:
        """The gateways whose rows can be made or are there, one per chassis, by its name."""
        found: dict[str, GatewayConfig] = {}
        for gateway in sorted(self.cluster.gateways, key=lambda g: (g.chassis, g.physnet)):
            chassis = gateway.chassis
            if chassis in found:
                self._problem(
                    f"gateway of chassis {chassis}",
                    f"it has two entries; the one on {found[chassis].physnet} is used",
                    "keep one [[gateway]] for each chassis",
                )
            elif self._is_wanted(chassis) and all(
                self._name_is_free(name, kind)
                for name, kind in (
                    (gateway_router(chassis), "router"),
                    (external_switch(chassis), "switch"),
                )
            ):
                found[chassis] = gateway
        return list(found.values())

    def _is_wanted(self, chassis: str) -> bool:
        if chassis in self.chassis:
            return True
        if any(is_ours(r.external_ids) for r in self.routers.get(gateway_router(chassis), [])):
            return True
        self._problem(
            f"gateway of chassis {chassis}",
            "the southbound database has no such chassis, so nothing is made for it yet",
            "start ovn-controller there, or correct the name (external_ids:system-id of its OVS)",
        )
        return False

    def _name_is_free(self, name: str, kind: str) -> bool:
        """Whether no foreign row has a name that we want; ours must be the only one."""
        if kind == "router":
            owners = [row.external_ids for row in self.routers.get(name, [])]
        else:
            owners = [row.external_ids for row in self.nb.switches.values() if row.name == name]
        if all(is_ours(owner) for owner in owners) and len(owners) < 2:
            return True
        self._problem(
            f"{kind} {name}",
            "a row of that name is there and not ours (external_ids:owner), so it is left alone",
            "rename it, or mark your own gateway router with "
            f"external_ids:{SERVICE_ADDRESS_KEY} and take its [[gateway]] out of the cluster file",
        )
        return False

    def _vpcs(self, gateways: list[GatewayConfig]) -> dict[str, LogicalRouter]:
        """The VPC routers named in gateways that can have a port on the join switch."""
        found = {}
        for name in sorted({name for gateway in gateways for name in gateway.routers}):
            routers = self.routers.get(name, [])
            if len(routers) != 1:
                many = "several routers have" if routers else "no router has"
                self._problem(
                    f"router {name}",
                    f"{many} that name in the northbound database",
                    "correct [[gateway]] routers in the cluster file, or make the router",
                )
                continue
            if is_ours(routers[0].external_ids):
                self._problem(
                    f"router {name}",
                    "it is a gateway router of ours, not a VPC's",
                    "take it out of [[gateway]] routers in the cluster file",
                )
                continue
            if self._clashes(self.families[0], routers[0]):
                continue
            found[name] = routers[0]
        return found

    def _clashes(self, family: Family, router: LogicalRouter) -> bool:
        """Whether a VPC has addresses of the join network itself; it is a problem then."""
        clash = next(
            (n for n in self._networks(router) if overlap(n, family.join)),
            None,
        )
        if clash is not None:
            self._problem(
                f"router {router.name}",
                f"its network {clash} overlaps the join network {family.join}",
                f"choose another {family.join_key} in the cluster file",
            )
        return clash is not None

    def _networks(self, router: LogicalRouter) -> list[IPNetwork]:
        """The networks of a router's own ports, sorted; not the link-local ones."""
        networks: set[IPNetwork] = {
            interface.network
            for ref in router.ports
            if (port := self.nb.router_ports.get(ref)) and not is_ours(port.external_ids)
            for interface in interfaces(port.networks)
            if not interface.is_link_local
        }
        return sorted(networks, key=lambda n: (n.version, n.network_address.packed, n.prefixlen))

    def _inner(self, vpc: LogicalRouter, provider: IPNetwork) -> tuple[IPNetwork, ...]:
        """The VPC's networks, but not what is of the provider network: gateways are on that."""
        key = (vpc.name, provider)
        if key not in self._inner_networks:
            self._inner_networks[key] = tuple(
                network for network in self._networks(vpc) if not within(network, provider)
            )
        return self._inner_networks[key]

    # -- addresses ----------------------------------------------------------------------------

    def _join_addresses(
        self, family: Family, gateways: list[GatewayConfig], vpcs: dict[str, LogicalRouter]
    ) -> dict[str, IPAddress]:
        names = {gateway_router(gateway.chassis) for gateway in gateways}
        names |= {
            name
            for name, router in vpcs.items()
            # Of IPv4 it was asked before: such a VPC is not connected at all.
            if family.version == 4 or not self._clashes(family, router)
        }
        ports = {join_port(name): name for name in names}
        held: dict[str, IPAddress] = {}
        foreign: set[IPAddress] = set()
        for port in sorted(self.nb.router_ports.values(), key=lambda port: port.name):
            for interface in interfaces(port.networks):
                if interface.version != family.version:
                    continue
                if is_ours(port.external_ids):
                    held.setdefault(ports.get(port.name, port.name), interface.ip)
                else:
                    foreign.add(interface.ip)
        return self._allocated(family.join_key, family.join, names, held, foreign)

    def _service_addresses(
        self, family: Family, gateways: list[GatewayConfig]
    ) -> dict[str, IPAddress]:
        held: dict[str, IPAddress] = {}
        foreign: set[IPAddress] = set()
        chassis_of = {gateway_router(gateway.chassis): gateway.chassis for gateway in gateways}
        for router in (router for routers in self.routers.values() for router in routers):
            text = router.external_ids.get(family.service_key, "")
            addresses = [interface.ip for interface in interfaces((text,))]
            if not addresses or "/" in text:
                continue
            if is_ours(router.external_ids):
                # By name, not by options:chassis, which somebody may have changed.
                held[chassis_of.get(router.name, router.name)] = addresses[0]
            else:
                foreign.add(addresses[0])
        names = {gateway.chassis for gateway in gateways}
        return self._allocated(family.pool_key, family.pool, names, held, foreign)

    def _allocated(
        self,
        what: str,
        network: IPNetwork,
        names: set[str],
        held: dict[str, IPAddress],
        foreign: set[IPAddress],
    ) -> dict[str, IPAddress]:
        given = allocate(network, names, held, foreign)
        for name in sorted(names - given.keys()):
            self._problem(
                f"{what} {network}",
                f"it is full: no address is left for {name}",
                f"make [cluster] {what} bigger",
            )
        return given

    # -- routes and policies -----------------------------------------------------------------

    def _way_out(
        self,
        family: Family,
        vpc: LogicalRouter,
        gateways: list[GatewayConfig],
        join: dict[str, IPAddress],
    ) -> None:
        """The VPC's default route, and on each gateway's chassis the way through its own one.

        Replies that keep the client's address (traffic policy "local") have to leave on the chassis
        that the request came to, so the default route alone is not enough.
        """
        own_default = sorted(
            route.nexthop
            for ref in vpc.static_routes
            if (route := self.nb.static_routes.get(ref))
            and not is_ours(route.external_ids)
            and is_default(route.ip_prefix, family.version)
            and not route.route_table
            and route.policy != "src-ip"
        )
        if own_default:
            # A second default route would share its traffic (ECMP) with a route that is not ours.
            self._problem(
                f"router {vpc.name}",
                f"it has a default route of its own, to {', '.join(own_default)}, which is kept",
                "services with traffic policy local need replies to leave by the gateway router: "
                "remove that route, or use policy cluster",
            )
            return
        port = join_port(vpc.name)
        gateways = [g for g in gateways if gateway_router(g.chassis) in join]
        live = [gateway for gateway in gateways if gateway.chassis in self.alive]
        for gateway in (live or gateways)[:1]:
            nexthop = join[gateway_router(gateway.chassis)]
            self.rows.routes[RouteKey(vpc.name, family.default_route)] = RouteRow(str(nexthop))
        # What is routed to one gateway router in particular goes there, wherever it starts.
        # Told apart by priority, not by "!=", which would cost a flow for every bit of the masks.
        named = " || ".join(f"{family.ip}.dst == {n}" for n in (family.join, family.pool))
        match = f'outport == "{port}" && ({named})'
        central = centralized(self.cluster, family, vpc.name, join, self.alive)
        above = 2 if central else 1
        self.rows.policies[PolicyKey(vpc.name, MAIN_PRIORITY + above, match)] = PolicyRow("allow")
        self.rows.policies |= central
        for gateway in gateways:
            match = (
                f'outport == "{port}" && {family.ip} && '
                f'is_chassis_resident("{external_port(gateway.chassis)}")'
            )
            nexthop = join[gateway_router(gateway.chassis)]
            self.rows.policies[PolicyKey(vpc.name, MAIN_PRIORITY, match)] = PolicyRow(
                "reroute", (str(nexthop),)
            )
