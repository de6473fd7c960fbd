"""EIPs and what is made of them: NAT rows of a VPC's router, and load balancers for single ports.

A rule is about an external address (its OvnEip), a router (its Vpc, or that of what is inside) and
what is inside. An address that a FIP has is nobody else's; of one address SNAT rules may be many,
and DNAT rules as long as their ports differ. The older rule has it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import NoReturn

from controller.kinds.addresses import VIPS
from controller.kinds.nat import DNATS, EIPS, FIPS, SNATS, Eip, EipType, Rule, Use
from controller.kinds.subnet import SUBNETS
from controller.kinds.vpc import VPCS
from controller.network.backends import spelt
from controller.network.external import GIVEN, externals_of, mac_for, networks_of, vpc_of
from controller.network.externalgw import external_subnet
from controller.network.facts import LEASES
from controller.network.giving import Given
from controller.network.rows import Row, RowKey, Value, pairs
from controller.network.settings import DEFAULT_VPC
from controller.network.units import ObjectRef, Said, Unit, Wanted
from controller.network.view import Derived, Kind, View
from controller.translate.ovn import Problem
from controller.translate.vips import PROTOCOLS, port_number
from dataplane.model.addr import IPAddress, IPNetwork

KINDS: Mapping[Use, Kind[Rule]] = {Use.FIP: FIPS, Use.SNAT: SNATS, Use.DNAT: DNATS}
TITLES = {Use.FIP: "OvnFip", Use.SNAT: "OvnSnatRule", Use.DNAT: "OvnDnatRule"}


class Refused(Exception):
    """What keeps a rule from being."""

    def __init__(self, cause: str, next_step: str) -> None:
        super().__init__(cause)
        self.cause, self.next_step = cause, next_step


def refuse(cause: str, next_step: str) -> NoReturn:
    """Raise what keeps a rule from being.

    Raises:
        Refused: always.
    """
    raise Refused(cause, next_step)


# -- addresses ------------------------------------------------------------------------------------


def _of_eip(view: View, name: Hashable) -> Given:
    eip = view.get(EIPS, name)
    if eip is None:
        return Given()
    subnet = eip.subnet or external_subnet(view)
    return view.ask(GIVEN, subnet).get(("OvnEip", eip.name), Given()) if subnet else Given()


ADDRESS: Derived[Given] = Derived("an OvnEip's addresses", _of_eip)


def _holders(view: View, name: Hashable) -> Mapping[tuple[Use, str], str]:
    """The rules of one OvnEip: "" for those that may have it, else who keeps them from it."""
    rules = [
        rule
        for kind in KINDS.values()
        for key in view.by(kind, "eip", name)
        if (rule := view.get(kind, key)) is not None
    ]
    found: dict[tuple[Use, str], str] = {}
    whole, anybody = "", ""
    ports: dict[tuple[str, str], str] = {}
    for rule in sorted(rules, key=lambda one: (one.created, one.use, one.name)):
        title = f"{TITLES[rule.use]} {rule.name}"
        against = whole or (anybody if rule.use is Use.FIP else "")
        if rule.use is Use.DNAT:
            against = against or ports.get((rule.protocol, rule.outer), "")
        found[rule.use, rule.name] = against
        if against:
            continue
        anybody = title
        if rule.use is Use.FIP:
            whole = title
        elif rule.use is Use.DNAT:
            ports[rule.protocol, rule.outer] = title
    return found


HOLDERS: Derived[Mapping[tuple[Use, str], str]] = Derived("an OvnEip's rules", _holders)


def eip_said(view: View, key: Hashable) -> Said:
    """What an OvnEip's status says."""
    eip = view.get(EIPS, key)
    if eip is None:
        return Said()
    ref = ObjectRef("ovn-eips.kubeovn.io", "", eip.name)
    given = view.ask(ADDRESS, key)
    problems = [Problem(f"OvnEip {eip.name}", f.cause, f.next_step) for f in given.faults]
    subnet = eip.subnet or external_subnet(view)
    if not subnet:
        step = "name one in externalSubnet, or as external_subnet in the configuration"
        problems.append(Problem(f"OvnEip {eip.name}", "it names no external Subnet", step))
    elif view.get(SUBNETS, subnet) is None:
        cause = f"there is no Subnet {subnet}"
        problems.append(Problem(f"OvnEip {eip.name}", cause, "make it, or correct externalSubnet"))
    if eip.type is EipType.LSP:
        cause = "type lsp: nodes have no ports of their own there, so nobody has its address"
        step = "delete it: gateway nodes stand in for each other without"
        problems.append(Problem(f"OvnEip {eip.name}", cause, step))
    uses = sorted({use for (use, _), against in view.ask(HOLDERS, key).items() if not against})
    ready = bool(given.addresses) and not given.faults
    mac = mac_for(given, eip.mac)
    status = {
        "v4Ip": _text(given.addresses.get(4)),
        "v6Ip": _text(given.addresses.get(6)),
        "macAddress": str(mac) if mac else "",
        "type": str(eip.type),
        "nat": ",".join(uses),
        "ready": ready,
    }
    return Said({}, {ref: Wanted(status=status)}, {ref: tuple(problems)} if problems else {})


