"""External networks: the routers' ports on them, who gets which of their addresses, gateways.

A Vpc with `enableExternal` has a port on the external Subnet and on each of its
`extraExternalSubnets`, bound to the gateway nodes (`controller.network.externalgw`). The first of
them that answers (BFD between chassis, which ovn-controller does by itself for a group of several)
has the port; each VPC has its own order of them, so that ports of many VPCs are spread. One VPC's
are together: OVN 23.03 balances (OvnDnatRule) where its first port is, whichever it came in by.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from ipaddress import ip_address, ip_network

from controller.ipam.subnet import given_of
from controller.kinds.externalgw import ExternalGateway
from controller.kinds.nat import EIPS, HELD_DOMAIN, VPC_PORTS, EipType
from controller.kinds.subnet import SUBNETS, Subnet, is_logical
from controller.kinds.vpc import VPCS, Vpc
from controller.network.externalgw import (
    GATEWAY_LABEL,
    external_gateway,
    external_subnet,
    live_gateways,
)
from controller.network.facts import LEASES
from controller.network.giving import Claim, Given, Ranges, give
from controller.network.nets import NETS, Net, asked_by
from controller.network.rows import Row, RowKey, pairs
from controller.network.servicefacts import SERVICES
from controller.network.settings import DEFAULT_VPC
from controller.network.standins import ends
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import Derived, View
from controller.translate.ovn import Problem
from controller.translate.vips import Fault
from dataplane.model.addr import IPAddress, IPNetwork, Mac, mac_of_address, readable

MAX_PRIORITY = 100
"""Of the first gateway node; the others' go down by one."""


@dataclass(frozen=True, slots=True)
class ExternalNetwork:
    """What is used of an external Subnet: its networks and gateways' addresses, IPv4 first."""

    name: str
    networks: tuple[IPNetwork, ...]

    def interface(self, address: IPAddress) -> str:
        """The address with its network's length."""
        network = next(n for n in self.networks if n.version == address.version)
        return f"{address}/{network.prefixlen}"


def vpc_of(view: View, name: str) -> str:
    """The VPC of a Subnet; the default one if nothing else is said."""
    subnet = view.get(SUBNETS, name)
    return (subnet.vpc if subnet is not None else "") or DEFAULT_VPC


def networks_of(subnet: Subnet) -> tuple[IPNetwork, ...]:
    """The networks of a Subnet, those that are some."""
    found: list[IPNetwork] = []
    for text in subnet.cidr.split(","):
        try:
            found.append(ip_network(text.strip(), strict=False))
        except ValueError:
            continue
    return tuple(sorted(found, key=lambda network: network.version))


def _net(view: View, name: Hashable) -> Net | None:
    """What is in force of a Subnet, or what it asks for where nobody has decided yet."""
    subnet = view.get(SUBNETS, name)
    if subnet is None:
        return None
    net = view.get(NETS, name) or asked_by(subnet, DEFAULT_VPC)
    return net if net.usable else None


def _network(view: View, name: Hashable) -> ExternalNetwork | None:
    net = _net(view, name)
    return None if net is None else ExternalNetwork(net.name, net.networks)


NETWORK: Derived[ExternalNetwork | None] = Derived("an external network", _network)


def _ranges(view: View, name: Hashable) -> Ranges:
    """The addresses of a Subnet that may be given: without its ends, gateways and exclusions."""
    net = _net(view, name)
    networks = () if net is None else net.networks
    return {one.version: given_of(net.space, one, ()) for one in networks if net is not None}


RANGES: Derived[Ranges] = Derived("addresses of an external network", _ranges)


def externals_of(view: View, vpc: Vpc) -> tuple[str, ...]:
    """The Subnets that a Vpc has ports on."""
    asked = vpc.name == DEFAULT_VPC and external_gateway(view) is not None
    if not (vpc.enable_external or asked):
        return ()
    first = external_subnet(view)
    return tuple(dict.fromkeys(name for name in (first, *vpc.external_subnets) if name))


def port_name(vpc: str, subnet: str) -> str:
    """A Vpc's port on a Subnet, and the OvnEip that may say its address."""
    return f"{vpc}-{subnet}"


def _eip_claims(view: View, subnet: str) -> Iterator[Claim]:
    names = [*view.by(EIPS, "subnet", subnet)]
    if subnet == external_subnet(view):
        names += view.by(EIPS, "subnet", "")
    versions = _versions(view, subnet)
    for name in names:
        eip = view.get(EIPS, name)
        if eip is not None:
            yield Claim(
                ("OvnEip", name), (eip.created, name), versions, readable(eip.wished),
                readable(eip.held),
            )  # fmt: skip


