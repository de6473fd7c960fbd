"""What OVN says, seen from one node: its gateway router, a workload's port."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network

from controller.translate.families import IPInterface, interfaces
from controller.translate.index import Index, address_words, ipv4_interfaces
from controller.translate.mtu import told
from controller.translate.ovn import (
    LogicalRouter,
    LogicalSwitch,
    LogicalSwitchPort,
    NbSnapshot,
    Problem,
    SbSnapshot,
)
from dataplane.model.addr import IPAddress, IPNetwork, Mac
from dataplane.model.names import (
    CMS_OPTIONS,
    DEFAULT_ROUTE_KEY,
    DOWN_KEY,
    NETWORKS_KEY,
    OWNER_KEY,
    ROUTES_KEY,
    SERVICE_ADDRESS6_KEY,
    SERVICE_ADDRESS_KEY,
    WITHDRAWN,
)
from dataplane.model.state import Gateway, LogicalPort, Route


def gateway_problems(nb: NbSnapshot, chassis: str) -> tuple[Problem, ...]:
    """What keeps that chassis's gateway router from being used, sorted."""
    return tuple(sorted(_gateway_problems(Index(nb, SbSnapshot()), chassis)))


def gateway(nb: NbSnapshot, chassis: str, index: Index | None = None) -> Gateway | None:
    """This chassis's gateway router, ours or a foreign one that carries a service address.

    Where several qualify, the first by name: the same on every start.
    """
    index = index or Index(nb, SbSnapshot())
    for router in _gateway_routers(nb, chassis):
        if found := _gateway(index, router):
            return found
    return None


def _gateway_routers(nb: NbSnapshot, chassis: str) -> list[LogicalRouter]:
    return sorted(
        (
            router
            for router in nb.routers.values()
            if router.options.get("chassis") == chassis
            and SERVICE_ADDRESS_KEY in router.external_ids
        ),
        key=lambda router: router.name,
    )


def _service_address(router: LogicalRouter) -> IPv4Address | None:
    try:
        return IPv4Address(router.external_ids[SERVICE_ADDRESS_KEY])
    except ValueError:
        return None


def _service_address6(router: LogicalRouter) -> IPv6Address | None:
    try:
        return IPv6Address(router.external_ids[SERVICE_ADDRESS6_KEY])
    except (KeyError, ValueError):
        return None


def _external_ports(
    index: Index, router: LogicalRouter
) -> Iterator[tuple[Mac, tuple[IPInterface, ...], LogicalSwitchPort]]:
    """The router's ports on switches with a localnet port: MAC, addresses, localnet port."""
    ports = [index.nb.router_ports[ref] for ref in router.ports if ref in index.nb.router_ports]
    for port in sorted(ports, key=lambda port: port.name):
        switch = index.switch_of_router_port.get(port.name)
        localnet = index.localnet_of(switch) if switch else None
        addresses = interfaces(port.networks)
        if localnet and ipv4_interfaces(port.networks) and "network_name" in localnet.options:
            try:
                yield Mac(port.mac), addresses, localnet
            except ValueError:
                continue


def _gateway(index: Index, router: LogicalRouter) -> Gateway | None:
    address = _service_address(router)
    if address is None:
        return None
    for mac, addresses, localnet in _external_ports(index, router):
        return Gateway(
            router=router.name,
            mac=mac,
            addresses=addresses,
            service_address=address,
            service_address6=_service_address6(router),
            physnet=localnet.options["network_name"],
            localnet_port=localnet.name,
        )
    return None


def gateways_on(nb: NbSnapshot, physnet: str, index: Index | None = None) -> dict[str, Gateway]:
    """Each chassis's gateway router on a provider network, by chassis."""
    index = index or Index(nb, SbSnapshot())
    chassis = {
        router.options.get("chassis", "")
        for router in nb.routers.values()
        if SERVICE_ADDRESS_KEY in router.external_ids
    }
    return {
        name: found
        for name in sorted(chassis - {""})
        if (found := gateway(nb, name, index)) is not None and found.physnet == physnet
    }


def announcers(nb: NbSnapshot, physnet: str, index: Index | None = None) -> frozenset[str]:
    """The chassis that may own VIPs of a provider network: a gateway on it, and a sign of life.

    The cluster controller marks the routers of those without one, the same for everybody. One that
    has withdrawn (`millrace restart-ovs`) is none of them while there is another.
    """
    index = index or Index(nb, SbSnapshot())
    chassis = {
        router.options.get("chassis", "")
        for router in nb.routers.values()
        if SERVICE_ADDRESS_KEY in router.external_ids and DOWN_KEY not in router.external_ids
    }
    able = frozenset(
        name
        for name in chassis - {""}
        if (found := gateway(nb, name, index)) is not None and found.physnet == physnet
    )
    withdrawn = {
        one.name
        for one in index.sb.chassis.values()
        if WITHDRAWN in one.other_config.get(CMS_OPTIONS, "").split(",")
    }
    return able - withdrawn or able