def _text(address: IPAddress | None) -> str:
    return "" if address is None else str(address)


# -- rules ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ends:
    """The two sides of a rule: a router, addresses outside, addresses or networks inside."""

    eip: Eip
    vpc: str
    outside: Given
    inside: tuple[IPAddress | IPNetwork, ...]
    port: str = ""

    def pairs(self) -> list[tuple[IPAddress, IPAddress | IPNetwork]]:
        """Outside and inside, by family."""
        return [
            (self.outside.addresses[one.version], one)
            for one in self.inside
            if one.version in self.outside.addresses
        ]


def _said(use: Use) -> Unit:
    kind, title = KINDS[use], TITLES[use]

    def compute(view: View, key: Hashable) -> Said:
        rule = view.get(kind, key)
        if rule is None:
            return Said()
        ref = ObjectRef(f"{kind.name}.kubeovn.io", "", rule.name)
        try:
            ends = _ends(view, rule)
            rows = {Use.FIP: _fip, Use.SNAT: _snat, Use.DNAT: _dnat}[use](rule, ends)
        except Refused as refused:
            problem = Problem(f"{title} {rule.name}", refused.cause, refused.next_step)
            return Said({}, {ref: Wanted(status={"ready": False})}, {ref: (problem,)})
        return Said(rows, {ref: Wanted(status=_status(rule, ends))})

    return Unit(kind.name, kind, compute)


def _ends(view: View, rule: Rule) -> Ends:
    """Both sides of a rule.

    Raises:
        Refused: one of them is not to be had.
    """
    eip = view.get(EIPS, rule.eip)
    if eip is None:
        refuse(f"ovnEip: there is no OvnEip {rule.eip!r}", "make it, or correct ovnEip")
    if eip.type is not EipType.NAT:
        cause = f"OvnEip {eip.name} is of the type {eip.type}, which rules cannot have"
        refuse(cause, "name one of the type nat")
    against = view.ask(HOLDERS, rule.eip).get((rule.use, rule.name), "")
    if against:
        refuse(f"OvnEip {eip.name} is {against}'s", "take another OvnEip, or another port of it")
    outside = view.ask(ADDRESS, rule.eip)
    if not outside.addresses:
        refuse(f"OvnEip {eip.name} has no address", "see its own status")
    vpc, inside, port = _inside(view, rule)
    found = view.get(VPCS, vpc)
    if found is None:
        refuse(f"there is no Vpc {vpc}", "make it, or correct vpc")
    subnet = eip.subnet or external_subnet(view)
    if subnet not in externals_of(view, found):
        refuse(
            f"Vpc {vpc} has no port on {subnet}, where OvnEip {eip.name} is from",
            f"set its enableExternal, and name {subnet} in its extraExternalSubnets",
        )
    ends = Ends(eip, vpc, outside, inside, port)
    if not ends.pairs():
        refuse(
            f"OvnEip {eip.name} and what is inside have no family in common",
            "take an OvnEip of a Subnet of the other family",
        )
    return ends


def _ends_or_none(view: View, key: tuple[Use, str]) -> Ends | None:
    use, name = key
    rule = view.get(KINDS[use], name)
    try:
        return None if rule is None else _ends(view, rule)
    except Refused:
        return None


ENDS: Derived[Ends | None] = Derived("both sides of a rule", _ends_or_none)
"""Keys are (use, name); None: it is refused."""


def _inside(view: View, rule: Rule) -> tuple[str, tuple[IPAddress | IPNetwork, ...], str]:
    """The VPC, what is inside, and its port if it is one's."""
    if rule.inside:
        found = tuple(address_or_network(text, rule.use) for text in rule.inside)
        return rule.vpc or DEFAULT_VPC, found, ""
    if rule.subnet:
        subnet = view.get(SUBNETS, rule.subnet)
        if subnet is None:
            cause = f"vpcSubnet: there is no Subnet {rule.subnet!r}"
            refuse(cause, "make it, or correct vpcSubnet")
        return subnet.vpc or DEFAULT_VPC, networks_of(subnet), ""
    if not rule.ip_name:
        refuse("it names nothing inside", "give ipName, or vpc and an address")
    if rule.to_vip:
        vip = view.get(VIPS, rule.ip_name)
        if vip is None:
            refuse(f"there is no Vip {rule.ip_name}", "make it, or correct ipName")
        texts = vip.held or vip.addresses
        if not texts:
            refuse(f"Vip {vip.name} has no address yet", "see its own status")
        addresses = tuple(address_or_network(text, rule.use) for text in texts)
        return vpc_of(view, vip.subnet), addresses, ""
    lease = view.get(LEASES, rule.ip_name)
    if lease is None:
        refuse(
            f"no workload has a port {rule.ip_name!r} yet",
            "write POD.NAMESPACE in ipName, or name vpc and an address instead",
        )
    return vpc_of(view, lease.subnet), lease.addresses, lease.port