def _versions(view: View, subnet: str) -> tuple[int, ...]:
    network = view.ask(NETWORK, subnet)
    return () if network is None else tuple(one.version for one in network.networks)


def _port_claims(view: View, subnet: str) -> Iterator[Claim]:
    for name in view.all(VPCS):
        vpc = view.get(VPCS, name)
        if vpc is None or subnet not in externals_of(view, vpc):
            continue
        eip = view.get(EIPS, port_name(name, subnet))
        if eip is not None and eip.type is EipType.LRP:
            continue  # whose address it is
        ports = view.get(VPC_PORTS, name)
        created, held = ("", ()) if ports is None else (ports.created, dict(ports.held))
        mine = readable(dict(held).get(subnet, ()))
        said = _said_of_port(view, name, subnet)
        wished = readable(said.addresses) if said is not None else ()
        yield Claim(("Vpc", name), (created, name), _versions(view, subnet), wished, mine)


def _said_of_port(view: View, vpc: str, subnet: str) -> ExternalGateway | None:
    """The ConfigMap, if it tells of this port."""
    theirs = vpc == DEFAULT_VPC and subnet == external_subnet(view)
    return external_gateway(view) if theirs else None


def _service_claims(view: View, subnet: str) -> Iterator[Claim]:
    for key in view.by(SERVICES, "subnet", subnet):
        service = view.get(SERVICES, key)
        if service is None or service.type != "LoadBalancer":
            continue
        families = tuple(dict.fromkeys(a.version for a in readable(service.cluster_ips)))
        wished = readable((service.load_balancer_ip,))
        yield Claim(
            ("service", str(key)), (service.created, *key), families, wished,
            readable(service.ingress),
        )  # fmt: skip


def meeting(subnet: Subnet) -> bool:
    """Whether its VPC's router has an address on its wire that is not the wire's gateway."""
    on_wire = bool(subnet.vlan) and is_logical(subnet.provider)
    return subnet.u2o and on_wire and not subnet.logical_gateway


def _inner_claims(view: View, name: str) -> Iterator[Claim]:
    subnet = view.get(SUBNETS, name)
    if subnet is not None and meeting(subnet):
        who, wished = ("interconnection", name), readable(_words(subnet.u2o_address))
        yield Claim(who, ("",), _versions(view, name), wished, readable(_words(subnet.u2o_held)))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def inner(view: View, net: Net) -> Net:
    """The same with the gateways that workloads have: the VPC's router, where it meets a wire."""
    subnet = view.get(SUBNETS, net.name)
    if subnet is None or not meeting(subnet):
        return net
    given = view.ask(GIVEN, net.name).get(("interconnection", net.name), Given()).addresses
    gateways = tuple(given.get(one.version, one) for one in net.gateways)
    return replace(net, gateways=gateways)


def _given(view: View, subnet: Hashable) -> Mapping[Hashable, Given]:
    name = str(subnet)
    claims = [*_eip_claims(view, name), *_port_claims(view, name), *_service_claims(view, name)]
    claims += _inner_claims(view, name)
    if not claims:
        return {}
    left: list[Claim] = []
    if ends(view, name):
        # Whoever got one now would keep it from ever going.
        left = [claim for claim in claims if not claim.held]
        claims = [claim for claim in claims if claim.held]
    leases = (view.get(LEASES, key) for key in view.by(LEASES, "subnet", name))
    taken = [address for lease in leases if lease is not None for address in lease.addresses]
    fault = Fault(f"Subnet {name} is being deleted", "name another, or wait until it is gone")
    nothing = {claim.who: Given(faults=(fault,)) for claim in left}
    return {**give(view.ask(RANGES, name), claims, taken), **nothing}


GIVEN: Derived[Mapping[Hashable, Given]] = Derived("who has which external address", _given)
"""Keys are Subnets' names; in it, ("OvnEip", name), ("Vpc", name), ("service", key)."""


# -- routers' ports -------------------------------------------------------------------------------