def _gateway_problems(index: Index, chassis: str) -> Iterator[Problem]:
    routers = _gateway_routers(index.nb, chassis)
    if not routers:
        yield Problem(
            f"chassis {chassis}",
            f"no Logical_Router with options:chassis={chassis} has "
            f"external_ids:{SERVICE_ADDRESS_KEY}",
            "add a [[gateway]] for it to the cluster file, or mark your own gateway router",
        )
    for router in routers:
        if _service_address(router) is None:
            yield Problem(
                f"router {router.name}",
                f"external_ids:{SERVICE_ADDRESS_KEY}="
                f"{router.external_ids[SERVICE_ADDRESS_KEY]!r} is not an IPv4 address",
                "set it to the address that svc0 shall have on this chassis",
            )
        elif not any(True for _ in _external_ports(index, router)):
            yield Problem(
                f"router {router.name}",
                "it has no port with a MAC and an IPv4 network on a switch with a localnet port",
                "connect it to a Logical_Switch with a port of type localnet "
                "and options:network_name",
            )


def logical_port(
    nb: NbSnapshot, sb: SbSnapshot, name: str, index: Index | None = None
) -> LogicalPort | None:
    """What a workload that claims logical port `name` has to be given; None: OVN has no such port.

    The first entry of the port's addresses counts; a port without one ("unknown") has no MAC. The
    prefix length and gateway come from the router port whose network holds the address, else
    the prefix length from the switch's other_config:subnet, else the address stands alone (/32).
    """
    index = index or Index(nb, sb)
    port = index.port_by_name.get(name)
    if port is None:
        return None
    switch = index.switch_of_port.get(name)
    mac, texts = _first_address(port)
    addresses: list[IPInterface] = []
    gateway: IPv4Address | None = None
    gateway6: IPv6Address | None = None
    for text in texts:
        try:
            address = ip_address(text.partition("/")[0])
        except ValueError:  # northd warns of it in its own log
            continue
        interface, via = _on_link(index, switch, address)
        addresses.append(interface)
        if isinstance(via, IPv4Address):
            gateway = gateway or via
        else:
            gateway6 = gateway6 or via
    mtu = told(index, switch, port)
    return LogicalPort(
        name=name,
        mac=mac,
        addresses=tuple(addresses),
        gateway=gateway,
        gateway6=gateway6,
        mtu=mtu[1] if mtu else None,
        chassis=index.chassis_of(name),
        owner=port.external_ids.get(OWNER_KEY, ""),
        routes=tuple(Route(to, via) for to, via in _told(port.external_ids.get(ROUTES_KEY, ""))),
        default_route=port.external_ids.get(DEFAULT_ROUTE_KEY, "") != "false",
    )


def unfit_addresses(index: Index, name: str, ips: Sequence[IPAddress]) -> str | None:
    """Why port `name` can never have one of these addresses, in words; None: it can."""
    networks = [network for network, _ in networks_on(index, index.switch_of_port.get(name))]
    for ip in ips:
        family = [network for network in networks if network.version == ip.version]
        if family and not any(ip in network for network in family):
            return f"{ip} is outside of {', '.join(map(str, family))}"
        if any(ip == gateway for _, gateway in networks_on(index, index.switch_of_port.get(name))):
            return f"{ip} is the router's"
        others = [one.name for one in index.owners.get(ip.packed, ()) if one.name != name]
        here = index.switch_of_port.get(name)
        for other in others:
            if index.switch_of_port.get(other) is here:
                return f"{ip} is logical port {other!r}'s"
    return None


def _first_address(port: LogicalSwitchPort) -> tuple[Mac | None, list[str]]:
    for words in address_words(port):
        try:
            return Mac(words[0]), words[1:]
        except ValueError:  # northd warns of it in its own log
            continue
    return None, []


def _on_link(
    index: Index, switch: LogicalSwitch | None, address: IPAddress
) -> tuple[IPInterface, IPAddress | None]:
    for network, gateway in networks_on(index, switch):
        if address in network and address != gateway:
            return ip_interface((address, network.prefixlen)), gateway
    return ip_interface((address, address.max_prefixlen)), None


def networks_on(
    index: Index, switch: LogicalSwitch | None
) -> Iterator[tuple[IPNetwork, IPAddress | None]]:
    """The networks of a switch, with the router in each: by its router ports, else by itself."""
    if switch is None:
        return
    for peer in index.router_ports_on(switch):
        for interface in interfaces(peer.networks):
            yield interface.network, interface.ip
    yield from _told(switch.external_ids.get(NETWORKS_KEY, ""))
    # OVN's own word for an IPv6 network is a prefix of 64 bits (ovn-nb(5)).
    for key, length in (("subnet", ""), ("ipv6_prefix", "/64")):
        text = switch.other_config.get(key, "")
        try:
            network = ip_network(text if "/" in text or not length else text + length)
        except ValueError:
            continue
        yield network, None


def _told(text: str) -> Iterator[tuple[IPNetwork, IPAddress | None]]:
    """Networks that a row names, and who leads to them: a physical router, which is no row."""
    for entry in text.split(","):
        words = entry.split()
        try:
            network, via = ip_network(words[0]), ip_address(words[1]) if words[1:] else None
        except (ValueError, IndexError):
            continue
        if via is None or via.version == network.version:
            yield network, via