def address_or_network(text: str, use: Use) -> IPAddress | IPNetwork:
    """What a text names; SNAT may have networks.

    Raises:
        Refused: nothing.
    """
    try:
        if "/" not in text:
            return ip_address(text)
        if use is Use.SNAT:
            return ip_network(text, strict=False)
    except ValueError:
        pass
    refuse(f"{text!r} is no address", "write it as 192.168.0.2")


def nat_row(
    name: str, vpc: str, kind: str, outside: IPAddress, inside: object, **more: str
) -> tuple[RowKey, Row]:
    """A row of NAT on a VPC's router."""
    columns: dict[str, str | frozenset[str]] = {
        "type": kind,
        "external_ip": str(outside),
        "logical_ip": str(inside),
        # An optional column: empty where nobody says it.
        **{column: frozenset({value} if value else ()) for column, value in more.items()},
    }
    return RowKey("NAT", name), Row(columns, parent=(RowKey("Logical_Router", vpc), "nat"))


def _fip(rule: Rule, ends: Ends) -> dict[RowKey, Row]:
    mac = mac_for(ends.outside, ends.eip.mac)
    if rule.distributed and not ends.port:
        refuse(
            "type distributed needs a port of a workload, whose node it leaves by",
            "give ipName, or set type to centralized",
        )
    port, address = (ends.port, str(mac)) if rule.distributed else ("", "")
    rows = {}
    for outside, inside in ends.pairs():
        key, row = nat_row(
            f"fip/{rule.name}/{outside.version}", ends.vpc, "dnat_and_snat", outside, inside,
            logical_port=port, external_mac=address,
        )  # fmt: skip
        rows[key] = row
    return rows


def _snat(rule: Rule, ends: Ends) -> dict[RowKey, Row]:
    return dict(
        nat_row(f"snat/{rule.name}/{outside.version}", ends.vpc, "snat", outside, inside)
        for outside, inside in ends.pairs()
    )


def _dnat(rule: Rule, ends: Ends) -> dict[RowKey, Row]:
    outer, inner = port_number(rule.outer), port_number(rule.inner)
    if outer is None or inner is None:
        field, text = ("internalPort", rule.inner) if outer else ("externalPort", rule.outer)
        refuse(f"{field}: {text!r} is no port", "write a number from 1 to 65535")
    if rule.protocol not in PROTOCOLS:
        refuse(f"protocol: {rule.protocol!r} is none", "write tcp, udp or sctp")
    vips = {
        spelt(outside, outer): spelt(inside, inner)
        for outside, inside in ends.pairs()
        if isinstance(inside, IPAddress)
    }
    columns: dict[str, Value] = {
        "name": f"dnat/{rule.name}", "protocol": rule.protocol, "vips": pairs(vips),
    }  # fmt: skip
    row = Row(columns, parent=(RowKey("Logical_Router", ends.vpc), "load_balancer"))
    return {RowKey("Load_Balancer", f"dnat/{rule.name}"): row}


def _status(rule: Rule, ends: Ends) -> dict[str, object]:
    inside: dict[int, str] = {one.version: str(one) for _, one in ends.pairs()}
    outside = {one.version: str(one) for one, _ in ends.pairs()}
    v4, v6 = ("v4IpCidr", "v6IpCidr") if rule.use is Use.SNAT else ("v4Ip", "v6Ip")
    status: dict[str, object] = {
        "ready": True,
        "vpc": ends.vpc,
        "v4Eip": outside.get(4, ""),
        "v6Eip": outside.get(6, ""),
        v4: inside.get(4, ""),
        v6: inside.get(6, ""),
    }
    if rule.use is Use.DNAT:
        status |= {
            "protocol": rule.protocol, "externalPort": rule.outer, "internalPort": rule.inner,
            "ipName": rule.ip_name,
        }  # fmt: skip
    return status


UNITS: tuple[Unit, ...] = (
    Unit("ovn-eips", EIPS, eip_said),
    *(_said(use) for use in Use),
)