def vpc_external(view: View, key: Hashable) -> Said:
    """A Vpc's ports on external networks."""
    vpc = view.get(VPCS, key)
    if vpc is None:
        return Said()
    ref = ObjectRef("vpcs.kubeovn.io", "", vpc.name)
    rows: dict[RowKey, Row] = {}
    problems: list[Problem] = []
    ports = view.get(VPC_PORTS, key)
    annotations: dict[str, str | None] = {
        f"{HELD_DOMAIN}/{subnet}": None for subnet, _ in (ports.held if ports else ())
    }

    def say(cause: str, step: str) -> None:
        problems.append(Problem(f"Vpc {vpc.name}", cause, step))

    if vpc.enable_external and not externals_of(view, vpc):
        say(
            "enableExternal: there is no external Subnet to be on",
            "name one in extraExternalSubnets, or as external_subnet in the configuration",
        )
    for subnet in externals_of(view, vpc):
        network = view.ask(NETWORK, subnet)
        if network is None or not network.networks:
            cause = f"the external Subnet {subnet} is not there, or has no network"
            say(cause, "make it, or see its status")
            continue
        given = port_addresses(view, vpc.name, subnet)
        for fault in given.faults:
            say(f"its port on {subnet}: {fault.cause}", fault.next_step)
        if not given.addresses:
            continue
        eip = view.get(EIPS, port_name(vpc.name, subnet))
        if eip is None:
            texts = ",".join(str(given.addresses[v]) for v in sorted(given.addresses))
            annotations[f"{HELD_DOMAIN}/{subnet}"] = texts
        nodes = live_gateways(view)
        if not nodes:
            say(
                f"no node is a gateway to {subnet}, so nothing passes its port there",
                f"label some: kubectl label node NAME {'='.join(GATEWAY_LABEL)}",
            )
        said = _said_of_port(view, vpc.name, subnet)
        mac = mac_for(given, eip.mac if eip else said.mac if said else "")
        rows |= _port_rows(vpc.name, network, given, mac, nodes)
    writes = {ref: Wanted(annotations=annotations)} if annotations and not vpc.made else {}
    return Said(rows, writes, {ref: tuple(problems)} if problems else {})


def port_addresses(view: View, vpc: str, subnet: str) -> Given:
    """The addresses of a Vpc's port on a Subnet: its OvnEip's, if there is one, else its own."""
    given = view.ask(GIVEN, subnet)
    eip = view.get(EIPS, port_name(vpc, subnet))
    if eip is not None and eip.type is EipType.LRP:
        return given.get(("OvnEip", eip.name), Given())
    return given.get(("Vpc", vpc), Given())


def mac_for(given: Given, wanted: str = "") -> Mac | None:
    """The MAC that is wished for; else one that the address says, the same on every start."""
    try:
        if wanted:
            return Mac(wanted)
    except ValueError:
        pass
    if 4 in given.addresses:
        return mac_of_address(ip_address(str(given.addresses[4])))  # type: ignore[arg-type]
    if 6 not in given.addresses:
        return None
    octets = blake2b(given.addresses[6].packed, digest_size=5).digest()
    return Mac(":".join(f"{octet:02x}" for octet in b"\x0a" + octets))


def _port_rows(
    vpc: str, network: ExternalNetwork, given: Given, mac: Mac | None, nodes: tuple[str, ...]
) -> dict[RowKey, Row]:
    name = port_name(vpc, network.name)
    port, group = RowKey("Logical_Router_Port", name), RowKey("HA_Chassis_Group", f"mrk-{name}")
    side = RowKey("Logical_Switch_Port", f"{network.name}-{vpc}")
    addresses = [given.addresses[version] for version in sorted(given.addresses)]
    rows = {
        port: Row(
            {
                "name": name,
                "mac": str(mac),
                "networks": frozenset(network.interface(address) for address in addresses),
            },
            {"ha_chassis_group": frozenset({group} if nodes else ())},
            (RowKey("Logical_Router", vpc), "ports"),
        ),
        side: Row(
            {
                "name": side.name,
                "type": "router",
                "addresses": frozenset({"router"}),
                # Gratuitous ARP for the addresses of NAT, by the gateway that has the port.
                "options": pairs({"router-port": name, "nat-addresses": "router"}),
            },
            parent=(RowKey("Logical_Switch", network.name), "ports"),
        ),
    }
    if nodes:
        rows[group] = Row({"name": group.name})
    for place, node in enumerate(_in_turn(vpc, nodes)):
        rows[RowKey("HA_Chassis", f"{name}/{node}")] = Row(
            {"chassis_name": node, "priority": MAX_PRIORITY - place},
            parent=(group, "ha_chassis"),
        )
    return rows


def _in_turn(vpc: str, nodes: tuple[str, ...]) -> list[str]:
    """Each VPC begins at another node; one that comes or goes moves only the ports that it has."""
    return sorted(
        nodes[:MAX_PRIORITY],
        key=lambda node: blake2b(f"{vpc}\0{node}".encode(), digest_size=8).digest(),
    )


UNITS: tuple[Unit, ...] = (Unit("external ports", VPCS, vpc_external),)
