"""What OVN says, seen from one node: its services, its gateway router, a workload's port."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address

from controller.translate.families import IPInterface, interfaces
from controller.translate.index import Index, address_words, ipv4_interfaces
from controller.translate.ovn import (
    LoadBalancer,
    LogicalRouter,
    LogicalSwitch,
    LogicalSwitchPort,
    NbSnapshot,
    Problem,
    SbSnapshot,
)
from controller.translate.vips import Vip, is_marked, policy_of, problems_of, vips
from dataplane.model.addr import L4Addr, Mac
from dataplane.model.names import FAST_PATH_KEY, SERVICE_ADDRESS6_KEY, SERVICE_ADDRESS_KEY
from dataplane.model.service import Backend, Place, ServedBy, Service
from dataplane.model.state import Gateway, LogicalPort


def services(
    nb: NbSnapshot,
    sb: SbSnapshot,
    chassis: str,
    node_addresses: Collection[IPv4Address] = (),
    index: Index | None = None,
) -> tuple[Service, ...]:
    """Every VIP of OVN that can be named, sorted, with the path that serves it and why.

    `node_addresses`: addresses of this node's own links, backends there are in the host's network.
    A VIP that two load balancers claim is listed for each; at most one of them has XDP.
    """
    index = index or Index(nb, sb)
    hosts = index.hosts | frozenset(node_addresses)
    served: dict[L4Addr, str] = {}
    found: list[Service] = []
    for ref, balancer in sorted(
        nb.load_balancers.items(), key=lambda item: (item[1].name, item[0])
    ):
        for vip in vips(balancer):
            backends = tuple(_backend(index, chassis, hosts, target) for target in vip.targets)
            service = _service(balancer, vip, index.attached_to.get(ref, ()), backends)
            if service.served_by is ServedBy.XDP:
                first = served.get(vip.address)
                if first is None:
                    served[vip.address] = balancer.name
                else:
                    service = replace(
                        service,
                        served_by=ServedBy.NOBODY,
                        reason=f"load balancer {first} has the same VIP and is served by XDP",
                    )
            found.append(service)
    return tuple(sorted(found, key=lambda service: (service.vip, service.name, service.reason)))


def _backend(index: Index, chassis: str, hosts: frozenset[IPv4Address], target: L4Addr) -> Backend:
    """Place one backend: an address of a logical port before an address of a host."""
    ports = index.owners.get(str(target.address), [])
    # Two switches may hold the same address; the port that is bound somewhere is the live one.
    bound = [port for port in ports if index.chassis_of(port.name)]
    for port in (*bound, *ports):
        where = index.chassis_of(port.name)
        if where is None:
            return Backend(target, Place.UNKNOWN, port.name)
        return Backend(target, Place.LOCAL if where == chassis else Place.REMOTE, port.name)
    return Backend(target, Place.HOST if target.address in hosts else Place.UNKNOWN, None)


def _service(
    balancer: LoadBalancer, vip: Vip, attached: tuple[str, ...], backends: tuple[Backend, ...]
) -> Service:
    served_by, reason = _verdict(balancer, vip, attached, backends)
    return Service(
        name=balancer.name,
        vip=vip.address,
        backends=backends,
        policy=policy_of(balancer),
        served_by=served_by,
        reason=reason,
    )


def _verdict(
    balancer: LoadBalancer, vip: Vip, attached: tuple[str, ...], backends: tuple[Backend, ...]
) -> tuple[ServedBy, str]:
    where = ", ".join(attached)
    cost = f"attached to {where}, which costs conntrack on every IP packet there"
    if not is_marked(balancer):
        if attached:
            return ServedBy.OVN, f"served by OVN, because {cost}"
        return (
            ServedBy.NOBODY,
            f"not marked for the fast path and attached to nothing: set "
            f"external_ids:{FAST_PATH_KEY}=true, or attach it to a switch or router",
        )
    hosts = [backend for backend in backends if backend.place is Place.HOST]
    if backends and len(hosts) == len(backends):
        if attached:
            return (
                ServedBy.OVN,
                f"all backends are in hosts' networks; served by OVN, because {cost}",
            )
        return ServedBy.NOBODY, "all backends are in hosts' networks, which XDP does not serve yet"
    words = ["served by XDP, because marked for the fast path"]
    if attached:
        words.append(f"warning: also {cost}; detach it")
    if hosts:
        words.append(
            f"{len(hosts)} of {len(backends)} backends left out: in a host's network, "
            f"which XDP does not serve yet"
        )
    if vip.ignored:
        words.append(f"{vip.ignored} of its backends left out: not IPv4 address:port")
    if not backends:
        words.append("no backends: packets to it are dropped")
    words += [
        f"{key}={balancer.options[key]} is not kept by XDP"
        for key in ("affinity_timeout",)
        if balancer.options.get(key, "0") != "0"
    ]
    return ServedBy.XDP, "; ".join(words)


def problems(nb: NbSnapshot, chassis: str | None = None) -> tuple[Problem, ...]:
    """What an operator has to mend in the northbound database, sorted.

    With `chassis`, also what keeps that chassis's gateway router from being used.
    """
    found = [p for balancer in nb.load_balancers.values() for p in problems_of(balancer)]
    if chassis is not None:
        found += _gateway_problems(Index(nb, SbSnapshot()), chassis)
    return tuple(sorted(found))


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
    addresses, gateways = [], []
    for text in texts:
        try:
            address = IPv4Address(text.partition("/")[0])
        except ValueError:  # IPv6 comes later
            continue
        interface, via = _on_link(index, switch, address)
        addresses.append(interface)
        gateways.append(via)
    return LogicalPort(
        name=name,
        mac=mac,
        addresses=tuple(addresses),
        gateway=gateways[0] if gateways else None,
        mtu=_mtu(index, switch, port),
        chassis=index.chassis_of(name),
        up=port.up,
    )


def _first_address(port: LogicalSwitchPort) -> tuple[Mac | None, list[str]]:
    for words in address_words(port):
        try:
            return Mac(words[0]), words[1:]
        except ValueError:  # northd warns of it in its own log
            continue
    return None, []


def _on_link(
    index: Index, switch: LogicalSwitch | None, address: IPv4Address
) -> tuple[IPv4Interface, IPv4Address | None]:
    if switch is not None:
        for peer in index.router_ports_on(switch):
            for interface in ipv4_interfaces(peer.networks):
                if address in interface.network and address != interface.ip:
                    return (
                        IPv4Interface((address, interface.network.prefixlen)),
                        interface.ip,
                    )
        try:
            subnet = IPv4Network(switch.other_config["subnet"])
        except (KeyError, ValueError):
            pass
        else:
            if address in subnet:
                return IPv4Interface((address, subnet.prefixlen)), None
    return IPv4Interface((address, 32)), None


def _mtu(index: Index, switch: LogicalSwitch | None, port: LogicalSwitchPort) -> int | None:
    """The MTU that OVN would tell the workload: its DHCP option's, else the switch's."""
    dhcp = index.nb.dhcp_options.get(port.dhcpv4_options or "")
    for text in (
        dhcp.options.get("mtu") if dhcp else None,
        switch.other_config.get("mtu") if switch else None,
    ):
        # RFC 791: every host takes 68; a bigger IPv4 packet than 65535 does not exist.
        if text and text.isascii() and text.isdigit() and 68 <= int(text) <= 65535:
            return int(text)
    return None
